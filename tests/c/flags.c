/* A flag that nobody knows completes the request with -EINVAL, and nothing is written. */
#include "lab.h"

int main(void)
{
    archipelago_volume *v = lab_new("v", 4 * BLOCK);
    char data[512];
    struct iovec iov;
    Wait wait[6];
    int at;

    iov.iov_base = data;
    iov.iov_len = sizeof data;
    memset(data, 1, sizeof data);
    for (at = 0; at < 6; at++) {
        lab_prepare(&wait[at]);
    }
    archipelago_read_submit(v, 0, &iov, 1, 0x01, lab_done, &wait[0]);
    archipelago_write_submit(v, 0, &iov, 1, 0x02, lab_done, &wait[1]);
    archipelago_write_zeroes_submit(v, 0, 512, 0x04, lab_done, &wait[2]);
    archipelago_discard_submit(v, 0, 512, 0x01, lab_done, &wait[3]);
    archipelago_flush_submit(v, 0x01, lab_done, &wait[4]);
    archipelago_resize_submit(v, BLOCK, 0x03, lab_done, &wait[5]);
    for (at = 0; at < 6; at++) {
        SAME(lab_wait(&wait[at]), -EINVAL);
    }
    SAME(archipelago_try_read(v, 0, &iov, 1, 0x80000000u), -EINVAL);
    SAME(archipelago_size(v), 4 * BLOCK);
    CHECK(lab_holds(v, 0, 4 * BLOCK, 0));
    /* A malformed request completes as well. */
    lab_prepare(&wait[0]);
    archipelago_write_submit(v, 0, NULL, 3, 0, lab_done, &wait[0]);
    SAME(lab_wait(&wait[0]), -EINVAL);
    lab_prepare(&wait[0]);
    archipelago_write_submit(v, 0, &iov, -1, 0, lab_done, &wait[0]);
    SAME(lab_wait(&wait[0]), -EINVAL);
    archipelago_close(v);
    return 0;
}
