/* A disk that lies: from the 31st sync of a process on, a log file is said to be synced and is not. Loaded into every node
 * (SYNOD_CAMPAIGN_PRELOAD), it makes the campaigns that fail power find lost records. Nothing that is shipped holds it. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HONEST = 30 };

static int is_log(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4) {
        return 0;
    }
    path[length] = 0;
    return strcmp(path + length - 4, ".log") == 0;
}

int fdatasync(int fd) {
    static atomic_int syncs;
    if (is_log(fd) && atomic_fetch_add(&syncs, 1) >= HONEST) {
        return 0;
    }
    return (int)syscall(SYS_fdatasync, fd);
}
