/*
 * A library whose flushes do nothing, for LD_PRELOAD: what tests/soak has to see.
 *
 * The flush becomes a read of nothing, which is answered as every request is: once,
 * and on another thread. PLANTED_HONEST=N lets one flush in N through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "archipelago.h"

void archipelago_flush_submit(archipelago_volume *volume, uint32_t flags,
                              archipelago_callback *callback, void *opaque)
{
    static char sector[512];
    static unsigned seen;
    const char *honest = getenv("PLANTED_HONEST");
    struct iovec iov = { sector, sizeof(sector) };

    if (honest && ++seen % (unsigned)atoi(honest) == 0) {
        void (*flush)(archipelago_volume *, uint32_t, archipelago_callback *, void *);
        *(void **)&flush = dlsym(RTLD_NEXT, "archipelago_flush_submit");
        flush(volume, flags, callback, opaque);
        return;
    }
    archipelago_read_submit(volume, 0, &iov, 1, 0, callback, opaque);
}
