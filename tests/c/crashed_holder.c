/* A killed holder's volume opens at once, with everything that was flushed. */
#include "lab.h"

#define ROUNDS 4

static void child(unsigned round)
{
    archipelago_volume *v = lab_open("v", 0);
    char data[512];
    struct iovec iov;
    static Wait wait;
    unsigned at;

    SAME(lab_put(v, 0, 3 * BLOCK, round + 1), 0);
    SAME(lab_put(v, 4 * BLOCK + 512, 512, round + 1), 0);
    if (round == 1) {
        SAME(archipelago_snapshot_create(v, "s", ERROR), 0);
    }
    SAME(lab_flush(v), 0);
    lab_pattern(data, sizeof data, 6 * BLOCK, round + 1);
    SAME(lab_write(v, 6 * BLOCK, data, sizeof data, ARCHIPELAGO_WRITE_FUA), 0);
    lab_prepare(&wait);
    iov.iov_base = data;
    iov.iov_len = sizeof data;
    for (at = 0; at < 100; at++) { /* these may or may not be there */
        archipelago_write_submit(v, 8 * BLOCK + at * 512, &iov, 1, 0, lab_done, &wait);
    }
    kill(getpid(), SIGKILL);
}

static void next_holder(unsigned round)
{
    struct timespec before, after;
    archipelago_volume *v;

    clock_gettime(CLOCK_MONOTONIC, &before);
    v = lab_open("v", 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK(after.tv_sec - before.tv_sec < 5);
    CHECK(lab_holds(v, 0, 3 * BLOCK, round + 1));
    CHECK(lab_holds(v, 4 * BLOCK + 512, 512, round + 1));
    CHECK(lab_holds(v, 6 * BLOCK, 512, round + 1));
    archipelago_close(v);
    exit(0);
}

int main(void)
{
    unsigned round;

    for (round = 0; round < ROUNDS; round++) {
        int status;
        pid_t pid;

        if (round == 0) {
            pid = fork();
            if (pid == 0) {
                SAME(lab_create("v", 10 * BLOCK, NULL), 0);
                exit(0);
            }
            CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        }
        pid = fork();
        if (pid == 0) {
            child(round);
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        /* In a process of its own: who forks has no threads, ended or not. */
        pid = fork();
        if (pid == 0) {
            next_holder(round);
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    return 0;
}
