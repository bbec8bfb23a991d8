/* A clock that runs at another rate: the one that leases are measured by, faster by SYNOD_CLOCK_PPM millionths. The campaign
 * `drift` loads it into one node. Nothing that is shipped holds it. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long from, ppm;

static long long real_now(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

__attribute__((constructor)) static void begin(void) {
    const char *wanted = getenv("SYNOD_CLOCK_PPM");
    ppm = wanted ? atoll(wanted) : 0;
    from = real_now();
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock != CLOCK_BOOTTIME) {
        return (int)syscall(SYS_clock_gettime, clock, now);
    }
    long long passed = real_now() - from;
    long long shown = from + passed + passed / 1000 * ppm / 1000;
    now->tv_sec = shown / 1000000000LL;
    now->tv_nsec = shown % 1000000000LL;
    return 0;
}
