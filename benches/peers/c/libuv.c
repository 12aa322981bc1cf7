/* A server on libuv: one buffer for all connections, uv_try_write() before uv_write(). */
#include <uv.h>

#include "options.h"

struct rest { /* what a socket did not take */
    uv_write_t request;
    char bytes[];
};

static char *buffer;

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *into)
{
    (void)handle, (void)suggested;
    *into = uv_buf_init(buffer, buffer_bytes);
}

static void closed(uv_handle_t *handle)
{
    free(handle);
}

static void written(uv_write_t *request, int status)
{
    if (status < 0 && !uv_is_closing((uv_handle_t *)request->handle))
        uv_close((uv_handle_t *)request->handle, closed);
    free(request); /* the first member of a rest */
}

static void received(uv_stream_t *client, ssize_t n, const uv_buf_t *from)
{
    if (n < 0) {
        if (!uv_is_closing((uv_handle_t *)client))
            uv_close((uv_handle_t *)client, closed);
        return;
    }
    uv_buf_t bytes = uv_buf_init(from->base, n);
    int sent = uv_try_write(client, &bytes, 1); /* UV_EAGAIN if something is queued already */
    if (sent == n || n == 0)
        return;
    sent = sent > 0 ? sent : 0;
    struct rest *rest = malloc(sizeof *rest + n - sent);
    memcpy(rest->bytes, from->base + sent, n - sent);
    bytes = uv_buf_init(rest->bytes, n - sent);
    uv_write(&rest->request, client, &bytes, 1, written);
}

static void connected(uv_stream_t *server, int status)
{
    uv_tcp_t *client = malloc(sizeof *client);
    if (status < 0 || uv_tcp_init(server->loop, client))
        return free(client);
    if (uv_accept(server, (uv_stream_t *)client))
        return uv_close((uv_handle_t *)client, closed);
    uv_read_start((uv_stream_t *)client, allocate, received);
}

int main(int argc, char **argv)
{
    int listener = listen_from_args(argc, argv);
    uv_tcp_t server;
    if (posix_memalign((void **)&buffer, 4096, buffer_bytes))
        return 1;
    uv_tcp_init(uv_default_loop(), &server);
    if (uv_tcp_open(&server, listener) || uv_listen((uv_stream_t *)&server, BACKLOG, connected))
        return 1;
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
