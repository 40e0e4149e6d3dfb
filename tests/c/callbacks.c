/* One callback per request, on a thread of the library that takes no signals, none after close. */
#include "lab.h"

#define COUNT 2000

static archipelago_volume *volume;
static pthread_t submitter;
static int calls[COUNT], closed, chained;
/* Memory belongs to one request at a time. */
static char buffers[COUNT + 1][4096];

static void count(void *opaque, int result)
{
    char name[16];
    sigset_t blocked;

    CHECK(!__atomic_load_n(&closed, __ATOMIC_SEQ_CST));
    CHECK(result == 0);
    CHECK(!pthread_equal(pthread_self(), submitter));
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0);
    CHECK(sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1) && sigismember(&blocked, SIGCHLD));
    CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0);
    CHECK(strncmp(name, "arch-", 5) == 0);
    __atomic_add_fetch((int *)opaque, 1, __ATOMIC_SEQ_CST);
}

/* No lock is held: a callback may use the volume. */
static void chain(void *opaque, int result)
{
    struct iovec iov = { buffers[COUNT], sizeof buffers[COUNT] };
    Wait *wait = opaque;

    CHECK(result == 0);
    CHECK(archipelago_size(volume) == 64 * BLOCK);
    CHECK(archipelago_try_read(volume, 63 * BLOCK, &iov, 1, 0) != -EINVAL);
    if (++chained == 200) {
        lab_done(wait, 0);
    } else if (chained % 4 == 0) {
        archipelago_flush_submit(volume, 0, chain, wait);
    } else if (chained % 4 == 1) {
        archipelago_write_zeroes_submit(volume, 62 * BLOCK, 512, 0, chain, wait);
    } else if (chained % 4 == 2) {
        archipelago_read_submit(volume, 63 * BLOCK, &iov, 1, 0, chain, wait);
    } else {
        archipelago_write_submit(volume, 63 * BLOCK, &iov, 1, chained % 8 == 3, chain, wait);
    }
}

static void submit(int number)
{
    uint64_t offset = (uint64_t)(number % 60) * BLOCK + (uint64_t)(number % 16) * 4096;
    struct iovec iov = { buffers[number], sizeof buffers[number] };
    int *call = &calls[number];

    switch (number % 6) {
    case 0:
        archipelago_flush_submit(volume, 0, count, call);
        return;
    case 1:
        archipelago_read_submit(volume, offset, &iov, 1, 0, count, call);
        return;
    case 2:
        archipelago_write_zeroes_submit(volume, offset, 9000, ARCHIPELAGO_WRITE_FUA, count, call);
        return;
    case 3:
        archipelago_discard_submit(volume, offset, BLOCK, 0, count, call);
        return;
    case 4:
        archipelago_resize_submit(volume, 64 * BLOCK, 0, count, call);
        return;
    default:
        archipelago_write_submit(volume, offset, &iov, 1, number % 5 == 0, count, call);
    }
}

int main(void)
{
    int number, round;
    Wait wait;

    submitter = pthread_self();
    for (round = 0; round < 3; round++) {
        volume = round ? lab_open("v", 0) : lab_new("v", 64 * BLOCK);
        memset(calls, 0, sizeof calls);
        __atomic_store_n(&closed, 0, __ATOMIC_SEQ_CST);
        for (number = 0; number < COUNT; number++) {
            submit(number);
        }
        archipelago_close(volume); /* with most of them in flight */
        __atomic_store_n(&closed, 1, __ATOMIC_SEQ_CST);
        for (number = 0; number < COUNT; number++) {
            SAME(calls[number], 1);
        }
    }
    usleep(50000); /* for one that is late */
    volume = lab_open("v", 0);
    lab_prepare(&wait);
    chain(&wait, 0);
    SAME(lab_wait(&wait), 0);
    archipelago_close(volume);
    return 0;
}
