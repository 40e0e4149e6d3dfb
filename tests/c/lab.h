/* What the C tests share: claims that end the program when they fail, and
 * requests that are waited for. Every program gets a store of its own from
 * the configuration that ARCHIPELAGO_CONFIG names, with blocks of 64 KiB. */
#ifndef LAB_H
#define LAB_H

#define _GNU_SOURCE 1

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "archipelago.h"

#define BLOCK 65536u
#define UNUSED __attribute__((unused)) static

#define CHECK(claim) \
    do { \
        if (!(claim)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim); \
            exit(1); \
        } \
    } while (0)

/* Both are numbers. */
#define SAME(found, wanted) \
    do { \
        long long found_ = (long long)(found), wanted_ = (long long)(wanted); \
        if (found_ != wanted_) { \
            fprintf(stderr, "%s:%d: %s is %lld instead of %lld: %s\n", __FILE__, __LINE__, #found, \
                    found_, wanted_, lab_error); \
            exit(1); \
        } \
    } while (0)

#define SAYS(part) \
    do { \
        if (!strstr(lab_error, part)) { \
            fprintf(stderr, "%s:%d: '%s' is not in: %s\n", __FILE__, __LINE__, part, lab_error); \
            exit(1); \
        } \
    } while (0)

/* The last error's words. */
static char lab_error[1024];
#define ERROR lab_error, sizeof lab_error

UNUSED int lab_try_open(const char *name, uint32_t flags, archipelago_volume **volume)
{
    char option[256];
    const char *options[] = { option, NULL };

    snprintf(option, sizeof option, "volume=%s", name);
    lab_error[0] = 0;
    *volume = NULL;
    return archipelago_open(options, flags, volume, ERROR);
}

UNUSED archipelago_volume *lab_open(const char *name, uint32_t flags)
{
    archipelago_volume *volume;

    SAME(lab_try_open(name, flags, &volume), 0);
    CHECK(volume);
    return volume;
}

/* "volume=web" and up to one option more. */
UNUSED int lab_create(const char *name, uint64_t size, const char *more)
{
    char option[256];
    const char *options[] = { option, more, NULL };

    snprintf(option, sizeof option, "volume=%s", name);
    lab_error[0] = 0;
    return archipelago_create(options, size, 0, ERROR);
}

/* A fault of the caller's, planted by scripts/check-sanitizers to see it found. */
#ifdef LAB_PLANTED
#include LAB_PLANTED
#else
#define lab_planted(volume) ((void)(volume))
#endif

UNUSED archipelago_volume *lab_new(const char *name, uint64_t size)
{
    archipelago_volume *volume;

    SAME(lab_create(name, size, NULL), 0);
    volume = lab_open(name, 0);
    lab_planted(volume);
    return volume;
}

UNUSED int lab_remove(const char *name)
{
    char option[256];
    const char *options[] = { option, NULL };

    snprintf(option, sizeof option, "volume=%s", name);
    lab_error[0] = 0;
    return archipelago_remove(options, 0, ERROR);
}

/* ---- a request that is waited for ------------------------------------- */

typedef struct Wait {
    pthread_mutex_t lock;
    pthread_cond_t done;
    int count, result;
} Wait;

UNUSED void lab_done(void *opaque, int result)
{
    Wait *wait = opaque;

    pthread_mutex_lock(&wait->lock);
    wait->count++;
    wait->result = result;
    pthread_cond_signal(&wait->done);
    pthread_mutex_unlock(&wait->lock);
}

UNUSED void lab_prepare(Wait *wait)
{
    memset(wait, 0, sizeof *wait);
    pthread_mutex_init(&wait->lock, NULL);
    pthread_cond_init(&wait->done, NULL);
}

UNUSED int lab_wait(Wait *wait)
{
    pthread_mutex_lock(&wait->lock);
    while (!wait->count) {
        pthread_cond_wait(&wait->done, &wait->lock);
    }
    CHECK(wait->count == 1);
    pthread_mutex_unlock(&wait->lock);
    return wait->result;
}

#define LAB_REQUEST(submit) \
    do { \
        Wait wait; \
        lab_prepare(&wait); \
        submit; \
        return lab_wait(&wait); \
    } while (0)

UNUSED int lab_write(archipelago_volume *v, uint64_t offset, const void *data, size_t bytes, uint32_t flags)
{
    struct iovec iov;

    iov.iov_base = (void *)(uintptr_t)data;
    iov.iov_len = bytes;
    LAB_REQUEST(archipelago_write_submit(v, offset, &iov, 1, flags, lab_done, &wait));
}

UNUSED int lab_read(archipelago_volume *v, uint64_t offset, void *data, size_t bytes)
{
    struct iovec iov;

    iov.iov_base = data;
    iov.iov_len = bytes;
    LAB_REQUEST(archipelago_read_submit(v, offset, &iov, 1, 0, lab_done, &wait));
}

UNUSED int lab_zero(archipelago_volume *v, uint64_t offset, uint64_t bytes, uint32_t flags)
{
    LAB_REQUEST(archipelago_write_zeroes_submit(v, offset, bytes, flags, lab_done, &wait));
}

UNUSED int lab_discard(archipelago_volume *v, uint64_t offset, uint64_t bytes, uint32_t flags)
{
    LAB_REQUEST(archipelago_discard_submit(v, offset, bytes, flags, lab_done, &wait));
}

UNUSED int lab_flush(archipelago_volume *v)
{
    LAB_REQUEST(archipelago_flush_submit(v, 0, lab_done, &wait));
}

UNUSED int lab_resize(archipelago_volume *v, uint64_t size, uint32_t flags)
{
    LAB_REQUEST(archipelago_resize_submit(v, size, flags, lab_done, &wait));
}

/* ---- content ----------------------------------------------------------- */

/* Bytes that depend on `seed` and on where they belong. */
UNUSED void lab_pattern(void *data, size_t bytes, uint64_t offset, unsigned seed)
{
    unsigned char *out = data;
    size_t at;

    for (at = 0; at < bytes; at++) {
        uint64_t x = (offset + at) * 0x9e3779b97f4a7c15u + seed * 0xd1342543de82ef95u;
        out[at] = (unsigned char)((x ^ (x >> 29)) >> 17);
    }
}

UNUSED int lab_put(archipelago_volume *v, uint64_t offset, size_t bytes, unsigned seed)
{
    void *data = malloc(bytes ? bytes : 1);
    int result;

    CHECK(data);
    lab_pattern(data, bytes, offset, seed);
    result = lab_write(v, offset, data, bytes, 0);
    free(data);
    return result;
}

/* Whether a range holds what lab_put() wrote; `seed` 0: zeroes. */
UNUSED int lab_holds(archipelago_volume *v, uint64_t offset, size_t bytes, unsigned seed)
{
    char *found = malloc(bytes), *wanted = calloc(1, bytes);
    int same;

    CHECK(found && wanted);
    memset(found, 0xa5, bytes);
    SAME(lab_read(v, offset, found, bytes), 0);
    if (seed) {
        lab_pattern(wanted, bytes, offset, seed);
    }
    same = memcmp(found, wanted, bytes) == 0;
    free(found);
    free(wanted);
    return same;
}

/* ---- a second process, in step with this one --------------------------- */

typedef struct Pair {
    pid_t child; /* 0 in the child */
    int in, out;
} Pair;

/* Before the library is used: it may not be carried over a fork. */
UNUSED Pair lab_fork(void)
{
    int there[2], back[2];
    Pair pair;

    CHECK(pipe(there) == 0 && pipe(back) == 0);
    pair.child = fork();
    CHECK(pair.child >= 0);
    pair.in = pair.child ? back[0] : there[0];
    pair.out = pair.child ? there[1] : back[1];
    close(pair.child ? there[0] : there[1]);
    close(pair.child ? back[1] : back[0]);
    return pair;
}

/* Tells the other process that it may go on. */
UNUSED void lab_go(const Pair *pair)
{
    CHECK(write(pair->out, "", 1) == 1);
}

UNUSED void lab_await(const Pair *pair)
{
    char byte;

    CHECK(read(pair->in, &byte, 1) == 1);
}

/* In the parent: the child must have found no fault. */
UNUSED void lab_join(const Pair *pair)
{
    int status;

    CHECK(waitpid(pair->child, &status, 0) == pair->child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
