/* A second writer is told who the first one is, and what to do; other volumes are free. */
#include "lab.h"

int main(void)
{
    Pair pair = lab_fork();
    archipelago_volume *v, *other;
    char pid[32];

    if (!pair.child) {
        v = lab_new("web", 4 * BLOCK);
        SAME(lab_put(v, 0, 512, 1), 0);
        lab_go(&pair);
        lab_await(&pair);
        SAME(lab_put(v, 512, 512, 1), 0);
        archipelago_close(v);
        lab_go(&pair);
        exit(0);
    }
    lab_await(&pair);
    SAME(lab_try_open("web", 0, &v), -EBUSY);
    snprintf(pid, sizeof pid, "process %ld ", (long)pair.child);
    SAYS(pid);
    SAYS("'web'");
    SAYS(" on host ");
    SAYS(" since ");
    SAYS("archipelago lease show web");
    SAME(lab_remove("web"), -EBUSY);
    SAYS(pid);
    other = lab_new("db", BLOCK);
    SAME(lab_put(other, 0, BLOCK, 2), 0);
    archipelago_close(other);
    lab_go(&pair);
    lab_await(&pair);
    lab_join(&pair);
    v = lab_open("web", 0);
    CHECK(lab_holds(v, 0, 1024, 1));
    /* One process is no exception. */
    SAME(lab_try_open("web", 0, &other), -EBUSY);
    archipelago_close(v);
    return 0;
}
