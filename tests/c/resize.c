/* A volume grows and shrinks while it is open, and what lay beyond its end never comes back. */
#include "lab.h"

int main(void)
{
    archipelago_volume *v = lab_new("v", 3 * BLOCK + 100);
    archipelago_info info;

    SAME(archipelago_get_info(v, &info), 0);
    SAME(info.request_alignment_bytes, 1);
    SAME(lab_put(v, 0, 3 * BLOCK + 100, 1), 0);
    SAME(lab_resize(v, 6 * BLOCK, 0), 0);
    SAME(archipelago_size(v), 6 * BLOCK);
    SAME(archipelago_get_info(v, &info), 0);
    SAME(info.request_alignment_bytes, 512);
    SAME(info.size_bytes, 6 * BLOCK);
    CHECK(lab_holds(v, 0, 3 * BLOCK + 100, 1) && lab_holds(v, 3 * BLOCK + 100, 3 * BLOCK - 100, 0));
    SAME(lab_put(v, 5 * BLOCK, BLOCK, 2), 0);

    SAME(lab_resize(v, BLOCK, 0), -EINVAL);
    SAME(archipelago_size(v), 6 * BLOCK);
    SAME(lab_resize(v, BLOCK, 0x80), -EINVAL);
    SAME(lab_resize(v, UINT64_MAX, 0), -EINVAL);
    SAME(lab_resize(v, 6 * BLOCK, 0), 0);
    CHECK(lab_holds(v, 5 * BLOCK, BLOCK, 2));

    SAME(lab_resize(v, BLOCK + 513, ARCHIPELAGO_RESIZE_SHRINK), 0);
    SAME(archipelago_size(v), BLOCK + 513);
    SAME(lab_put(v, BLOCK + 513, 1, 3), -EINVAL);
    SAME(lab_resize(v, 6 * BLOCK, 0), 0);
    CHECK(lab_holds(v, 0, BLOCK + 513, 1) && lab_holds(v, BLOCK + 513, 5 * BLOCK - 513, 0));
    archipelago_close(v);

    v = lab_open("v", 0);
    SAME(archipelago_size(v), 6 * BLOCK);
    CHECK(lab_holds(v, 0, BLOCK + 513, 1) && lab_holds(v, BLOCK + 513, 5 * BLOCK - 513, 0));
    SAME(lab_resize(v, 0, ARCHIPELAGO_RESIZE_SHRINK), 0);
    SAME(archipelago_size(v), 0);
    SAME(lab_resize(v, 2 * BLOCK, 0), 0);
    CHECK(lab_holds(v, 0, 2 * BLOCK, 0));
    /* A snapshot keeps its own size. */
    SAME(lab_put(v, 0, 2 * BLOCK, 4), 0);
    SAME(archipelago_snapshot_create(v, "s", ERROR), 0);
    SAME(lab_resize(v, 512, ARCHIPELAGO_RESIZE_SHRINK), 0);
    SAME(archipelago_snapshot_rollback(v, "s", ERROR), 0);
    SAME(archipelago_size(v), 2 * BLOCK);
    CHECK(lab_holds(v, 0, 2 * BLOCK, 4));
    archipelago_close(v);
    return 0;
}
