/*
 * A library that does not do what it says, for LD_PRELOAD: what tests/soak has to see.
 *
 * Its flushes do nothing; with PLANTED=write its flushes are honest, and one write in
 * ten does nothing. What is not done becomes a read, which is answered as every
 * request is: once, and on another thread.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "archipelago.h"

static char nowhere[512];
static struct iovec nothing = { nowhere, sizeof(nowhere) };

static int drops_writes(void)
{
    const char *what = getenv("PLANTED");

    return what && strcmp(what, "write") == 0;
}

void archipelago_flush_submit(archipelago_volume *volume, uint32_t flags,
                              archipelago_callback *callback, void *opaque)
{
    if (drops_writes()) {
        void (*flush)(archipelago_volume *, uint32_t, archipelago_callback *, void *);
        *(void **)&flush = dlsym(RTLD_NEXT, "archipelago_flush_submit");
        flush(volume, flags, callback, opaque);
    } else {
        archipelago_read_submit(volume, 0, &nothing, 1, 0, callback, opaque);
    }
}

void archipelago_write_submit(archipelago_volume *volume, uint64_t offset, const struct iovec *iov,
                              int iovcnt, uint32_t flags, archipelago_callback *callback, void *opaque)
{
    static unsigned seen;

    if (drops_writes() && ++seen % 10 == 0) {
        archipelago_read_submit(volume, 0, &nothing, 1, 0, callback, opaque);
    } else {
        void (*write)(archipelago_volume *, uint64_t, const struct iovec *, int, uint32_t,
                      archipelago_callback *, void *);
        *(void **)&write = dlsym(RTLD_NEXT, "archipelago_write_submit");
        write(volume, offset, iov, iovcnt, flags, callback, opaque);
    }
}
