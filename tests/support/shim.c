/* What goes wrong beneath the program under test: disk faults and a clock that jumps.
 *
 * Preloaded (LD_PRELOAD) into one process. FAULTS names a file that is mapped here and written by the
 * test: an array of 32-bit numbers, see the enums. Only files of a cache directory are touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, READ, SYNC, RENAME, OPEN, RESIZE, KINDS };
enum { EVERY = 8, SHORT, DELAY, WHERE, SEED, THESE, ROUND, DAYS, WORDS };
enum { OBJECTS = 1, INDEX = 2 };

static volatile int32_t *control;
static uint32_t calls;
static int32_t counted_in;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        control = map;
    close(fd);
}

static int is_meant(const char *path)
{
    int where = control[WHERE];
    if ((where & INDEX) && strstr(path, "index.redb"))
        return 1;
    return (where & OBJECTS)
        && (strstr(path, "/blobs/") || strstr(path, "/manifests/") || strstr(path, "/partial/"));
}

static int is_meant_fd(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_meant(path);
}

/* The same for the same number, and without any pattern. */
static uint32_t thrown(uint32_t n)
{
    n = (n ^ (uint32_t)control[SEED]) * 0x9e3779b1u;
    n = (n ^ n >> 15) * 0x85ebca77u;
    return n ^ n >> 13;
}

/* Whether this call is one that goes wrong: by its number since the test said so (a bit each), or one of
 * every so many, by chance. */
static int falls(void)
{
    int32_t round = control[ROUND];
    if (__atomic_exchange_n(&counted_in, round, __ATOMIC_RELAXED) != round)
        __atomic_store_n(&calls, 0, __ATOMIC_RELAXED);
    uint32_t n = __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
    uint32_t these = (uint32_t)control[THESE];
    if (these)
        return n < 32 && these >> n & 1;
    uint32_t every = (uint32_t)control[EVERY];
    return every <= 1 || thrown(n) % every == 0;
}

static void delay(int fd)
{
    if (control && control[DELAY] && is_meant_fd(fd))
        usleep((useconds_t)control[DELAY]);
}

#define NEXT(type, name, ...)                                                                       \
    static type (*next)(__VA_ARGS__);                                                               \
    if (!next)                                                                                      \
        next = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define FAIL_IF(kind, meant)                                                                        \
    if (control && control[kind] && (meant) && falls()) {                                           \
        errno = control[kind];                                                                      \
        return -1;                                                                                  \
    }

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at)
{
    NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    delay(fd);
    if (control && control[SHORT] && size > 1 && is_meant_fd(fd))
        size = size / 2;
    FAIL_IF(WRITE, is_meant_fd(fd))
    return next(fd, from, size, at);
}

ssize_t pread64(int fd, void *to, size_t size, off64_t at)
{
    NEXT(ssize_t, "pread64", int, void *, size_t, off64_t);
    FAIL_IF(READ, is_meant_fd(fd))
    if (control && control[SHORT] && size > 1 && is_meant_fd(fd))
        size = size / 2;
    return next(fd, to, size, at);
}

ssize_t read(int fd, void *to, size_t size)
{
    NEXT(ssize_t, "read", int, void *, size_t);
    FAIL_IF(READ, is_meant_fd(fd))
    return next(fd, to, size);
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int);
    delay(fd);
    FAIL_IF(SYNC, is_meant_fd(fd))
    return next(fd);
}

int fsync(int fd)
{
    NEXT(int, "fsync", int);
    delay(fd);
    FAIL_IF(SYNC, is_meant_fd(fd))
    return next(fd);
}

int rename(const char *from, const char *to)
{
    NEXT(int, "rename", const char *, const char *);
    FAIL_IF(RENAME, is_meant(from) || is_meant(to))
    return next(from, to);
}

int ftruncate64(int fd, off64_t size)
{
    NEXT(int, "ftruncate64", int, off64_t);
    FAIL_IF(RESIZE, is_meant_fd(fd))
    return next(fd, size);
}

int open64(const char *path, int flags, ...)
{
    NEXT(int, "open64", const char *, int, ...);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    FAIL_IF(OPEN, is_meant(path))
    return next(path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    NEXT(int, "clock_gettime", clockid_t, struct timespec *);
    int result = next(clock, now);
    if (result == 0 && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)control[DAYS] * 86400;
    return result;
}
