/* The caller changes memory that a request is still about. */
static void lab_raced_done(void *opaque, int result)
{
    (void)opaque;
    (void)result;
}

UNUSED void lab_planted(archipelago_volume *volume)
{
    static char memory[10][512];
    unsigned at;

    for (at = 0; at < 10; at++) {
        struct iovec iov;

        iov.iov_base = memory[at];
        iov.iov_len = sizeof memory[at];
        archipelago_read_submit(volume, at * 512, &iov, 1, 0, lab_raced_done, NULL);
        memory[at][0] = 1;
        usleep(20000); /* A call now would order both: it goes through the library's locks. */
    }
}
