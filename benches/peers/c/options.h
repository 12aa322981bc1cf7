/* What the servers in C share: the command line and the listener. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096 /* as long as that of `proactor serve` */

static size_t buffer_bytes = 64 << 10;

static void check(long result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

/* Reads [--port N] [--buffer BYTES], listens on the loopback and says so. */
static int listen_from_args(int argc, char **argv)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t length = sizeof address;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    for (int at = 1; at < argc; at += 2) {
        if (at + 1 < argc && !strcmp(argv[at], "--port")) {
            address.sin_port = htons(atoi(argv[at + 1]));
        } else if (at + 1 < argc && !strcmp(argv[at], "--buffer") && atol(argv[at + 1]) > 0) {
            buffer_bytes = atol(argv[at + 1]);
        } else {
            fprintf(stderr, "usage: [--port N] [--buffer BYTES]\n");
            exit(2);
        }
    }
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(fd, "socket");
    check(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "SO_REUSEADDR");
    check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
    check(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(fd, BACKLOG), "listen");
    check(getsockname(fd, (struct sockaddr *)&address, &length), "getsockname");
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}
