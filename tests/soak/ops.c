/*
 * Random operations on an NBD export, and a model in memory of what it must hold.
 *
 *   ops SOCKET MODEL SEED OPERATIONS IN_FLIGHT
 *
 * MODEL is a file of the export's size, mapped: it is the expected content, before and
 * after. Reads, writes, zeroes and discards at any offset and length, several in
 * flight, flushes between them. What is read is compared byte by byte; a discarded
 * range is read at once, and each byte must be zero or what it was. Which operations
 * are made follows from SEED alone: one that touches bytes of another in flight waits.
 *
 * Ends with 0, or with 1 and a sentence that says what was wrong where, and which
 * operations touched the place last.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { READ, WRITE, FLUSH = 3, DISCARD, ZEROES = 6 };
enum { FUA = 1, NO_HOLE = 2 };
/* QEMU takes 16 requests in; with more both sides would wait for each other to read. */
enum { SLOTS = 15, LENGTH_MAX = 1 << 20, HISTORY = 1 << 16 };

struct operation {
    uint64_t number, offset;
    uint32_t length;
    uint16_t kind, flags;
};

struct slot {
    struct operation op;
    bool busy, rereads;
    uint8_t *data;
};

static struct slot slots[SLOTS];
static struct operation history[HISTORY];
static uint8_t *model;
static uint64_t size, dice, counts[7];
static int server;

static const char *const names[] = { "read", "write", "", "flush", "discard", "", "zeroes" };

static void fail(const char *words, ...)
{
    va_list list;

    va_start(list, words);
    vprintf(words, list);
    va_end(list);
    putchar('\n');
    exit(1);
}

static uint64_t roll(void)
{
    /* splitmix64 */
    uint64_t z = dice += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t below(uint64_t limit)
{
    return limit ? roll() % limit : 0;
}

/* ---- the server --------------------------------------------------------- */

static void send_all(const void *data, size_t length)
{
    for (const char *at = data; length;) {
        ssize_t done = send(server, at, length, MSG_NOSIGNAL);

        if (done <= 0)
            fail("the server is gone: %s", strerror(errno));
        at += done;
        length -= done;
    }
}

static void receive_all(void *data, size_t length)
{
    for (char *at = data; length;) {
        ssize_t done = recv(server, at, length, 0);

        if (done <= 0)
            fail("the server is gone: %s", done ? strerror(errno) : "it hung up");
        at += done;
        length -= done;
    }
}

static void greet(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct { uint64_t magic, option_magic; uint16_t flags; } __attribute__((packed)) hello;
    struct { uint32_t flags; uint64_t magic; uint32_t option, length; char name[4]; } __attribute__((packed))
        wish = { htobe32(3), htobe64(0x49484156454F5054), htobe32(1), htobe32(4), "disk" };
    struct { uint64_t size; uint16_t flags; } __attribute__((packed)) answer;

    if (strlen(path) >= sizeof(address.sun_path))
        fail("the socket's path is too long: %s", path);
    strcpy(address.sun_path, path);
    server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof(address)) != 0)
        fail("nobody listens at %s: %s", path, strerror(errno));
    receive_all(&hello, sizeof(hello));
    send_all(&wish, sizeof(wish));
    receive_all(&answer, sizeof(answer));
    if (be64toh(answer.size) != size)
        fail("the export has %llu bytes, the model %llu", (unsigned long long)be64toh(answer.size),
             (unsigned long long)size);
}

/* ---- what was done ------------------------------------------------------ */

/* Says which operations touched a byte last. */
static void blame(uint64_t at)
{
    uint64_t last = 0;

    for (unsigned i = 0; i < HISTORY; i++)
        last = history[i].number > last ? history[i].number : last;
    for (unsigned shown = 0, back = 0; back < HISTORY && back < last && shown < 8; back++) {
        struct operation *op = &history[(last - back) % HISTORY];

        if (op->kind == READ || op->kind == FLUSH || op->offset > at || op->offset + op->length <= at)
            continue;
        printf("operation %llu: %s of %u bytes at %llu%s\n", (unsigned long long)op->number,
               names[op->kind], op->length, (unsigned long long)op->offset,
               op->flags & FUA ? " with FUA" : "");
        shown++;
    }
}

static void compare(struct slot *slot)
{
    uint8_t *wanted = model + slot->op.offset;

    if (!slot->rereads && memcmp(slot->data, wanted, slot->op.length) == 0)
        return;
    for (uint32_t i = 0; i < slot->op.length; i++) {
        if (slot->data[i] == wanted[i])
            continue;
        if (slot->rereads && slot->data[i] == 0) {
            wanted[i] = 0;
            continue;
        }
        blame(slot->op.offset + i);
        fail("operation %llu, a %s of %u bytes at %llu: byte %llu is 0x%02x and not 0x%02x",
             (unsigned long long)slot->op.number, names[slot->op.kind], slot->op.length,
             (unsigned long long)slot->op.offset, (unsigned long long)slot->op.offset + i,
             slot->data[i], wanted[i]);
    }
}

/* ---- requests ----------------------------------------------------------- */

static void request(struct slot *slot, uint16_t kind)
{
    struct { uint32_t magic; uint16_t flags, kind; uint64_t handle, offset; uint32_t length; }
        __attribute__((packed)) head = {
            htobe32(0x25609513), htobe16(slot->rereads ? 0 : slot->op.flags), htobe16(kind),
            htobe64(slot - slots), htobe64(slot->op.offset), htobe32(slot->op.length) };

    send_all(&head, sizeof(head));
    if (kind == WRITE)
        send_all(slot->data, slot->op.length);
}

static void answer(void)
{
    struct { uint32_t magic, error; uint64_t handle; } __attribute__((packed)) head;
    struct slot *slot;

    receive_all(&head, sizeof(head));
    slot = &slots[be64toh(head.handle) % SLOTS];
    if (be32toh(head.magic) != 0x67446698 || !slot->busy)
        fail("the server's answer makes no sense");
    if (head.error)
        fail("operation %llu, a %s of %u bytes at %llu, failed with error %u",
             (unsigned long long)slot->op.number, names[slot->op.kind], slot->op.length,
             (unsigned long long)slot->op.offset, be32toh(head.error));
    if (slot->op.kind == READ || slot->rereads) {
        receive_all(slot->data, slot->op.length);
        compare(slot);
    } else if (slot->op.kind == DISCARD) {
        slot->rereads = true;
        request(slot, READ);
        return;
    }
    slot->busy = slot->rereads = false;
}

/* Bytes are not touched by two at a time, except by reads. */
static bool in_the_way(const struct operation *op)
{
    for (struct slot *slot = slots; slot < slots + SLOTS; slot++)
        if (slot->busy && slot->op.kind != FLUSH && op->kind != FLUSH &&
            !(slot->op.kind == READ && op->kind == READ) &&
            slot->op.offset < op->offset + op->length && op->offset < slot->op.offset + slot->op.length)
            return true;
    return false;
}

static void draw(struct operation *op, uint64_t hot)
{
    static const uint32_t lengths[] = { LENGTH_MAX, 262144, 65536, 16384, 8192, 4096, 512 };
    static const uint8_t shares[] = { 1, 3, 9, 17, 25, 50, 64 };
    static const uint32_t aligns[] = { 1, 512, 4096, 4096 };
    uint64_t what = below(100), align = aligns[below(4)], rolled = below(64), length;
    unsigned which = 0;

    while (shares[which] <= rolled)
        which++;
    length = lengths[which];


    op->kind = what < 40 ? READ : what < 78 ? WRITE : what < 88 ? ZEROES : what < 96 ? DISCARD : FLUSH;
    op->flags = (op->kind == WRITE && below(12) == 0 ? FUA : 0) |
                (op->kind == ZEROES && below(2) ? NO_HOLE : 0);
    op->offset = op->length = 0;
    if (op->kind == FLUSH)
        return;
    if (length > size)
        length = size;
    if (below(2))
        length = 1 + below(length);
    length = (length + align - 1) / align * align;
    if (length > size || length > LENGTH_MAX)
        length = align > size ? size : align;
    /* Half of all in a small place: what is written often meets itself. */
    op->offset = below(2) && hot + (2 << 20) < size ? hot + below(2 << 20) : below(size);
    op->offset = op->offset / align * align;
    if (op->offset > size - length)
        op->offset = below(4) ? below(size - length + 1) / align * align : size - length;
    op->length = length;
}

static void fill(struct slot *slot)
{
    uint64_t word = slot->op.number * 0x9e3779b97f4a7c15 | 1;

    if (slot->op.kind == WRITE && slot->op.number % 16 == 0)
        word = 0;
    for (uint32_t i = 0; i < slot->op.length; i += 8) {
        memcpy(slot->data + i, &word, sizeof(word));
        word = word * 6364136223846793005 + (word ? 1442695040888963407 : 0);
    }
}

static struct slot *free_slot(unsigned in_flight)
{
    for (unsigned i = 0; i < in_flight; i++)
        if (!slots[i].busy)
            return &slots[i];
    return NULL;
}

static void start(struct slot *slot, const struct operation *op)
{
    slot->op = *op;
    slot->busy = true;
    history[op->number % HISTORY] = *op;
    counts[op->kind]++;
    if (op->kind == WRITE) {
        fill(slot);
        memcpy(model + op->offset, slot->data, op->length);
    } else if (op->kind == ZEROES) {
        memset(model + op->offset, 0, op->length);
    }
    request(slot, op->kind);
}

static bool any_busy(void)
{
    for (struct slot *slot = slots; slot < slots + SLOTS; slot++)
        if (slot->busy)
            return true;
    return false;
}

/* Everything once more, then a flush: what follows may kill the server. */
static void read_all(void)
{
    struct slot *slot = slots;

    for (uint64_t at = 0; at < size; at += slot->op.length) {
        slot->op = (struct operation) { ~0ull, at, size - at < LENGTH_MAX ? size - at : LENGTH_MAX, READ, 0 };
        slot->busy = true;
        request(slot, READ);
        answer();
    }
    slot->op = (struct operation) { ~0ull, 0, 0, FLUSH, 0 };
    slot->busy = true;
    request(slot, FLUSH);
    answer();
}

int main(int count, char **words)
{
    struct stat stat;
    int file;

    if (count != 6 || (file = open(words[2], O_RDWR)) < 0 || fstat(file, &stat) != 0) {
        fputs("usage: ops SOCKET MODEL SEED OPERATIONS IN_FLIGHT\n", stderr);
        return 2;
    }
    size = stat.st_size;
    model = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    dice = strtoull(words[3], NULL, 10);
    uint64_t total = strtoull(words[4], NULL, 10);
    unsigned in_flight = strtoul(words[5], NULL, 10);
    if (model == MAP_FAILED || in_flight < 1 || in_flight > SLOTS)
        fail("the model cannot be mapped, or %u in flight is not 1 to %d", in_flight, SLOTS);
    for (struct slot *slot = slots; slot < slots + SLOTS; slot++)
        slot->data = malloc(LENGTH_MAX + 8);
    greet(words[1]);
    for (uint64_t number = 1, hot = below(size); number <= total; number++) {
        struct operation op = { .number = number };
        struct slot *slot;

        draw(&op, hot);
        while ((slot = free_slot(in_flight)) == NULL || in_the_way(&op))
            answer();
        start(slot, &op);
    }
    while (any_busy())
        answer();
    read_all();
    printf("%llu reads, %llu writes, %llu zeroes, %llu discards, %llu flushes\n",
           (unsigned long long)counts[READ], (unsigned long long)counts[WRITE],
           (unsigned long long)counts[ZEROES], (unsigned long long)counts[DISCARD],
           (unsigned long long)counts[FLUSH]);
    return 0;
}
