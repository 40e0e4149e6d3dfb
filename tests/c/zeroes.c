/* Zeroes and discards read as zeroes, leave the rest alone, and block_status tells no lies. */
#include "lab.h"

#define SIZE (9 * BLOCK + 700)

static unsigned char mirror[SIZE];

/* Walks the whole volume: what is said to be zero is zero. Returns the bytes of data. */
static uint64_t walk(archipelago_volume *v)
{
    static const unsigned char zeroes[SIZE];
    uint64_t at = 0, length, data = 0;
    int status;

    while (at < SIZE) {
        SAME(archipelago_block_status(v, at, SIZE - at, &status, &length), 0);
        CHECK(length > 0 && length <= SIZE - at);
        CHECK(status == ARCHIPELAGO_STATUS_DATA || status == ARCHIPELAGO_STATUS_ZERO);
        if (status == ARCHIPELAGO_STATUS_ZERO) {
            CHECK(memcmp(mirror + at, zeroes, length) == 0);
        } else {
            data += length;
        }
        at += length;
    }
    return data;
}

static void compare(archipelago_volume *v)
{
    static unsigned char found[SIZE];

    SAME(lab_read(v, 0, found, SIZE), 0);
    CHECK(memcmp(found, mirror, SIZE) == 0);
    walk(v);
}

static void fill(archipelago_volume *v, unsigned seed)
{
    lab_pattern(mirror, SIZE, 0, seed);
    SAME(lab_write(v, 0, mirror, SIZE, 0), 0);
}

static void blank(uint64_t offset, uint64_t bytes)
{
    memset(mirror + offset, 0, bytes);
}

int main(void)
{
    uint32_t flags[] = { 0, ARCHIPELAGO_WRITE_FUA, ARCHIPELAGO_ZERO_UNMAP,
                         ARCHIPELAGO_WRITE_FUA | ARCHIPELAGO_ZERO_UNMAP };
    archipelago_volume *v = lab_new("v", SIZE);
    uint64_t length;
    int status;
    unsigned round;

    SAME(walk(v), 0);
    for (round = 0; round < 8; round++) {
        uint64_t at = round * 5000;

        fill(v, round + 1);
        CHECK(walk(v) >= SIZE);
        SAME(lab_zero(v, at, 100 + round * 4000, flags[round % 4]), 0);
        blank(at, 100 + round * 4000);
        compare(v);
        SAME(lab_discard(v, 3 * BLOCK - at, 2 * BLOCK + at, 0), 0);
        blank(3 * BLOCK - at, 2 * BLOCK + at);
        compare(v);
        SAME(lab_put(v, 3 * BLOCK + 3, 5, 77), 0);
        lab_pattern(mirror + 3 * BLOCK + 3, 5, 3 * BLOCK + 3, 77);
        compare(v);
        if (round == 3) { /* from here on over blocks that a snapshot shares */
            SAME(archipelago_snapshot_create(v, "s", ERROR), 0);
        }
        if (round % 2) {
            archipelago_close(v);
            v = lab_open("v", 0);
            compare(v);
        }
    }
    SAME(lab_discard(v, 0, SIZE, 0), 0);
    blank(0, SIZE);
    compare(v);
    /* Blocks that a snapshot shares are let go, with the part of a block at the end. */
    fill(v, 20);
    SAME(archipelago_snapshot_create(v, "t", ERROR), 0);
    SAME(lab_discard(v, 0, SIZE, 0), 0);
    blank(0, SIZE);
    compare(v);
    SAME(walk(v), 0);
    archipelago_close(v);
    v = lab_open("v", 0);
    compare(v);
    CHECK(walk(v) <= 4096); /* the part of a block may have become a granule of zeroes */
    SAME(archipelago_block_status(v, SIZE, 1, &status, &length), -EINVAL);
    SAME(archipelago_block_status(v, UINT64_MAX, 2, &status, &length), -EINVAL);
    SAME(lab_zero(v, 10, 0, 0), 0);
    SAME(lab_discard(v, SIZE, 0, 0), 0);
    archipelago_close(v);
    return 0;
}
