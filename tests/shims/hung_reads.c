/* Reads that hang: pread of files below SYNOD_HANG_DIR waits while the number in the file SYNOD_HANG_DIAL is not 0. A node's
 * worker stops in the middle of a round, while everything else of the process goes on. Nothing that is shipped loads this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *dial;
static const char *below;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SYNOD_HANG_DIAL");
    below = getenv("SYNOD_HANG_DIR");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof *dial, PROT_READ, MAP_SHARED, file, 0);
        dial = mapped == MAP_FAILED ? NULL : mapped;
        close(file);
    }
}

static void wait_while_hung(int file) {
    if (!dial || !below || *dial == 0) {
        return;
    }
    char link[64], name[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length <= 0) {
        return;
    }
    name[length] = 0;
    if (strncmp(name, below, strlen(below)) != 0) {
        return;
    }
    while (*dial != 0) {
        struct timespec pause = {0, 10000000};
        nanosleep(&pause, NULL);
    }
}

typedef ssize_t (*pread_call)(int, void *, size_t, off_t);

/* The program may call either name. */
#define HANGING(name)                                          \
    ssize_t name(int file, void *to, size_t count, off_t at) { \
        static pread_call real;                                \
        if (!real) {                                           \
            real = (pread_call)dlsym(RTLD_NEXT, #name);        \
        }                                                      \
        wait_while_hung(file);                                 \
        return real(file, to, count, at);                      \
    }

HANGING(pread)
HANGING(pread64)
