/* The structures are laid out as the library has them, and their reserve is zero. */
#include "lab.h"

/* An array of negative size does not compile. */
#define AT(type, field, offset) \
    typedef char type##_##field##_moved[offsetof(type, field) == (offset) ? 1 : -1] UNUSED_TYPE
#define UNUSED_TYPE __attribute__((unused))

AT(archipelago_info, size_bytes, 0);
AT(archipelago_info, block_bytes, 8);
AT(archipelago_info, own_bytes, 16);
AT(archipelago_info, shared_bytes, 24);
AT(archipelago_info, request_alignment_bytes, 32);
AT(archipelago_info, memory_alignment_bytes, 36);
AT(archipelago_info, volume_id, 40);
AT(archipelago_info, read_only, 56);
AT(archipelago_info, active, 57);
AT(archipelago_info, zero_init, 58);
AT(archipelago_info, reserved, 59);
typedef char info_size[sizeof(archipelago_info) == 96 ? 1 : -1] UNUSED_TYPE;

AT(archipelago_snapshot, name, 0);
AT(archipelago_snapshot, pending, 129);
AT(archipelago_snapshot, reserved, 130);
AT(archipelago_snapshot, size_bytes, 136);
AT(archipelago_snapshot, created_s, 144);
AT(archipelago_snapshot, created_ns, 152);
AT(archipelago_snapshot, reserved2, 156);
typedef char snapshot_size[sizeof(archipelago_snapshot) == 160 ? 1 : -1] UNUSED_TYPE;

int main(void)
{
    archipelago_volume *v = lab_new("v", 3 * BLOCK);
    struct { archipelago_info info; unsigned char guard[64]; } both;
    static const unsigned char zero[37];
    size_t at;

    memset(&both, 0xee, sizeof both);
    SAME(archipelago_get_info(v, &both.info), 0);
    for (at = 0; at < sizeof both.guard; at++) {
        CHECK(both.guard[at] == 0xee);
    }
    SAME(both.info.size_bytes, 3 * BLOCK);
    SAME(both.info.block_bytes, BLOCK);
    SAME(both.info.read_only, 0);
    SAME(both.info.active, 1);
    SAME(both.info.zero_init, 1);
    /* A sector that is written in part may be mixed after a crash: QEMU must not do that. */
    SAME(both.info.request_alignment_bytes, 512);
    CHECK(both.info.memory_alignment_bytes >= 1 && both.info.memory_alignment_bytes <= 4096);
    CHECK(memcmp(both.info.reserved, zero, sizeof zero) == 0);
    CHECK(memcmp(both.info.volume_id, zero, sizeof both.info.volume_id) != 0);
    SAME(lab_put(v, 0, BLOCK, 1), 0);
    SAME(archipelago_get_info(v, &both.info), 0);
    SAME(both.info.zero_init, 0);
    CHECK(both.info.own_bytes >= BLOCK);
    archipelago_close(v);
    return 0;
}
