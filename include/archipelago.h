/* SPDX-License-Identifier: MIT */
/*
 * archipelago.h - VM disks as maps of named blocks: the C interface.
 *
 * Rules that hold for every call:
 *
 * - Functions that return int return 0 or a negative errno. Where a function
 *   takes `error` and `error_bytes`, a sentence that a person can act on is
 *   written there on failure (NUL-terminated, cut to fit). `error` may be NULL.
 * - Calls without a callback may block on storage; never make them where the
 *   caller must not sleep. Calls named *_submit and archipelago_try_read never
 *   block.
 * - A *_submit call returns void. Its callback runs exactly once, on a thread
 *   of the library, never on the submitting thread, with no library lock held,
 *   with 0 or -errno. The memory of the request must stay valid until then.
 * - Offsets and sizes are bytes. `flags` must hold only bits named for that
 *   call; anything else completes with -EINVAL.
 * - A handle may be used by any number of threads at once. archipelago_close()
 *   must be the last call on it.
 * - After a failed sync or an internal fault the volume is poisoned: every
 *   later request completes with -EIO. Other volumes are not touched.
 * - Threads start in archipelago_open(), never when the library is loaded.
 *   They block all signals; the library never forks, executes or changes
 *   priorities.
 * - A process that has opened a volume may fork only to execute another
 *   program: in a child that goes on without that the library's threads are
 *   missing, and it shares its parent's rings and locks.
 */
#ifndef ARCHIPELAGO_H
#define ARCHIPELAGO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ARCHIPELAGO_VERSION_MAJOR 0
#define ARCHIPELAGO_VERSION_MINOR 1

/* An open volume or snapshot. */
typedef struct archipelago_volume archipelago_volume;

/* Called once per submitted request. `result` is 0 or -errno. */
typedef void archipelago_callback(void *opaque, int result);

/* The library's version, "MAJOR.MINOR.PATCH". Static memory. */
const char *archipelago_version(void);

/* ---- opening ---------------------------------------------------------- */

/* No lease is taken and nothing is written. Snapshots always open so. */
#define ARCHIPELAGO_OPEN_READ_ONLY 0x01u
/*
 * For the receiving side of a live migration: no lease, reads, flushes (of
 * nothing) and the size work, what changes the volume fails with -EBUSY until
 * archipelago_activate().
 */
#define ARCHIPELAGO_OPEN_INACTIVE 0x02u
/* Bypass the host's page cache (QEMU's cache=none and cache=directsync). */
#define ARCHIPELAGO_OPEN_DIRECT 0x04u
/* Read a volume that another process is writing (QEMU's -U). */
#define ARCHIPELAGO_OPEN_FORCE_SHARE 0x08u
/* Flushes return at once; a crash may lose anything (QEMU's cache=unsafe). */
#define ARCHIPELAGO_OPEN_NO_FLUSH 0x10u

/*
 * Opens a volume. `options` is an array of "key=value" strings that ends with
 * NULL. Keys:
 *   volume    the volume's name (required)
 *   snapshot  open this snapshot of it, read-only
 *   store     the name of a configured store (default: the default store)
 *   config    the path of a configuration file (default: as archipelago(1))
 * Where the last holder was killed while the disk still held requests of its,
 * this waits for them to end, up to 30 seconds.
 * Errors: -ENOENT no such volume, snapshot, store; -EBUSY another process
 * holds it (the message names it); -EACCES; -EINVAL malformed name or option;
 * -EIO damaged.
 */
int archipelago_open(const char *const *options, uint32_t flags,
                     archipelago_volume **volume,
                     char *error, size_t error_bytes);

/* Flushes, releases the lease and frees the handle. Returns after the last
 * callback has returned. `volume` may be NULL. */
void archipelago_close(archipelago_volume *volume);

/* ---- creating and removing (control calls, they block) ---------------- */

/*
 * Creates a volume of `size` bytes. `options` as for archipelago_open(), and
 *   block-size  bytes per block, a power of two from 16384 to 67108864, with
 *               an optional suffix K or M (default: the store's, 4M)
 *   from        VOLUME@SNAPSHOT: make a clone; `size` may be larger than the
 *               snapshot's, 0 means the snapshot's
 * Errors: -EEXIST; as archipelago_open().
 */
int archipelago_create(const char *const *options, uint64_t size,
                       uint32_t flags, char *error, size_t error_bytes);

/* Removes a volume. Its snapshots and clones stay usable only where they are
 * named otherwise: a volume with snapshots is refused with -EBUSY. */
int archipelago_remove(const char *const *options, uint32_t flags,
                       char *error, size_t error_bytes);

/* ---- facts ------------------------------------------------------------ */

typedef struct archipelago_info {
    uint64_t size_bytes;
    uint64_t block_bytes;      /* size of one block */
    uint64_t own_bytes;        /* storage that only this volume uses, about */
    uint64_t shared_bytes;     /* storage shared with snapshots and clones */
    uint32_t request_alignment_bytes; /* for whole sectors: 1 or 512, see below */
    uint32_t memory_alignment_bytes;  /* of buffers, to avoid a copy */
    uint8_t  volume_id[16];
    uint8_t  read_only;        /* 1 if opened so */
    uint8_t  active;           /* 0 while inactive */
    uint8_t  zero_init;        /* 1 if never written and not a clone */
    uint8_t  reserved[37];     /* zero */
} archipelago_info;

/* The size now. Never blocks. */
uint64_t archipelago_size(archipelago_volume *volume);

/* May block: own and shared bytes are counted in the map. */
int archipelago_get_info(archipelago_volume *volume, archipelago_info *info);

/* ---- data ------------------------------------------------------------- */

/* The write is durable when its callback runs. */
#define ARCHIPELAGO_WRITE_FUA 0x01u
/* For write_zeroes: the storage may be given back. */
#define ARCHIPELAGO_ZERO_UNMAP 0x02u

/*
 * Any offset and any total length of the iovecs will do. But a sector of 512
 * bytes that is written in part may hold a mix of old and new bytes after a
 * crash, until it has been flushed. Whoever reads and writes in multiples of
 * request_alignment_bytes, as QEMU does for its guests, has whole sectors: 512,
 * or 1 where the volume ends within a sector, and a caller that wants all
 * others whole sees to that itself. Past the end: reads and writes complete
 * with -EINVAL. `iov` itself is copied; the memory it names is not.
 */
void archipelago_read_submit(archipelago_volume *volume, uint64_t offset,
                             const struct iovec *iov, int iovcnt,
                             uint32_t flags,
                             archipelago_callback *callback, void *opaque);
void archipelago_write_submit(archipelago_volume *volume, uint64_t offset,
                              const struct iovec *iov, int iovcnt,
                              uint32_t flags,
                              archipelago_callback *callback, void *opaque);
void archipelago_write_zeroes_submit(archipelago_volume *volume,
                                     uint64_t offset, uint64_t bytes,
                                     uint32_t flags,
                                     archipelago_callback *callback,
                                     void *opaque);
/* Discarded bytes read as zeroes afterwards. */
void archipelago_discard_submit(archipelago_volume *volume, uint64_t offset,
                                uint64_t bytes, uint32_t flags,
                                archipelago_callback *callback, void *opaque);
/* Everything whose callback ran before this call is durable afterwards. */
void archipelago_flush_submit(archipelago_volume *volume, uint32_t flags,
                              archipelago_callback *callback, void *opaque);

/*
 * Reads now, on the calling thread, if that needs no waiting (a zero block, a
 * block in the page cache). Returns 0 when the buffers are filled, -EAGAIN
 * when it would block (submit it instead), another -errno on failure.
 */
int archipelago_try_read(archipelago_volume *volume, uint64_t offset,
                         const struct iovec *iov, int iovcnt, uint32_t flags);

#define ARCHIPELAGO_STATUS_DATA 1
#define ARCHIPELAGO_STATUS_ZERO 2

/*
 * What is at `offset`, and for how many of the next `bytes` that holds
 * (*status_bytes > 0). May block while a page of the map is loaded.
 */
int archipelago_block_status(archipelago_volume *volume, uint64_t offset,
                             uint64_t bytes, int *status,
                             uint64_t *status_bytes);

/* ---- size ------------------------------------------------------------- */

/* Needed to make a volume smaller: what lies beyond is gone for good. */
#define ARCHIPELAGO_RESIZE_SHRINK 0x01u

/* Grown space reads as zeroes. Errors: -EINVAL would shrink without the flag;
 * -EROFS, -EBUSY inactive. Durable when the callback runs. */
void archipelago_resize_submit(archipelago_volume *volume, uint64_t size,
                               uint32_t flags,
                               archipelago_callback *callback, void *opaque);

/* ---- snapshots of an open volume (they block) ------------------------- */

typedef struct archipelago_snapshot {
    char     name[129];        /* NUL-terminated */
    uint8_t  pending;          /* 1 until it is published */
    uint8_t  reserved[6];
    uint64_t size_bytes;
    uint64_t created_s;        /* seconds since 1970, UTC */
    uint32_t created_ns;
    uint32_t reserved2;
} archipelago_snapshot;

/* Durable on return. Errors: -EEXIST, -EINVAL bad name, -EROFS, -EBUSY. */
int archipelago_snapshot_create(archipelago_volume *volume, const char *name,
                                char *error, size_t error_bytes);
/* The volume's content becomes the snapshot's. No request may be in flight. */
int archipelago_snapshot_rollback(archipelago_volume *volume,
                                  const char *name,
                                  char *error, size_t error_bytes);
int archipelago_snapshot_remove(archipelago_volume *volume, const char *name,
                                char *error, size_t error_bytes);
/*
 * Writes up to `count_max` snapshots, oldest first, to `list` (may be NULL if
 * count_max is 0) and returns how many there are, or -errno.
 */
int archipelago_snapshot_list(archipelago_volume *volume,
                              archipelago_snapshot *list, size_t count_max,
                              char *error, size_t error_bytes);

/* ---- handing over ----------------------------------------------------- */

/*
 * Drains, flushes and gives the lease up: another process may take the volume
 * now. Reads go on to work; writes complete with -EBUSY.
 */
int archipelago_inactivate(archipelago_volume *volume,
                           char *error, size_t error_bytes);
/*
 * Takes the lease, forgets everything read so far and reads the volume's
 * state anew. Does nothing on an active volume, a snapshot or a read-only
 * volume (the latter reloads). It is the same volume, whatever its name is by
 * now; -ENOENT if it was removed.
 */
int archipelago_activate(archipelago_volume *volume,
                         char *error, size_t error_bytes);
/* Changes between read-only (1) and read-write (0) on an open handle; on an
 * inactive one, what it becomes when it is activated. */
int archipelago_set_read_only(archipelago_volume *volume, int read_only,
                              char *error, size_t error_bytes);

#ifdef __cplusplus
}
#endif

#endif /* ARCHIPELAGO_H */
