/* The least that an io_uring server can take (Linux 6.1): multishot accept and receive, a ring of
 * provided buffers, and sends out of these buffers that complete without an entry. No library: the
 * ring is mapped and filled by hand.
 *
 * A send has MSG_DONTWAIT and IOSQE_CQE_SKIP_SUCCESS, so when io_uring_enter(2) returns it is over:
 * either whole, without an entry, or it has left an entry with what it sent. A connection has one
 * send in flight; what it receives meanwhile waits in its queue, so no byte overtakes another.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "options.h"

#define ENTRIES 4096
#define COMPLETIONS (4 * ENTRIES)
#define DESCRIPTORS (64 << 10)

enum { ACCEPT = 1, RECEIVE, SEND, POLL };

struct piece { /* received bytes that are owed, in a provided buffer */
    uint16_t buffer;
    uint32_t begin, length;
};

struct connection {
    struct piece *owed;
    uint32_t first, count, room;
    int sends, listed, ended;
};

static struct connection connections[DESCRIPTORS];
static int sending[DESCRIPTORS], sending_count, next_sending[DESCRIPTORS], next_count;
static unsigned *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask, queued;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
static struct io_uring_buf_ring *buffers;
static uint16_t buffers_tail, buffers_count;
static char *memory;
static int ring;

static unsigned enter(unsigned wait)
{
    long n = syscall(__NR_io_uring_enter, ring, queued, wait,
                     IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING, NULL, 0);
    check(n, "io_uring_enter");
    queued -= n;
    return queued;
}

static struct io_uring_sqe *submission(int operation, int fd)
{
    if (queued == ENTRIES)
        enter(0);
    struct io_uring_sqe *sqe = &sqes[*sq_tail & sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->fd = fd;
    sqe->user_data = (uint64_t)operation << 32 | (uint32_t)fd;
    atomic_store_explicit((_Atomic unsigned *)sq_tail, *sq_tail + 1, memory_order_release);
    queued++;
    return sqe;
}

static void accept_all(int listener)
{
    struct io_uring_sqe *sqe = submission(ACCEPT, listener);
    sqe->opcode = IORING_OP_ACCEPT;
    sqe->ioprio = IORING_ACCEPT_MULTISHOT;
}

static void receive(int fd)
{
    struct io_uring_sqe *sqe = submission(RECEIVE, fd);
    sqe->opcode = IORING_OP_RECV;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->flags = IOSQE_BUFFER_SELECT;
}

static void give_back(uint16_t buffer)
{
    struct io_uring_buf *entry = &buffers->bufs[buffers_tail++ & (buffers_count - 1)];
    entry->addr = (uint64_t)(uintptr_t)(memory + buffer * buffer_bytes);
    entry->len = buffer_bytes;
    entry->bid = buffer;
    atomic_store_explicit((_Atomic uint16_t *)&buffers->tail, buffers_tail, memory_order_release);
}

static void close_if_over(int fd)
{
    struct connection *it = &connections[fd];
    if (it->ended && !it->count) {
        it->first = it->ended = 0;
        close(fd);
    }
}

/* Lists a connection, to send what it is owed. */
static void list(int fd)
{
    if (!connections[fd].listed) {
        connections[fd].listed = 1;
        next_sending[next_count++] = fd;
    }
}

static void received(int fd, uint16_t buffer, uint32_t length)
{
    struct connection *it = &connections[fd];
    if (it->first + it->count == it->room) {
        memmove(it->owed, it->owed + it->first, it->count * sizeof *it->owed);
        it->first = 0;
        if (it->count == it->room) {
            it->room = it->room ? 2 * it->room : 2;
            it->owed = realloc(it->owed, it->room * sizeof *it->owed);
        }
    }
    it->owed[it->first + it->count++] = (struct piece){ buffer, 0, length };
    if (it->sends != POLL)
        list(fd);
}

/* One send of a connection is over: `n` bytes, or an error. */
static void sent(int fd, int n)
{
    struct connection *it = &connections[fd];
    struct piece *piece = &it->owed[it->first];
    it->sends = 0;
    if (n < 0 && n != -EAGAIN) { /* the peer has gone */
        it->ended = 1;
        while (it->count) {
            give_back(it->owed[it->first++].buffer);
            it->count--;
        }
        it->first = 0;
        close_if_over(fd);
        return;
    }
    piece->begin += n > 0 ? n : 0;
    if (piece->begin < piece->length) { /* the socket is full */
        struct io_uring_sqe *sqe = submission(POLL, fd);
        sqe->opcode = IORING_OP_POLL_ADD;
        sqe->poll32_events = POLLOUT;
        it->sends = POLL;
        return;
    }
    give_back(piece->buffer);
    it->count--;
    it->first = it->count ? it->first + 1 : 0;
    if (it->count)
        list(fd);
    else
        close_if_over(fd);
}

static void send_listed(void)
{
    sending_count = next_count;
    memcpy(sending, next_sending, next_count * sizeof *sending);
    next_count = 0;
    for (int at = 0; at < sending_count; at++) {
        int fd = sending[at];
        struct connection *it = &connections[fd];
        struct piece *piece = &it->owed[it->first];
        it->listed = 0;
        struct io_uring_sqe *sqe = submission(SEND, fd);
        sqe->opcode = IORING_OP_SEND;
        sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
        sqe->msg_flags = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL;
        sqe->addr = (uint64_t)(uintptr_t)(memory + piece->buffer * buffer_bytes + piece->begin);
        sqe->len = piece->length - piece->begin;
        it->sends = SEND;
    }
}

static void completed(int listener, struct io_uring_cqe cqe)
{
    int fd = (int)(uint32_t)cqe.user_data, more = cqe.flags & IORING_CQE_F_MORE;
    switch (cqe.user_data >> 32) {
    case ACCEPT:
        if (cqe.res >= 0)
            receive(cqe.res);
        if (!more)
            accept_all(listener);
        break;
    case RECEIVE:
        if (cqe.res > 0 && !connections[fd].ended)
            received(fd, cqe.flags >> IORING_CQE_BUFFER_SHIFT, cqe.res);
        else if (cqe.flags & IORING_CQE_F_BUFFER)
            give_back(cqe.flags >> IORING_CQE_BUFFER_SHIFT);
        if (more)
            break;
        if (cqe.res > 0 || cqe.res == -ENOBUFS)
            receive(fd);
        else {
            connections[fd].ended = 1;
            close_if_over(fd);
        }
        break;
    case SEND:
        sent(fd, cqe.res);
        break;
    case POLL:
        connections[fd].sends = 0;
        list(fd);
        break;
    }
}

static void set_up(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE
                 | IORING_SETUP_SUBMIT_ALL,
        .cq_entries = COMPLETIONS,
    };
    int fd = syscall(__NR_io_uring_setup, ENTRIES, &params);
    check(fd, "io_uring_setup");
    size_t bytes = params.cq_off.cqes + params.cq_entries * sizeof *cqes;
    size_t of_sq = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    char *rings = mmap(NULL, bytes > of_sq ? bytes : of_sq, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
    sqes = mmap(NULL, params.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
    if (rings == MAP_FAILED || sqes == MAP_FAILED)
        check(-1, "mmap");
    sq_tail = (unsigned *)(rings + params.sq_off.tail);
    sq_mask = params.sq_entries - 1;
    for (unsigned at = 0; at < params.sq_entries; at++)
        ((unsigned *)(rings + params.sq_off.array))[at] = at;
    cq_head = (unsigned *)(rings + params.cq_off.head);
    cq_tail = (unsigned *)(rings + params.cq_off.tail);
    cqes = (struct io_uring_cqe *)(rings + params.cq_off.cqes);
    cq_mask = params.cq_entries - 1;

    buffers_count = buffer_bytes > 4096 ? 128 : 1024;
    size_t ring_bytes = buffers_count * sizeof(struct io_uring_buf);
    buffers = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory = mmap(NULL, buffers_count * buffer_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED || memory == MAP_FAILED)
        check(-1, "mmap");
    struct io_uring_buf_reg given = {
        .ring_addr = (uint64_t)(uintptr_t)buffers, .ring_entries = buffers_count,
    };
    check(syscall(__NR_io_uring_register, fd, IORING_REGISTER_PBUF_RING, &given, 1), "buffers");
    for (uint16_t buffer = 0; buffer < buffers_count; buffer++)
        give_back(buffer);

    struct io_uring_rsrc_update own = { .offset = -1U, .data = fd };
    check(syscall(__NR_io_uring_register, fd, IORING_REGISTER_RING_FDS, &own, 1), "ring");
    ring = own.offset;
}

int main(int argc, char **argv)
{
    int listener = listen_from_args(argc, argv);
    set_up();
    accept_all(listener);
    for (;;) {
        unsigned wait = next_count == 0;
        send_listed();
        enter(wait);
        /* First the sends that left an entry, then those that left none: they are whole. */
        unsigned head = *cq_head;
        unsigned tail = atomic_load_explicit((_Atomic unsigned *)cq_tail, memory_order_acquire);
        for (; head != tail; head++)
            completed(listener, cqes[head & cq_mask]);
        atomic_store_explicit((_Atomic unsigned *)cq_head, head, memory_order_release);
        for (int at = 0; at < sending_count; at++) {
            int fd = sending[at];
            struct connection *it = &connections[fd];
            if (it->sends == SEND)
                sent(fd, it->owed[it->first].length);
        }
        sending_count = 0;
    }
}
