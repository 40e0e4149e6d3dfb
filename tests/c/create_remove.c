/* Volumes and clones come and go by name, and what is still needed stays. */
#include "lab.h"

int main(void)
{
    archipelago_volume *base, *clone;
    archipelago_info info;
    const char *at[] = { "volume=base", NULL };

    SAME(lab_create("base", 5 * BLOCK + 512, NULL), 0);
    SAME(lab_create("base", 1 << 20, NULL), -EEXIST);
    SAYS("base");
    SAME(lab_create("small", 1 << 20, "block-size=16K"), 0);
    SAME(lab_create("large", 1 << 20, "block-size=1M"), 0);
    SAME(lab_create("odd", 1 << 20, "block-size=100000"), -EINVAL);
    SAYS("block");
    SAME(lab_create("odd", 1 << 20, "block-size=8K"), -EINVAL);
    SAME(lab_create("odd", 1 << 20, "block-size=128M"), -EINVAL);
    SAME(lab_create("odd", 1 << 20, "block-size=x"), -EINVAL);
    SAME(lab_create("-odd", 1 << 20, NULL), -EINVAL);
    SAME(lab_create("odd", UINT64_MAX, NULL), -EINVAL);
    SAME(lab_create("odd", 1 << 20, "snapshot=x"), -EINVAL);
    SAME(archipelago_create(at, 1, 1, ERROR), -EINVAL);
    SAME(archipelago_remove(at, 1, ERROR), -EINVAL);
    SAME(lab_remove("odd"), -ENOENT);
    SAYS("odd");

    clone = lab_open("large", 0);
    SAME(archipelago_get_info(clone, &info), 0);
    SAME(info.block_bytes, 1 << 20);
    SAME(info.size_bytes, 1 << 20);
    SAME(info.zero_init, 1);
    archipelago_close(clone);

    base = lab_open("base", 0);
    SAME(archipelago_size(base), 5 * BLOCK + 512);
    SAME(lab_put(base, 0, 5 * BLOCK + 512, 1), 0);
    SAME(lab_remove("base"), -EBUSY);
    SAYS("base");
    SAME(archipelago_snapshot_create(base, "s", ERROR), 0);
    SAME(lab_put(base, BLOCK + 100, 700, 2), 0);
    archipelago_close(base);

    SAME(lab_create("c", 0, "from=base@s"), 0);
    SAME(lab_create("c2", 9 * BLOCK, "from=base@s"), 0);
    SAME(lab_create("c3", BLOCK, "from=base@s"), -EINVAL);
    SAME(lab_create("c3", 0, "from=base@never"), -ENOENT);
    SAME(lab_create("c3", 0, "from=nobody@s"), -ENOENT);
    SAME(lab_create("c3", 0, "from=base"), -EINVAL);
    SAYS("VOLUME@SNAPSHOT");
    clone = lab_open("c", 0);
    SAME(archipelago_size(clone), 5 * BLOCK + 512);
    CHECK(lab_holds(clone, 0, 5 * BLOCK + 512, 1));
    SAME(archipelago_get_info(clone, &info), 0);
    SAME(info.zero_init, 0);
    SAME(lab_put(clone, 2 * BLOCK + 10, 10, 3), 0);
    CHECK(lab_holds(clone, 2 * BLOCK, 10, 1) && lab_holds(clone, 2 * BLOCK + 10, 10, 3));
    archipelago_close(clone);
    clone = lab_open("c2", 0);
    CHECK(lab_holds(clone, 0, 5 * BLOCK + 512, 1) && lab_holds(clone, 5 * BLOCK + 512, 4 * BLOCK - 512, 0));
    archipelago_close(clone);

    /* With a snapshot it stays; without one it goes, and its clones live on. */
    SAME(lab_remove("base"), -EBUSY);
    SAYS("snapshot");
    base = lab_open("base", 0);
    CHECK(lab_holds(base, BLOCK + 100, 700, 2) && lab_holds(base, 2 * BLOCK, BLOCK, 1));
    SAME(archipelago_snapshot_remove(base, "s", ERROR), 0);
    archipelago_close(base);
    SAME(lab_remove("base"), 0);
    SAME(lab_try_open("base", 0, &base), -ENOENT);
    clone = lab_open("c", 0);
    CHECK(lab_holds(clone, 0, 2 * BLOCK, 1) && lab_holds(clone, 2 * BLOCK + 10, 10, 3));
    archipelago_close(clone);
    SAME(lab_create("base", 1 << 20, NULL), 0);
    return 0;
}
