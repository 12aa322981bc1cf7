/* Preloaded into a server: every receive costs PLANT iterations of a busy loop more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/types.h>

static ssize_t (*real)(int, void *, size_t, int);
static volatile long iterations;

__attribute__((constructor)) static void begin(void) {
    real = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
    const char *text = getenv("PLANT");
    iterations = text ? atol(text) : 0;
}

ssize_t recv(int fd, void *bytes, size_t len, int flags) {
    for (long left = iterations; left > 0; left--)
        __asm__ volatile("" ::: "memory");
    return real(fd, bytes, len, flags);
}
