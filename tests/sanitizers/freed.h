/* The library is given memory that was freed. */
static void lab_freed_done(void *opaque, int result)
{
    (void)opaque;
    (void)result;
}

UNUSED void lab_planted(archipelago_volume *volume)
{
    struct iovec iov;
    char *memory = calloc(1, 512);

    CHECK(memory);
    iov.iov_base = memory;
    iov.iov_len = 512;
    free(memory);
    archipelago_write_submit(volume, 0, &iov, 1, 0, lab_freed_done, NULL);
}
