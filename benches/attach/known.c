/* A program that does a known number of operations on its rings, and prints how many it counted
 * itself: lines `own WHAT COUNT NUMBER`, as `trace attach --json` names them; `lacks WHAT` if the
 * kernel refuses it. It is linked statically, to run on any kernel.
 *
 *     known CASE        known client PORT CONNECTIONS MESSAGES
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT 1000
#define THREADS 20

static struct io_uring ring;
static int completed, failed, numbered;

static void check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "known: %s: %s\n", what, strerror(-result));
        exit(1);
    }
}

static void own(const char *what, const char *count, int number)
{
    printf("own %s %s %d\n", what, count, number);
}

static void lacks(const char *what)
{
    printf("lacks %s\n", what);
    exit(0);
}

static void open_ring(struct io_uring *to, unsigned flags, const char *name)
{
    struct io_uring_params params = {.flags = flags};
    int result = io_uring_queue_init_params(8, to, &params);
    if (result == -EINVAL && flags)
        lacks(name);
    check(result, "io_uring_setup");
}

/* Takes the completions that are there, and counts them. */
static void reap(struct io_uring *of)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(of, &cqe) == 0) {
        completed++;
        failed += cqe->res < 0;
        io_uring_cqe_seen(of, cqe);
    }
}

static void enter(struct io_uring *of, unsigned wait)
{
    check(io_uring_submit_and_wait(of, wait), "io_uring_enter");
    reap(of);
}

/* An entry for an operation, with a number: an old kernel does not say otherwise which is over. */
static struct io_uring_sqe *entry(struct io_uring *of)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(of);
    io_uring_sqe_set_data64(sqe, ++numbered);
    return sqe;
}

static struct io_uring_sqe *nop(struct io_uring *of, unsigned flags)
{
    struct io_uring_sqe *sqe = entry(of);
    io_uring_prep_nop(sqe);
    sqe->flags = flags;
    return sqe;
}

/* One operation for each enter. */
static void *nops(void *unused)
{
    struct io_uring mine;
    open_ring(&mine, 0, "");
    for (int i = 0; i < COUNT; i++) {
        nop(&mine, 0);
        enter(&mine, 1);
    }
    io_uring_queue_exit(&mine);
    return unused;
}

static void of_nops(void)
{
    own("nop", "submitted", completed);
    own("nop", "completed", completed);
    own("ring", "enters", completed);
}

static void threads(void)
{
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        check(-pthread_create(&thread, NULL, nops, NULL), "pthread_create");
        pthread_join(thread, NULL);
    }
    of_nops();
}

static void exec(void)
{
    nops(NULL);
    execl("/proc/self/exe", "known-again", "nops", NULL);
}

static void sqpoll(void)
{
    open_ring(&ring, IORING_SETUP_SQPOLL, "SQPOLL");
    for (int i = 0; i < COUNT; i++) {
        struct io_uring_cqe *cqe;
        nop(&ring, 0);
        check(io_uring_submit(&ring), "io_uring_enter");
        check(io_uring_wait_cqe(&ring, &cqe), "io_uring_enter");
        reap(&ring);
    }
    own("nop", "submitted", COUNT);
    own("nop", "completed", completed);
}

/* An operation that no kernel knows. */
static void rejected(void)
{
    open_ring(&ring, 0, "");
    for (int i = 0; i < COUNT; i++) {
        nop(&ring, 0)->opcode = 250;
        enter(&ring, 1);
    }
    own("op 250", "rejected", failed);
    own("op 250", "completed", completed);
}

/* Receives that find nothing, until another writes: each waits by polling, and its enter sleeps. */
static void receives(unsigned flags, const char *name)
{
    int pair[2];
    char byte = 0;
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
    open_ring(&ring, flags, name);
    for (int i = 0; i < COUNT; i++) {
        io_uring_prep_recv(entry(&ring), pair[0], &byte, 1, 0);
        enter(&ring, 0);
        check(write(pair[1], &byte, 1) - 1, "write");
        enter(&ring, 1);
    }
    own("recv", "submitted", COUNT);
    own("recv", "completed", completed);
    own("recv", "polls", completed);
}

static void polls(void)
{
    receives(0, "");
}

static void deferred(void)
{
    receives(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, "DEFER_TASKRUN");
    own("ring", "work", completed);
}

static void workers(void)
{
    open_ring(&ring, 0, "");
    for (int i = 0; i < COUNT; i++) {
        nop(&ring, IOSQE_ASYNC);
        enter(&ring, 1);
    }
    own("nop", "punts", completed);
    own("nop", "completed", completed);
}

static void sleeps(void)
{
    struct __kernel_timespec pause = {.tv_nsec = 20000000}; /* Not over before the enter sleeps. */
    open_ring(&ring, 0, "");
    for (int i = 0; i < 100; i++) {
        io_uring_prep_timeout(entry(&ring), &pause, 0, 0);
        enter(&ring, 1);
    }
    own("timeout", "completed", completed);
    own("ring", "sleeps", completed);
}

/* 24 completions of a queue that holds 16: eight wait outside of it. */
static void overflows(void)
{
    unsigned outside = 0;
    open_ring(&ring, 0, "");
    for (int i = 0; i < COUNT / 24; i++) {
        int begun = completed;
        for (int added = 1; added <= 24; added++) {
            nop(&ring, 0);
            if (added % 8 == 0)
                check(io_uring_submit(&ring), "io_uring_enter");
        }
        outside += 24 - io_uring_cq_ready(&ring);
        while (completed < begun + 24) {
            reap(&ring);
            check(io_uring_get_events(&ring), "io_uring_enter");
        }
    }
    own("nop", "submitted", completed);
    own("nop", "completed", completed);
    own("ring", "overflows", outside);
}

/* The second of a link is cancelled, because the first fails. */
static void links(void)
{
    open_ring(&ring, 0, "");
    for (int i = 0; i < COUNT; i++) {
        struct io_uring_sqe *sqe = entry(&ring);
        io_uring_prep_close(sqe, -1);
        sqe->flags = IOSQE_IO_LINK;
        nop(&ring, 0);
        enter(&ring, 2);
    }
    own("close", "EBADF", failed / 2);
    own("nop", "ECANCELED", failed / 2);
}

/* Successful operations without a completion. */
static void skips(void)
{
    open_ring(&ring, 0, "");
    for (int i = 0; i < COUNT; i++) {
        nop(&ring, IOSQE_CQE_SKIP_SUCCESS);
        enter(&ring, 0);
    }
    if (failed)
        lacks("CQE_SKIP_SUCCESS");
    own("nop", "submitted", COUNT);
    own("nop", "completed", completed);
}

static void messages(void)
{
    struct io_uring other;
    open_ring(&ring, 0, "");
    open_ring(&other, 0, "");
    for (int i = 0; i < COUNT; i++) {
        io_uring_prep_msg_ring(entry(&ring), other.ring_fd, 1, 2, 0);
        enter(&ring, 1);
    }
    if (failed)
        lacks("MSG_RING");
    own("msg_ring", "completed", completed);
    completed = 0;
    while (completed < COUNT) {
        reap(&other);
        check(io_uring_get_events(&other), "io_uring_enter");
    }
    own("message", "completed", completed);
}

/* So many messages on each connection, each after the reply to the one before. */
static void client(int port, int connections, int messages)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < connections; i++) {
        char text[64] = "a message", reply[64];
        int socket_ = socket(AF_INET, SOCK_STREAM, 0);
        int connected = connect(socket_, (struct sockaddr *)&address, sizeof address);
        check(connected ? -errno : 0, "connect");
        for (int message = 0; message < messages; message++) {
            check(write(socket_, text, sizeof text) - sizeof text, "write");
            check(recv(socket_, reply, sizeof reply, MSG_WAITALL) - sizeof reply, "recv");
        }
        close(socket_);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"threads", threads},     {"exec", exec},         {"sqpoll", sqpoll},
        {"rejected", rejected},   {"polls", polls},       {"deferred", deferred},
        {"workers", workers},     {"sleeps", sleeps},     {"links", links},
        {"overflows", overflows}, {"skips", skips},       {"messages", messages},
    };
    if (argc == 5 && !strcmp(argv[1], "client")) {
        client(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "nops")) {
        completed = strcmp(argv[0], "known-again") ? 0 : COUNT;
        nops(NULL);
        of_nops();
        return 0;
    }
    for (unsigned i = 0; argc == 2 && i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) {
            cases[i].run();
            return 0;
        }
    fprintf(stderr, "usage: known CASE, or known client PORT CONNECTIONS MESSAGES\n");
    return 2;
}
