/* A handle changes between reading and writing; readers and a writer keep out of each other's way. */
#include "lab.h"

static void child(const Pair *pair)
{
    archipelago_volume *v;

    lab_await(pair); /* the parent writes */
    SAME(lab_try_open("v", ARCHIPELAGO_OPEN_READ_ONLY, &v), -EBUSY);
    SAYS("in use by process");
    v = lab_open("v", ARCHIPELAGO_OPEN_READ_ONLY | ARCHIPELAGO_OPEN_FORCE_SHARE);
    CHECK(lab_holds(v, 0, BLOCK, 1));
    archipelago_close(v);
    lab_go(pair);
    lab_await(pair); /* the parent reads */
    v = lab_open("v", ARCHIPELAGO_OPEN_READ_ONLY);
    CHECK(lab_holds(v, 0, BLOCK, 1));
    lab_go(pair);
    lab_await(pair);
    archipelago_close(v);
    lab_go(pair);
    exit(0);
}

int main(void)
{
    Pair pair = lab_fork();
    archipelago_volume *v;
    archipelago_info info;

    if (!pair.child) {
        child(&pair);
    }
    v = lab_new("v", 4 * BLOCK);
    SAME(lab_put(v, 0, BLOCK, 1), 0);
    SAME(lab_flush(v), 0);
    lab_go(&pair);
    lab_await(&pair);
    SAME(archipelago_set_read_only(v, 1, ERROR), 0);
    SAME(archipelago_set_read_only(v, 1, ERROR), 0);
    SAME(archipelago_get_info(v, &info), 0);
    SAME(info.read_only, 1);
    SAME(lab_put(v, 0, 512, 2), -EROFS);
    SAME(lab_zero(v, 0, 512, 0), -EROFS);
    SAME(lab_discard(v, 0, 512, 0), -EROFS);
    SAME(lab_resize(v, 8 * BLOCK, 0), -EROFS);
    SAME(archipelago_snapshot_create(v, "s", ERROR), -EROFS);
    SAME(lab_flush(v), 0);
    CHECK(lab_holds(v, 0, BLOCK, 1));
    lab_go(&pair);
    lab_await(&pair);
    /* There is a reader now, and this handle stays as it is. */
    SAME(archipelago_set_read_only(v, 0, ERROR), -EBUSY);
    CHECK(lab_holds(v, 0, BLOCK, 1));
    SAME(lab_put(v, 0, 512, 2), -EROFS);
    lab_go(&pair);
    lab_await(&pair);
    lab_join(&pair);
    SAME(archipelago_set_read_only(v, 0, ERROR), 0);
    SAME(lab_put(v, 0, 512, 2), 0);
    CHECK(lab_holds(v, 0, 512, 2) && lab_holds(v, 512, BLOCK - 512, 1));
    archipelago_close(v);
    return 0;
}
