/* Clocks that are wrong. The one that leases are measured by runs faster by SYNOD_CLOCK_PPM millionths. The wall clock is ahead
 * by as many microseconds as the number in the file SYNOD_WALL_DIAL says, which may change while the process runs. Campaigns
 * and tests load it into single nodes. Nothing that is shipped holds it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long from, ppm;
static const volatile long long *wall;

static long long real_now(clockid_t clock) {
    struct timespec now;
    syscall(SYS_clock_gettime, clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

__attribute__((constructor)) static void begin(void) {
    const char *wanted = getenv("SYNOD_CLOCK_PPM");
    const char *path = getenv("SYNOD_WALL_DIAL");
    ppm = wanted ? atoll(wanted) : 0;
    from = real_now(CLOCK_BOOTTIME);
    int file = path ? open(path, O_RDONLY) : -1;
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof *wall, PROT_READ, MAP_SHARED, file, 0);
        wall = mapped == MAP_FAILED ? NULL : mapped;
        close(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long long shown;
    if (clock == CLOCK_BOOTTIME) {
        long long passed = real_now(clock) - from;
        shown = from + passed + passed / 1000 * ppm / 1000;
    } else if (clock == CLOCK_REALTIME && wall) {
        shown = real_now(clock) + *wall * 1000;
    } else {
        return (int)syscall(SYS_clock_gettime, clock, now);
    }
    now->tv_sec = shown / 1000000000LL;
    now->tv_nsec = shown % 1000000000LL;
    return 0;
}
