/* try_read serves what needs no waiting, says so where it would wait, and never lies. */
#include "lab.h"

static int try(archipelago_volume *v, uint64_t offset, size_t bytes, unsigned seed, uint32_t flags)
{
    unsigned char found[8192], wanted[8192];
    struct iovec iov[2];
    int result;

    memset(found, 0xa5, sizeof found);
    memset(wanted, 0, sizeof wanted);
    if (seed) {
        lab_pattern(wanted, bytes, offset, seed);
    }
    iov[0].iov_base = found;
    iov[0].iov_len = 100;
    iov[1].iov_base = found + 100;
    iov[1].iov_len = bytes - 100;
    result = archipelago_try_read(v, offset, iov, 2, flags);
    CHECK(result != 0 || memcmp(found, wanted, bytes) == 0);
    return result;
}

int main(void)
{
    archipelago_volume *v = lab_new("v", 8 * BLOCK);
    int result, round, served = 0;

    /* What was never written needs no storage. */
    SAME(try(v, 0, 4096, 0, 0), 0);
    SAME(try(v, BLOCK - 2048, 4096, 0, 0), 0);
    SAME(try(v, 8 * BLOCK - 100, 4096, 0, 0), -EINVAL);
    SAME(try(v, 0, 4096, 0, 1), -EINVAL);
    /* A block in the page cache, read again and again. */
    SAME(lab_put(v, 0, 2 * BLOCK, 7), 0);
    for (round = 0; round < 20; round++) {
        result = try(v, (uint64_t)round * 4096, 4096, 7, 0);
        CHECK(result == 0 || result == -EAGAIN);
        served += result == 0;
        CHECK(lab_holds(v, (uint64_t)round * 4096, 4096, 7));
    }
    printf("%d of 20 served at once\n", served);
    /* A logged piece over a shared block. */
    SAME(archipelago_snapshot_create(v, "s", ERROR), 0);
    SAME(lab_put(v, 4096, 4096, 8), 0);
    for (round = 0; round < 20; round++) {
        result = try(v, 4096, 4096, 8, 0);
        CHECK(result == 0 || result == -EAGAIN);
    }
    SAME(lab_zero(v, 0, 8192, 0), 0);
    result = try(v, 0, 8192, 0, 0);
    CHECK(result == 0 || result == -EAGAIN);
    archipelago_close(v);
    return 0;
}
