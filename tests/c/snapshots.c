/* A snapshot keeps what was there; rolling back brings it back; the list is in order. */
#include "lab.h"

static int list(archipelago_volume *v, archipelago_snapshot *out, size_t count_max)
{
    return archipelago_snapshot_list(v, out, count_max, ERROR);
}

static archipelago_volume *open_snapshot(const char *name, int wanted)
{
    char option[128];
    const char *options[] = { "volume=v", option, NULL };
    archipelago_volume *volume = NULL;

    snprintf(option, sizeof option, "snapshot=%s", name);
    SAME(archipelago_open(options, 0, &volume, ERROR), wanted);
    return volume;
}

int main(void)
{
    archipelago_volume *v = lab_new("v", 8 * BLOCK), *old;
    archipelago_snapshot found[6];
    uint64_t now = (uint64_t)time(NULL);
    char name[160];
    int at;

    SAME(list(v, NULL, 0), 0);
    for (at = 0; at < 4; at++) {
        SAME(lab_put(v, (uint64_t)at * BLOCK / 2, BLOCK, (unsigned)at + 1), 0);
        snprintf(name, sizeof name, "s%d", at);
        SAME(archipelago_snapshot_create(v, name, ERROR), 0);
    }
    SAME(archipelago_snapshot_create(v, "s2", ERROR), -EEXIST);
    SAYS("s2");
    SAME(archipelago_snapshot_create(v, "", ERROR), -EINVAL);
    SAME(archipelago_snapshot_create(v, "a@b", ERROR), -EINVAL);
    SAME(archipelago_snapshot_create(v, NULL, ERROR), -EINVAL);
    memset(name, 'n', sizeof name);
    name[129] = 0;
    SAME(archipelago_snapshot_create(v, name, ERROR), -EINVAL);
    name[128] = 0;
    SAME(archipelago_snapshot_create(v, name, ERROR), 0);

    SAME(list(v, NULL, 0), 5);
    memset(found, 0xee, sizeof found);
    SAME(list(v, found, 2), 5);
    CHECK(strcmp(found[0].name, "s0") == 0 && strcmp(found[1].name, "s1") == 0);
    CHECK((unsigned char)found[2].name[0] == 0xee);
    SAME(list(v, found, 6), 5);
    CHECK(strcmp(found[3].name, "s3") == 0 && strcmp(found[4].name, name) == 0);
    for (at = 0; at < 5; at++) {
        SAME(found[at].size_bytes, 8 * BLOCK);
        CHECK(found[at].pending <= 1 && found[at].reserved2 == 0 && found[at].reserved[5] == 0);
        CHECK(found[at].created_s >= now - 5 && found[at].created_s <= now + 60);
        CHECK(found[at].created_ns < 1000000000u);
    }

    SAME(lab_put(v, 0, 8 * BLOCK, 9), 0);
    SAME(archipelago_snapshot_rollback(v, "never", ERROR), -ENOENT);
    CHECK(lab_holds(v, 0, 8 * BLOCK, 9));
    SAME(archipelago_snapshot_rollback(v, "s1", ERROR), 0);
    CHECK(lab_holds(v, 0, BLOCK / 2, 1) && lab_holds(v, BLOCK / 2, BLOCK, 2));
    CHECK(lab_holds(v, 3 * BLOCK / 2, 6 * BLOCK, 0));
    SAME(lab_put(v, 0, 512, 10), 0);
    archipelago_close(v);

    v = lab_open("v", 0);
    CHECK(lab_holds(v, 0, 512, 10) && lab_holds(v, 512, BLOCK / 2 - 512, 1));
    CHECK(lab_holds(v, BLOCK / 2, BLOCK, 2));
    old = open_snapshot("s3", 0);
    CHECK(lab_holds(old, 3 * BLOCK / 2, BLOCK, 4));
    SAME(lab_put(old, 0, 512, 11), -EROFS);
    SAME(archipelago_snapshot_create(old, "no", ERROR), -EROFS);
    SAME(archipelago_set_read_only(old, 0, ERROR), -EROFS);
    SAYS("clone");
    archipelago_close(old);

    SAME(archipelago_snapshot_remove(v, "s1", ERROR), 0);
    SAME(archipelago_snapshot_remove(v, "s1", ERROR), -ENOENT);
    SAME(list(v, NULL, 0), 4);
    open_snapshot("s1", -ENOENT);
    SAME(archipelago_snapshot_rollback(v, "s3", ERROR), 0);
    CHECK(lab_holds(v, 3 * BLOCK / 2, BLOCK, 4));
    archipelago_close(v);
    return 0;
}
