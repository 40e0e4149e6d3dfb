/* Many requests of many threads are in flight at once, and every sector is its last writer's. */
#include "lab.h"

#define THREADS 6
#define DEPTH 8
#define ROUNDS 40
#define SECTORS (24 * BLOCK / 512)

static archipelago_volume *volume;

/* A thread owns every THREADSth sector, so that granules are shared. */
static void *work(void *opaque)
{
    unsigned me = (unsigned)(uintptr_t)opaque, round, at;
    static unsigned last[THREADS][SECTORS];
    static char data[THREADS][DEPTH][512];
    Wait waits[DEPTH];
    struct iovec iov;

    for (round = 0; round < ROUNDS; round++) {
        for (at = 0; at < DEPTH; at++) {
            unsigned slot = (round * 7919 + at * 104729) % (SECTORS / THREADS) * THREADS + me;
            unsigned seed = 1 + me + THREADS * (round * DEPTH + at);
            uint32_t flags = round % 16 == 0 ? ARCHIPELAGO_WRITE_FUA : 0;

            lab_pattern(data[me][at], 512, (uint64_t)slot * 512, seed);
            last[me][slot] = seed;
            iov.iov_base = data[me][at];
            iov.iov_len = 512;
            lab_prepare(&waits[at]);
            archipelago_write_submit(volume, (uint64_t)slot * 512, &iov, 1, flags, lab_done, &waits[at]);
        }
        for (at = 0; at < DEPTH; at++) {
            SAME(lab_wait(&waits[at]), 0);
        }
        if (round % 10 == me) {
            SAME(lab_flush(volume), 0);
        }
    }
    for (at = me; at < SECTORS; at += THREADS) {
        CHECK(lab_holds(volume, (uint64_t)at * 512, 512, last[me][at]));
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    char name[16];
    unsigned at;

    volume = lab_new("v", 24 * BLOCK);
    for (at = 0; at < THREADS; at++) {
        CHECK(pthread_create(&threads[at], NULL, work, (void *)(uintptr_t)at) == 0);
    }
    /* Snapshots while they write: blocks become shared under them. */
    for (at = 0; at < 5; at++) {
        snprintf(name, sizeof name, "s%u", at);
        SAME(archipelago_snapshot_create(volume, name, ERROR), 0);
        usleep(20000);
    }
    for (at = 0; at < THREADS; at++) {
        CHECK(pthread_join(threads[at], NULL) == 0);
    }
    archipelago_close(volume);
    return 0;
}
