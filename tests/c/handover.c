/* Two processes hand a volume to each other: one writes at a time, and each sees it all. */
#include "lab.h"

#define ROUNDS 4

/* The one that has the volume, for its turn. */
static void turn(archipelago_volume *v, unsigned round, int mine)
{
    unsigned seed = 2 * round + (mine ? 1 : 2);
    archipelago_info info;

    SAME(archipelago_activate(v, ERROR), 0);
    SAME(archipelago_activate(v, ERROR), 0);
    SAME(archipelago_get_info(v, &info), 0);
    SAME(info.active, 1);
    if (seed > 1) {
        CHECK(lab_holds(v, 1000, 2 * BLOCK, seed - 1));
        CHECK(lab_holds(v, 5 * BLOCK, BLOCK, seed - 1));
        SAME(archipelago_size(v), (8 + seed - 1) * BLOCK);
    }
    SAME(lab_put(v, 1000, 2 * BLOCK, seed), 0);
    SAME(lab_put(v, 5 * BLOCK, BLOCK, seed), 0);
    if (round == 1) {
        SAME(archipelago_snapshot_create(v, mine ? "mine" : "theirs", ERROR), 0);
    }
    SAME(lab_resize(v, (8 + seed) * BLOCK, 0), 0);
    SAME(archipelago_inactivate(v, ERROR), 0);
    SAME(archipelago_inactivate(v, ERROR), 0);
}

/* The one that has not: it reads, and changes nothing. */
static void bystander(archipelago_volume *v)
{
    archipelago_info info;
    char data[512];

    SAME(archipelago_get_info(v, &info), 0);
    SAME(info.active, 0);
    CHECK(archipelago_size(v) >= 8 * BLOCK);
    SAME(lab_read(v, 1000, data, sizeof data), 0);
    SAME(lab_put(v, 0, 512, 99), -EBUSY);
    SAME(lab_zero(v, 0, 512, 0), -EBUSY);
    SAME(lab_resize(v, 99 * BLOCK, 0), -EBUSY);
    SAME(archipelago_snapshot_create(v, "no", ERROR), -EBUSY);
}

static void child(const Pair *pair)
{
    archipelago_volume *v;
    unsigned round;

    lab_await(pair);
    v = lab_open("v", ARCHIPELAGO_OPEN_INACTIVE);
    bystander(v);
    SAME(archipelago_activate(v, ERROR), -EBUSY);
    SAYS("in use by process");
    lab_go(pair);
    for (round = 0; round < ROUNDS; round++) {
        lab_await(pair);
        turn(v, round, 0);
        bystander(v);
        lab_go(pair);
    }
    lab_await(pair);
    archipelago_close(v);
    exit(0);
}

int main(void)
{
    Pair pair = lab_fork();
    archipelago_volume *v;
    unsigned round;

    if (!pair.child) {
        child(&pair);
    }
    v = lab_new("v", 8 * BLOCK);
    lab_go(&pair); /* it opens while we hold the lease */
    lab_await(&pair);
    for (round = 0; round < ROUNDS; round++) {
        turn(v, round, 1);
        lab_go(&pair);
        lab_await(&pair);
        bystander(v);
    }
    /* The migration failed after all: the source goes on. */
    SAME(archipelago_activate(v, ERROR), 0);
    CHECK(lab_holds(v, 1000, 2 * BLOCK, 2 * ROUNDS));
    SAME(lab_put(v, 0, 512, 3), 0);
    lab_go(&pair);
    lab_join(&pair);
    archipelago_close(v);
    return 0;
}
