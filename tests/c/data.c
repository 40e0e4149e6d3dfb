/* What was written is read: any offset, length and memory, across blocks, after a reopen. */
#include "lab.h"

#define SIZE (7 * BLOCK + 1000)

static unsigned char mirror[SIZE];

static uint64_t dice(void)
{
    static uint64_t state = 88172645463325252u;

    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void compare(archipelago_volume *v)
{
    unsigned char *found = malloc(SIZE + 1);

    CHECK(found);
    SAME(lab_read(v, 0, found + 1, SIZE), 0); /* into memory that is aligned to nothing */
    CHECK(memcmp(found + 1, mirror, SIZE) == 0);
    free(found);
}

static void random_write(archipelago_volume *v, unsigned seed)
{
    static unsigned char memory[3 * BLOCK + 64];
    size_t bytes = dice() % 3 ? dice() % 9000 : dice() % (3 * BLOCK), skew = dice() % 64, at;
    uint64_t offset = dice() % (SIZE - bytes);
    struct iovec iov[4];
    Wait wait;

    if (dice() % 3 == 0) {
        offset -= offset % 4096;
    }
    lab_pattern(memory + skew, bytes, offset, seed);
    memcpy(mirror + offset, memory + skew, bytes);
    for (at = 0; at < 4; at++) {
        iov[at].iov_base = memory + skew + bytes / 4 * at;
        iov[at].iov_len = at < 3 ? bytes / 4 : bytes - bytes / 4 * 3;
    }
    lab_prepare(&wait);
    archipelago_write_submit(v, offset, iov, 4, dice() % 8 ? 0 : ARCHIPELAGO_WRITE_FUA, lab_done, &wait);
    memset(iov, 0xff, sizeof iov); /* it was copied */
    SAME(lab_wait(&wait), 0);
}

static void edges(archipelago_volume *v)
{
    struct iovec iov[2];
    char byte;

    SAME(lab_read(v, SIZE - 1, &byte, 1), 0);
    SAME(lab_read(v, SIZE, &byte, 1), -EINVAL);
    SAME(lab_write(v, SIZE - 1, "xy", 2, 0), -EINVAL);
    SAME(lab_write(v, UINT64_MAX, "x", 1, 0), -EINVAL);
    SAME(lab_read(v, UINT64_MAX - 1, &byte, 1), -EINVAL);
    SAME(lab_zero(v, 1, SIZE, 0), -EINVAL);
    SAME(lab_zero(v, UINT64_MAX, UINT64_MAX, 0), -EINVAL);
    SAME(lab_discard(v, SIZE - 1, 2, 0), -EINVAL);
    SAME(lab_write(v, 5, "", 0, 0), 0);
    SAME(lab_read(v, SIZE, &byte, 0), 0);
    iov[0].iov_base = &byte;
    iov[0].iov_len = 0;
    iov[1].iov_base = &byte;
    iov[1].iov_len = SIZE_MAX;
    SAME(archipelago_try_read(v, 0, iov, 2, 0), -EINVAL);
    SAME(archipelago_try_read(v, 0, iov, -1, 0), -EINVAL);
    SAME(archipelago_try_read(v, 0, NULL, 2, 0), -EINVAL);
    SAME(archipelago_try_read(v, 0, NULL, 0, 0), 0);
    compare(v);
}

int main(void)
{
    uint32_t modes[] = { 0, ARCHIPELAGO_OPEN_DIRECT, ARCHIPELAGO_OPEN_NO_FLUSH };
    archipelago_volume *v;
    unsigned round, seed = 1;

    SAME(lab_create("v", SIZE, NULL), 0);
    for (round = 0; round < 6; round++) {
        v = lab_open("v", modes[round % 3]);
        compare(v);
        for (; seed % 60; seed++) {
            random_write(v, seed);
        }
        seed++;
        SAME(lab_flush(v), 0);
        edges(v);
        if (round == 1) {
            SAME(archipelago_snapshot_create(v, "s", ERROR), 0);
        }
        archipelago_close(v);
    }
    v = lab_open("v", ARCHIPELAGO_OPEN_READ_ONLY);
    compare(v);
    archipelago_close(v);
    return 0;
}
