/*
 * QEMU block driver for Archipelago: a VM disk as a map of named blocks.
 *
 * All the work is done by libarchipelago.  This file only translates: a
 * coroutine fills an ArchipelagoTask on its stack, submits it to the library
 * and yields once; the library's callback wakes it again.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <archipelago.h>

#include "block/aio.h"
#include "block/archipelago-compat.h"
#include "block/block-io.h"
#include "block/block_int.h"
#include "block/qdict.h"
#include "block/thread-pool.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-block-core.h"
#include "qapi/qobject-input-visitor.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/option.h"
#include "qobject/qdict.h"

#define ARCHIPELAGO_PREFIX "archipelago:"
#define ARCHIPELAGO_OPT_BLOCK_SIZE "block_size"
#define ARCHIPELAGO_OPT_FROM "from"
#define ARCHIPELAGO_MESSAGE_BYTES 1024
/* "volume", "snapshot", "store", "config", "block-size", "from", NULL */
#define ARCHIPELAGO_OPTIONS_MAX 7

typedef struct BDRVArchipelagoState {
    archipelago_volume *volume;
    BlockdevOptionsArchipelago *location;
    uint32_t request_alignment;
    /* Writes past the end first make the volume larger, one at a time. */
    CoMutex grow_lock;
} BDRVArchipelagoState;

typedef struct ArchipelagoTask {
    Coroutine *co;
    int ret;
} ArchipelagoTask;

/*
 * Runs on a thread of the library, possibly before the submitting coroutine
 * has yielded.  aio_co_wake() called from a thread that has no AioContext only
 * schedules the coroutine in its own one, which cannot run it before it has
 * yielded.  @task is on the coroutine's stack: it must not be touched later.
 */
static void archipelago_task_done(void *opaque, int result)
{
    ArchipelagoTask *task = opaque;

    task->ret = result;
    aio_co_wake(task->co);
}

static ArchipelagoTask coroutine_fn archipelago_task_begin(void)
{
    return (ArchipelagoTask) {
        .co = qemu_coroutine_self(),
        .ret = -EINPROGRESS,
    };
}

static int coroutine_fn archipelago_task_wait(ArchipelagoTask *task)
{
    qemu_coroutine_yield();
    assert(task->ret != -EINPROGRESS);
    return task->ret;
}

/* The library's message if it gave one, the errno's otherwise. */
static void archipelago_error(Error **errp, int ret, const char *message,
                              const char *what)
{
    if (message[0]) {
        error_setg(errp, "%s", message);
    } else {
        error_setg_errno(errp, -ret, "%s", what);
    }
}

/* ---- names and options ------------------------------------------------ */

static bool archipelago_put_once(QDict *options, const char *key,
                                 const char *value, Error **errp)
{
    if (!value[0]) {
        error_setg(errp, "'%s' must not be empty in an archipelago: file name",
                   key);
        return false;
    }
    if (qdict_haskey(options, key)) {
        error_setg(errp, "'%s' is given twice: by the archipelago: file name "
                   "and beside or within it; give it once", key);
        return false;
    }
    qdict_put_str(options, key, value);
    return true;
}

static bool archipelago_parse_key(char *pair, QDict *options, Error **errp)
{
    char *value = strchr(pair, '=');

    if (!value) {
        error_setg(errp, "'%s' in an archipelago: file name is not of the form "
                   "key=value; the keys are store, snapshot and config", pair);
        return false;
    }
    *value++ = '\0';

    if (!strcmp(pair, "store") || !strcmp(pair, "snapshot") ||
        !strcmp(pair, "config")) {
        return archipelago_put_once(options, pair, value, errp);
    }
    if (!strcmp(pair, "mport") || !strcmp(pair, "vport") ||
        !strcmp(pair, "segment")) {
        warn_report("'%s' in an archipelago: file name has no meaning any more "
                    "and is ignored", pair);
        return true;
    }
    error_setg(errp, "'%s' is not a key of an archipelago: file name; the keys "
               "are store, snapshot and config", pair);
    return false;
}

/* archipelago:VOLUME[@SNAPSHOT][/key=value[:key=value...]] */
static void archipelago_parse_filename(const char *filename, QDict *options,
                                       Error **errp)
{
    g_autofree char *name = NULL;
    char *keys, *snapshot;
    const char *start;

    if (!strstart(filename, ARCHIPELAGO_PREFIX, &start)) {
        error_setg(errp, "File name must start with '" ARCHIPELAGO_PREFIX "'");
        return;
    }

    name = g_strdup(start);
    keys = strchr(name, '/');
    if (keys) {
        *keys++ = '\0';
    }
    snapshot = strchr(name, '@');
    if (snapshot) {
        *snapshot++ = '\0';
    }

    if (!archipelago_put_once(options, "volume", name, errp)) {
        return;
    }
    if (snapshot &&
        !archipelago_put_once(options, "snapshot", snapshot, errp)) {
        return;
    }
    if (keys && keys[0]) {
        g_auto(GStrv) pairs = g_strsplit(keys, ":", -1);

        for (int i = 0; pairs[i]; i++) {
            if (!archipelago_parse_key(pairs[i], options, errp)) {
                return;
            }
        }
    }
}

static BlockdevOptionsArchipelago *
archipelago_location_from_options(QDict *options, Error **errp)
{
    BlockdevOptionsArchipelago *location = NULL;
    const QDictEntry *entry;
    Visitor *visitor;

    visitor = qobject_input_visitor_new_flat_confused(options, errp);
    if (!visitor) {
        return NULL;
    }
    visit_type_BlockdevOptionsArchipelago(visitor, NULL, &location, errp);
    visit_free(visitor);
    if (!location) {
        return NULL;
    }

    /* The visitor has looked at every one: whatever is left is known. */
    while ((entry = qdict_first(options))) {
        qdict_del(options, entry->key);
    }
    return location;
}

static BlockdevOptionsArchipelago *
archipelago_location_from_filename(const char *filename, Error **errp)
{
    g_autoptr(QDict) options = qdict_new();
    Error *local_err = NULL;

    archipelago_parse_filename(filename, options, &local_err);
    if (local_err) {
        error_propagate(errp, local_err);
        return NULL;
    }
    return archipelago_location_from_options(options, errp);
}

static void archipelago_add_option(GPtrArray *list, const char *key,
                                   const char *value)
{
    if (value) {
        g_ptr_array_add(list, g_strdup_printf("%s=%s", key, value));
    }
}

/* The library's list of options; end it with g_ptr_array_add(list, NULL). */
static GPtrArray *
archipelago_location_list(const BlockdevOptionsArchipelago *location)
{
    GPtrArray *list = g_ptr_array_new_full(ARCHIPELAGO_OPTIONS_MAX, g_free);

    archipelago_add_option(list, "volume", location->volume);
    archipelago_add_option(list, "snapshot", location->snapshot);
    archipelago_add_option(list, "store", location->store);
    archipelago_add_option(list, "config", location->config);
    return list;
}

/*
 * A name that parse_filename reads back as the same location, or none, and
 * then QEMU makes a json: one.
 */
static void archipelago_refresh_filename(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    const BlockdevOptionsArchipelago *location = s->location;
    g_autoptr(GString) name = g_string_new(ARCHIPELAGO_PREFIX);
    char separator = '/';

    if ((location->store && strchr(location->store, ':')) ||
        (location->config && strchr(location->config, ':'))) {
        return;
    }
    g_string_append(name, location->volume);
    if (location->snapshot) {
        g_string_append_printf(name, "@%s", location->snapshot);
    }
    if (location->store) {
        g_string_append_printf(name, "%cstore=%s", separator, location->store);
        separator = ':';
    }
    if (location->config) {
        g_string_append_printf(name, "%cconfig=%s", separator,
                               location->config);
    }
    if (name->len < sizeof(bs->exact_filename)) {
        pstrcpy(bs->exact_filename, sizeof(bs->exact_filename), name->str);
    }
}

/* Where a relative backing file name starts: another volume of the store. */
static char *archipelago_dirname(BlockDriverState *bs, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;

    if (s->location->store || s->location->config) {
        error_setg(errp, "A backing file of a volume with 'store' or 'config' "
                   "needs its full name, such as '" ARCHIPELAGO_PREFIX
                   "BASE/store=NAME'");
        return NULL;
    }
    return g_strdup(ARCHIPELAGO_PREFIX);
}

/* ---- open, close, reopen ---------------------------------------------- */

static uint32_t archipelago_open_flags(BlockDriverState *bs, int flags)
{
    uint32_t open_flags = 0;

    if (!(flags & BDRV_O_RDWR)) {
        open_flags |= ARCHIPELAGO_OPEN_READ_ONLY;
    }
    if (flags & BDRV_O_INACTIVE) {
        open_flags |= ARCHIPELAGO_OPEN_INACTIVE;
    }
    if (flags & BDRV_O_NOCACHE) {
        open_flags |= ARCHIPELAGO_OPEN_DIRECT;
    }
    if (flags & BDRV_O_NO_FLUSH) {
        open_flags |= ARCHIPELAGO_OPEN_NO_FLUSH;
    }
    if (bs->force_share) {
        open_flags |= ARCHIPELAGO_OPEN_FORCE_SHARE;
    }
    return open_flags;
}

static int archipelago_set_auto_read_only(BlockDriverState *bs,
                                          const char *message, Error **errp)
{
    int ret;

    bdrv_graph_rdlock_main_loop();
    ret = bdrv_apply_auto_read_only(bs, message, errp);
    bdrv_graph_rdunlock_main_loop();
    return ret;
}

/* Opens s->volume, read-only where that is allowed instead of read-write. */
static int archipelago_open_volume(BlockDriverState *bs, int flags,
                                   Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    g_autoptr(GPtrArray) list = archipelago_location_list(s->location);
    const char *const *options;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    g_ptr_array_add(list, NULL);
    options = (const char *const *)list->pdata;

    if (s->location->snapshot && (flags & BDRV_O_RDWR)) {
        ret = archipelago_set_auto_read_only(
            bs, "Snapshots are read-only: open the volume itself, a clone of "
            "the snapshot, or use read-only=on", errp);
        if (ret < 0) {
            return ret;
        }
        flags &= ~BDRV_O_RDWR;
    }

    ret = archipelago_open(options, archipelago_open_flags(bs, flags),
                           &s->volume, message, sizeof(message));
    if ((ret == -EACCES || ret == -EROFS) && (flags & BDRV_O_RDWR) &&
        archipelago_set_auto_read_only(bs, NULL, NULL) == 0) {
        flags &= ~BDRV_O_RDWR;
        message[0] = '\0';
        ret = archipelago_open(options, archipelago_open_flags(bs, flags),
                               &s->volume, message, sizeof(message));
    }
    if (ret < 0) {
        archipelago_error(errp, ret, message, "Could not open the volume");
    }
    return ret;
}

static int archipelago_driver_open(BlockDriverState *bs, QDict *options,
                                   int flags, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    archipelago_info info;
    int ret;

    s->location = archipelago_location_from_options(options, errp);
    if (!s->location) {
        return -EINVAL;
    }

    ret = archipelago_open_volume(bs, flags, errp);
    if (ret < 0) {
        goto fail;
    }
    ret = archipelago_get_info(s->volume, &info);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not get the volume's size");
        archipelago_close(s->volume);
        s->volume = NULL;
        goto fail;
    }
    s->request_alignment = MAX(info.request_alignment_bytes, 1);

    qemu_co_mutex_init(&s->grow_lock);
    bs->supported_write_flags = BDRV_REQ_FUA;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                               BDRV_REQ_NO_FALLBACK;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    return 0;

fail:
    qapi_free_BlockdevOptionsArchipelago(s->location);
    s->location = NULL;
    return ret;
}

static void archipelago_driver_close(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    archipelago_close(s->volume);
    s->volume = NULL;
    qapi_free_BlockdevOptionsArchipelago(s->location);
    s->location = NULL;
}

static bool archipelago_is_read_only(BDRVArchipelagoState *s)
{
    archipelago_info info;

    return archipelago_get_info(s->volume, &info) == 0 && info.read_only;
}

/* Becoming writable can fail, so it is done here and undone by an abort. */
static int archipelago_reopen_prepare(BDRVReopenState *state,
                                      BlockReopenQueue *queue, Error **errp)
{
    BDRVArchipelagoState *s = state->bs->opaque;
    int changed = state->flags ^ state->bs->open_flags;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    state->opaque = NULL;
    if (changed & BDRV_O_NOCACHE) {
        error_setg(errp, "'cache.direct' of an open Archipelago volume cannot "
                   "be changed: remove the node and add it again");
        return -ENOTSUP;
    }
    if ((changed & BDRV_O_NO_FLUSH) && !(state->flags & BDRV_O_NO_FLUSH)) {
        error_setg(errp, "'cache.no-flush' of an open Archipelago volume cannot "
                   "be turned off: remove the node and add it again");
        return -ENOTSUP;
    }
    if (!(state->flags & BDRV_O_RDWR) || !archipelago_is_read_only(s)) {
        return 0;
    }
    if (s->location->snapshot) {
        error_setg(errp, "Cannot change node '%s' to read-write: it is a "
                   "snapshot, and snapshots are read-only",
                   bdrv_get_device_or_node_name(state->bs));
        return -EACCES;
    }
    ret = archipelago_set_read_only(s->volume, 0, message, sizeof(message));
    if (ret < 0) {
        archipelago_error(errp, ret, message,
                          "Could not open the volume for writing");
        return ret;
    }
    state->opaque = s;
    return 0;
}

static void archipelago_make_read_only(BDRVArchipelagoState *s)
{
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    ret = archipelago_set_read_only(s->volume, 1, message, sizeof(message));
    if (ret < 0) {
        /* The node is read-only for QEMU all the same. */
        warn_report("Volume '%s' stays leased for writing: %s",
                    s->location->volume,
                    message[0] ? message : strerror(-ret));
    }
}

static void archipelago_reopen_commit(BDRVReopenState *state)
{
    BDRVArchipelagoState *s = state->bs->opaque;

    if (!(state->flags & BDRV_O_RDWR) && !archipelago_is_read_only(s)) {
        archipelago_make_read_only(s);
    }
}

static void archipelago_reopen_abort(BDRVReopenState *state)
{
    if (state->opaque) {
        archipelago_make_read_only(state->opaque);
        state->opaque = NULL;
    }
}

/* ---- create ----------------------------------------------------------- */

static int archipelago_do_create(const BlockdevCreateOptionsArchipelago *opts,
                                 Error **errp)
{
    g_autoptr(GPtrArray) list = NULL;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    if (opts->location->snapshot) {
        error_setg(errp, "Cannot create a snapshot here: give the new volume's "
                   "name only");
        return -EINVAL;
    }

    list = archipelago_location_list(opts->location);
    if (opts->has_block_size) {
        g_autofree char *bytes = g_strdup_printf("%" PRIu64, opts->block_size);

        archipelago_add_option(list, "block-size", bytes);
    }
    archipelago_add_option(list, "from", opts->from);
    g_ptr_array_add(list, NULL);

    ret = archipelago_create((const char *const *)list->pdata, opts->size, 0,
                             message, sizeof(message));
    if (ret < 0) {
        archipelago_error(errp, ret, message, "Could not create the volume");
    }
    return ret;
}

static int coroutine_fn archipelago_co_create(BlockdevCreateOptions *opts,
                                              Error **errp)
{
    assert(opts->driver == BLOCKDEV_DRIVER_ARCHIPELAGO);
    return archipelago_do_create(&opts->u.archipelago, errp);
}

static int coroutine_fn archipelago_co_create_opts(BlockDriver *drv,
                                                   const char *filename,
                                                   QemuOpts *opts,
                                                   Error **errp)
{
    BlockdevCreateOptionsArchipelago create = { 0 };
    uint64_t block_size, cluster_size;
    g_autofree char *from = NULL;
    int ret;

    create.size = ROUND_UP(qemu_opt_get_size_del(opts, BLOCK_OPT_SIZE, 0),
                           BDRV_SECTOR_SIZE);
    block_size = qemu_opt_get_size_del(opts, ARCHIPELAGO_OPT_BLOCK_SIZE, 0);
    cluster_size = qemu_opt_get_size_del(opts, BLOCK_OPT_CLUSTER_SIZE, 0);
    from = qemu_opt_get_del(opts, ARCHIPELAGO_OPT_FROM);

    if (block_size && cluster_size && block_size != cluster_size) {
        error_setg(errp, "'block_size' and 'cluster_size' are two names of one "
                   "option: give only one of them");
        return -EINVAL;
    }
    create.block_size = block_size ? block_size : cluster_size;
    create.has_block_size = create.block_size != 0;
    create.from = from;

    create.location = archipelago_location_from_filename(filename, errp);
    if (!create.location) {
        return -EINVAL;
    }
    ret = archipelago_do_create(&create, errp);
    qapi_free_BlockdevOptionsArchipelago(create.location);
    return ret;
}

/* ---- facts ------------------------------------------------------------ */

static int64_t coroutine_fn archipelago_co_getlength(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;

    return archipelago_size(s->volume);
}

static int64_t coroutine_fn
archipelago_co_get_allocated_file_size(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    archipelago_info info;
    int ret = archipelago_get_info(s->volume, &info);

    return ret < 0 ? ret : info.own_bytes;
}

static int coroutine_fn archipelago_co_get_info(BlockDriverState *bs,
                                                BlockDriverInfo *bdi)
{
    BDRVArchipelagoState *s = bs->opaque;
    archipelago_info info;
    int ret = archipelago_get_info(s->volume, &info);

    if (ret < 0) {
        return ret;
    }
    bdi->cluster_size = info.block_bytes;
    return 0;
}

static int archipelago_has_zero_init(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    archipelago_info info;

    return archipelago_get_info(s->volume, &info) == 0 && info.zero_init;
}

/*
 * The library splits at block borders by itself and handles zeroes and
 * discards of any length, so that QEMU need not cut requests into pieces.
 */
static void archipelago_refresh_limits(BlockDriverState *bs, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    archipelago_info info;
    int ret = archipelago_get_info(s->volume, &info);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not get the volume's limits");
        return;
    }
    bs->bl.request_alignment = s->request_alignment;
    bs->bl.opt_mem_alignment = MAX(info.memory_alignment_bytes,
                                   qemu_real_host_page_size());
    bs->bl.opt_transfer = info.block_bytes;
}

/* ---- data ------------------------------------------------------------- */

static int coroutine_fn archipelago_co_read(BDRVArchipelagoState *s,
                                            uint64_t offset,
                                            QEMUIOVector *qiov)
{
    ArchipelagoTask task;
    int ret;

    ret = archipelago_try_read(s->volume, offset, qiov->iov, qiov->niov, 0);
    if (ret != -EAGAIN) {
        return ret;
    }
    task = archipelago_task_begin();
    archipelago_read_submit(s->volume, offset, qiov->iov, qiov->niov, 0,
                            archipelago_task_done, &task);
    return archipelago_task_wait(&task);
}

/*
 * QEMU rounds the size up to a sector and requests up to the alignment: what
 * lies between the volume's end and that reads as zeroes.
 */
static int coroutine_fn archipelago_co_preadv(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              QEMUIOVector *qiov,
                                              BdrvRequestFlags flags)
{
    BDRVArchipelagoState *s = bs->opaque;
    uint64_t size = archipelago_size(s->volume);
    QEMUIOVector inside;
    int ret;

    if (likely(offset + bytes <= size)) {
        return archipelago_co_read(s, offset, qiov);
    }
    if (offset >= size) {
        qemu_iovec_memset(qiov, 0, 0, bytes);
        return 0;
    }
    qemu_iovec_init_slice(&inside, qiov, 0, size - offset);
    ret = archipelago_co_read(s, offset, &inside);
    qemu_iovec_destroy(&inside);
    if (ret == 0) {
        qemu_iovec_memset(qiov, size - offset, 0, offset + bytes - size);
    }
    return ret;
}

static int coroutine_fn archipelago_co_resize(BDRVArchipelagoState *s,
                                              uint64_t size, uint32_t flags)
{
    ArchipelagoTask task = archipelago_task_begin();

    archipelago_resize_submit(s->volume, size, flags, archipelago_task_done,
                              &task);
    return archipelago_task_wait(&task);
}

/*
 * A format on top, such as qcow2, makes its file larger by writing past its
 * end.  Whoever waited for the lock may find that it is large enough by now.
 */
static int coroutine_fn archipelago_co_reach(BDRVArchipelagoState *s,
                                             uint64_t end)
{
    int ret = 0;

    if (likely(end <= archipelago_size(s->volume))) {
        return 0;
    }
    qemu_co_mutex_lock(&s->grow_lock);
    if (end > archipelago_size(s->volume)) {
        ret = archipelago_co_resize(s, end, 0);
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    return ret;
}

static int coroutine_fn archipelago_co_pwritev(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes,
                                               QEMUIOVector *qiov,
                                               BdrvRequestFlags flags)
{
    BDRVArchipelagoState *s = bs->opaque;
    ArchipelagoTask task;
    int ret;

    ret = archipelago_co_reach(s, offset + bytes);
    if (ret < 0) {
        return ret;
    }
    task = archipelago_task_begin();
    archipelago_write_submit(s->volume, offset, qiov->iov, qiov->niov,
                             flags & BDRV_REQ_FUA ? ARCHIPELAGO_WRITE_FUA : 0,
                             archipelago_task_done, &task);
    return archipelago_task_wait(&task);
}

static int coroutine_fn archipelago_co_pwrite_zeroes(BlockDriverState *bs,
                                                     int64_t offset,
                                                     int64_t bytes,
                                                     BdrvRequestFlags flags)
{
    BDRVArchipelagoState *s = bs->opaque;
    uint32_t zero_flags = 0;
    ArchipelagoTask task;
    int ret;

    if (flags & BDRV_REQ_FUA) {
        zero_flags |= ARCHIPELAGO_WRITE_FUA;
    }
    if (flags & BDRV_REQ_MAY_UNMAP) {
        zero_flags |= ARCHIPELAGO_ZERO_UNMAP;
    }
    ret = archipelago_co_reach(s, offset + bytes);
    if (ret < 0) {
        return ret;
    }
    task = archipelago_task_begin();
    archipelago_write_zeroes_submit(s->volume, offset, bytes, zero_flags,
                                    archipelago_task_done, &task);
    return archipelago_task_wait(&task);
}

static int coroutine_fn archipelago_co_pdiscard(BlockDriverState *bs,
                                                int64_t offset, int64_t bytes)
{
    BDRVArchipelagoState *s = bs->opaque;
    uint64_t size = archipelago_size(s->volume);
    ArchipelagoTask task;

    if (offset >= size) {
        return 0;
    }
    bytes = MIN(bytes, size - offset);
    /* QEMU passes on fragments, and takes this answer for "leave it". */
    if (!QEMU_IS_ALIGNED(offset | bytes, s->request_alignment) &&
        offset + bytes != size) {
        return -ENOTSUP;
    }
    task = archipelago_task_begin();
    archipelago_discard_submit(s->volume, offset, bytes, 0,
                               archipelago_task_done, &task);
    return archipelago_task_wait(&task);
}

static int coroutine_fn archipelago_co_flush_to_disk(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    ArchipelagoTask task = archipelago_task_begin();

    archipelago_flush_submit(s->volume, 0, archipelago_task_done, &task);
    return archipelago_task_wait(&task);
}

/*
 * The size is always made the one that is asked for: QEMU lets exact=false
 * leave a node larger only where it cannot be made smaller, as a host device.
 */
static int coroutine_fn archipelago_co_truncate(BlockDriverState *bs,
                                                int64_t offset, bool exact,
                                                PreallocMode prealloc,
                                                BdrvRequestFlags flags,
                                                Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    uint64_t size;
    int ret = 0;

    if (prealloc != PREALLOC_MODE_OFF) {
        error_setg(errp, "Unsupported preallocation mode '%s': blocks of an "
                   "Archipelago volume appear when they are written",
                   PreallocMode_str(prealloc));
        return -ENOTSUP;
    }

    qemu_co_mutex_lock(&s->grow_lock);
    size = archipelago_size(s->volume);
    if (offset != size) {
        ret = archipelago_co_resize(
            s, offset, offset < size ? ARCHIPELAGO_RESIZE_SHRINK : 0);
    }
    qemu_co_mutex_unlock(&s->grow_lock);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not resize volume '%s'",
                         s->location->volume);
    }
    return ret;
}

typedef struct ArchipelagoStatus {
    archipelago_volume *volume;
    uint64_t offset;
    uint64_t bytes;
    uint64_t status_bytes;
    int status;
} ArchipelagoStatus;

/* A page of the map may have to be loaded: QEMU's worker thread waits. */
static int archipelago_block_status_worker(void *opaque)
{
    ArchipelagoStatus *st = opaque;

    return archipelago_block_status(st->volume, st->offset, st->bytes,
                                    &st->status, &st->status_bytes);
}

static int coroutine_fn archipelago_co_block_status(BlockDriverState *bs,
                                                    ArchipelagoStatusMode mode,
                                                    int64_t offset,
                                                    int64_t bytes,
                                                    int64_t *pnum,
                                                    int64_t *map,
                                                    BlockDriverState **file)
{
    BDRVArchipelagoState *s = bs->opaque;
    uint64_t size = archipelago_size(s->volume);
    ArchipelagoStatus st = { .volume = s->volume, .offset = offset };
    uint64_t end;
    int ret;

    *map = offset;
    *file = bs;
    if (offset >= size) {
        *pnum = bytes;
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_OFFSET_VALID;
    }

    st.bytes = MIN(bytes, size - offset);
    ret = thread_pool_submit_co(archipelago_block_status_worker, &st);
    if (ret < 0) {
        return ret;
    }
    assert(st.status_bytes > 0 && st.status_bytes <= st.bytes);

    /*
     * QEMU counts in units of the request alignment.  A unit with anything but
     * zeroes in it is data, what follows the volume's end counts as zeroes.
     */
    end = offset + st.status_bytes;
    if (end == size) {
        end = ROUND_UP(end, s->request_alignment);
    } else if (st.status == ARCHIPELAGO_STATUS_ZERO) {
        end = ROUND_DOWN(end, s->request_alignment);
    }
    if (st.status == ARCHIPELAGO_STATUS_ZERO && end > offset) {
        *pnum = MIN(bytes, end - offset);
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_OFFSET_VALID;
    }
    end = MAX(end, offset + 1);
    *pnum = MIN(bytes, ROUND_UP(end, s->request_alignment) - offset);
    return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
}

/* ---- snapshots -------------------------------------------------------- */

static int archipelago_snapshot_failed(int ret, const char *message)
{
    if (message[0]) {
        error_report("%s", message);
    }
    return ret;
}

/* A snapshot's name is its only identity: QEMU's id is the name again. */
static bool archipelago_id_is_name(const char *id, const char *name)
{
    char name_as_id[sizeof_field(QEMUSnapshotInfo, id_str)];

    pstrcpy(name_as_id, sizeof(name_as_id), name);
    return !strcmp(id, name_as_id);
}

static int archipelago_driver_snapshot_create(BlockDriverState *bs,
                                              QEMUSnapshotInfo *sn_info)
{
    BDRVArchipelagoState *s = bs->opaque;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    if (!sn_info->name[0]) {
        error_report("A snapshot of an Archipelago volume needs a name");
        return -EINVAL;
    }
    if (sn_info->id_str[0] &&
        !archipelago_id_is_name(sn_info->id_str, sn_info->name)) {
        error_report("A snapshot of an Archipelago volume has no id beside its "
                     "name");
        return -EINVAL;
    }
    ret = archipelago_snapshot_create(s->volume, sn_info->name, message,
                                      sizeof(message));
    if (ret < 0) {
        return archipelago_snapshot_failed(ret, message);
    }
    pstrcpy(sn_info->id_str, sizeof(sn_info->id_str), sn_info->name);
    return 0;
}

static int archipelago_driver_snapshot_goto(BlockDriverState *bs,
                                            const char *name)
{
    BDRVArchipelagoState *s = bs->opaque;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    ret = archipelago_snapshot_rollback(s->volume, name, message,
                                        sizeof(message));
    if (ret < 0) {
        return archipelago_snapshot_failed(ret, message);
    }
    /* The volume has the size that the snapshot had. */
    return bdrv_refresh_total_sectors(bs, 0);
}

static int archipelago_driver_snapshot_delete(BlockDriverState *bs,
                                              const char *id,
                                              const char *name, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    if (!name) {
        name = id;
    } else if (id && !archipelago_id_is_name(id, name)) {
        error_setg(errp, "Snapshots of an Archipelago volume have no id beside "
                   "their name: there is none with name '%s' and id '%s'",
                   name, id);
        return -ENOENT;
    }
    ret = archipelago_snapshot_remove(s->volume, name, message,
                                      sizeof(message));
    if (ret < 0) {
        archipelago_error(errp, ret, message, "Could not delete the snapshot");
    }
    return ret;
}

static int archipelago_driver_snapshot_list(BlockDriverState *bs,
                                            QEMUSnapshotInfo **sn_tab)
{
    BDRVArchipelagoState *s = bs->opaque;
    g_autofree archipelago_snapshot *list = NULL;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int max = 0, count;

    *sn_tab = NULL;
    for (;;) {
        count = archipelago_snapshot_list(s->volume, list, max, message,
                                          sizeof(message));
        if (count < 0) {
            return archipelago_snapshot_failed(count, message);
        }
        if (count <= max) {
            break;
        }
        max = count;
        list = g_renew(archipelago_snapshot, list, max);
    }
    if (!count) {
        return 0;
    }

    *sn_tab = g_new0(QEMUSnapshotInfo, count);
    for (int i = 0; i < count; i++) {
        QEMUSnapshotInfo *sn = &(*sn_tab)[i];

        pstrcpy(sn->id_str, sizeof(sn->id_str), list[i].name);
        pstrcpy(sn->name, sizeof(sn->name), list[i].name);
        sn->date_sec = list[i].created_s;
        sn->date_nsec = list[i].created_ns;
        sn->icount = -1ULL;
    }
    return count;
}

/* ---- handing over ----------------------------------------------------- */

static int archipelago_driver_inactivate(BlockDriverState *bs)
{
    BDRVArchipelagoState *s = bs->opaque;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    ret = archipelago_inactivate(s->volume, message, sizeof(message));
    if (ret < 0) {
        error_report("Could not hand volume '%s' over: %s",
                     s->location->volume,
                     message[0] ? message : strerror(-ret));
    }
    return ret;
}

static void coroutine_fn
archipelago_co_invalidate_cache(BlockDriverState *bs, Error **errp)
{
    BDRVArchipelagoState *s = bs->opaque;
    char message[ARCHIPELAGO_MESSAGE_BYTES] = "";
    int ret;

    ret = archipelago_activate(s->volume, message, sizeof(message));
    if (ret < 0) {
        archipelago_error(errp, ret, message, "Could not take the volume over");
    }
}

/* ---- the driver ------------------------------------------------------- */

static QemuOptsList archipelago_create_opts = {
    .name = "archipelago-create-opts",
    .head = QTAILQ_HEAD_INITIALIZER(archipelago_create_opts.head),
    .desc = {
        {
            .name = BLOCK_OPT_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Virtual disk size"
        },
        {
            .name = ARCHIPELAGO_OPT_BLOCK_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Size of a block, a power of two from 16K to 64M"
        },
        {
            .name = BLOCK_OPT_CLUSTER_SIZE,
            .type = QEMU_OPT_SIZE,
            .help = "Another name for block_size"
        },
        {
            .name = ARCHIPELAGO_OPT_FROM,
            .type = QEMU_OPT_STRING,
            .help = "VOLUME@SNAPSHOT of which to make a clone"
        },
        { /* end of list */ }
    }
};

static const char *const archipelago_strong_runtime_opts[] = {
    "volume",
    "snapshot",
    "store",
    "config",

    NULL
};

static BlockDriver bdrv_archipelago = {
    .format_name            = "archipelago",
    .protocol_name          = "archipelago",
    .instance_size          = sizeof(BDRVArchipelagoState),
    .create_opts            = &archipelago_create_opts,
    .strong_runtime_opts    = archipelago_strong_runtime_opts,

    .bdrv_parse_filename    = archipelago_parse_filename,
    .bdrv_refresh_filename  = archipelago_refresh_filename,
    .bdrv_dirname           = archipelago_dirname,
    .bdrv_open              = archipelago_driver_open,
    .bdrv_close             = archipelago_driver_close,
    .bdrv_reopen_prepare    = archipelago_reopen_prepare,
    .bdrv_reopen_commit     = archipelago_reopen_commit,
    .bdrv_reopen_abort      = archipelago_reopen_abort,
    .bdrv_co_create         = archipelago_co_create,
    .bdrv_co_create_opts    = archipelago_co_create_opts,

    .bdrv_co_getlength      = archipelago_co_getlength,
    .bdrv_co_get_info       = archipelago_co_get_info,
    .bdrv_co_get_allocated_file_size = archipelago_co_get_allocated_file_size,
    .bdrv_has_zero_init     = archipelago_has_zero_init,
    .bdrv_refresh_limits    = archipelago_refresh_limits,

    .bdrv_co_preadv         = archipelago_co_preadv,
    .bdrv_co_pwritev        = archipelago_co_pwritev,
    .bdrv_co_pwrite_zeroes  = archipelago_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = archipelago_co_pdiscard,
    .bdrv_co_flush_to_disk  = archipelago_co_flush_to_disk,
    .bdrv_co_truncate       = archipelago_co_truncate,
    .bdrv_co_block_status   = archipelago_co_block_status,

    .bdrv_snapshot_create   = archipelago_driver_snapshot_create,
    .bdrv_snapshot_goto     = archipelago_driver_snapshot_goto,
    .bdrv_snapshot_delete   = archipelago_driver_snapshot_delete,
    .bdrv_snapshot_list     = archipelago_driver_snapshot_list,

    .bdrv_inactivate        = archipelago_driver_inactivate,
    .bdrv_co_invalidate_cache = archipelago_co_invalidate_cache,
};

static void bdrv_archipelago_init(void)
{
    bdrv_register(&bdrv_archipelago);
}

block_init(bdrv_archipelago_init);
