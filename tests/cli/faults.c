// Preloaded into the program under test: makes chosen calls fail, the clock jump, the resolver slow.
//
// FAULT=call:errno:text    the call fails so, where the file's path ends in the text, or after a `*` has it in it; a
//                          negative number is a signal that comes there; the path of a thread is its number: `/1`
// FAULT_FROM=file          it does so only once that file exists
// JUMP=file:clock:seconds  that clock (0: real, 1: monotonic) is so far ahead once the file exists
// JUMP_SEEN=file           the program has looked at that clock since, once this file exists
// SLOW_DNS=seconds         every name takes so long, and then is not found
// HOSTS=ending             names with this ending are this machine, and no others are known
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static int fault_at(const char *call, const char *path) {
    const char *text = getenv("FAULT");
    char name[32], part[128] = "";
    int number;
    size_t length = strlen(path);
    const char *from = getenv("FAULT_FROM");
    if (from && access(from, F_OK)) return 0;
    if (!text || sscanf(text, "%31[^:]:%d:%127s", name, &number, part) < 3 || strcmp(name, call)) return 0;
    if (*part == '*') {
        if (!strstr(path, part + 1)) return 0;
    } else if (length < strlen(part) || strcmp(path + length - strlen(part), part)) {
        return 0;
    }
    if (number < 0) {
        raise(-number);
        return 0;
    }
    errno = number;
    return number;
}

static int fault(const char *call, int descriptor) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    return readlink(link, path, sizeof path - 1) < 0 ? 0 : fault_at(call, path);
}

#define NEXT(name) __typeof__(&name) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int descriptor, const void *bytes, size_t count) {
    NEXT(write);
    return fault("write", descriptor) ? -1 : next(descriptor, bytes, count);
}

int ftruncate(int descriptor, off_t length) {
    NEXT(ftruncate);
    return fault("ftruncate", descriptor) ? -1 : next(descriptor, length);
}

int ftruncate64(int descriptor, off64_t length) {
    NEXT(ftruncate64);
    return fault("ftruncate", descriptor) ? -1 : next(descriptor, length);
}

int fsync(int descriptor) {
    NEXT(fsync);
    return fault("fsync", descriptor) ? -1 : next(descriptor);
}

int posix_fallocate(int descriptor, off_t from, off_t length) {
    NEXT(posix_fallocate);
    int number = fault("fallocate", descriptor);
    return number ? number : next(descriptor, from, length);
}

int posix_fallocate64(int descriptor, off64_t from, off64_t length) {
    NEXT(posix_fallocate64);
    int number = fault("fallocate", descriptor);
    return number ? number : next(descriptor, from, length);
}

int unlink(const char *path) {
    NEXT(unlink);
    int result = next(path);
    // A signal comes when the file is gone.
    return fault_at("unlink", path) ? -1 : result;
}

int flock(int descriptor, int operation) {
    NEXT(flock);
    return fault("flock", descriptor) ? -1 : next(descriptor, operation);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    NEXT(pthread_create);
    static int count;
    char number[16];
    snprintf(number, sizeof number, "/%d", ++count);
    int result = fault_at("pthread_create", number);
    return result ? result : next(thread, attributes, start, argument);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    NEXT(clock_gettime);
    int result = next(clock, time), which;
    long seconds;
    char file[PATH_MAX];
    const char *jump = getenv("JUMP");
    if (!jump || sscanf(jump, "%4095[^:]:%d:%ld", file, &which, &seconds) < 3 || which != (int)clock) return result;
    if (access(file, F_OK)) return result;
    time->tv_sec += seconds;
    const char *path = getenv("JUMP_SEEN");
    int seen = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (seen >= 0) close(seen);
    return result;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    NEXT(getaddrinfo);
    const char *slow = getenv("SLOW_DNS"), *known = getenv("HOSTS");
    if (known) {
        size_t length = node ? strlen(node) : 0, ending = strlen(known);
        if (length < ending || strcmp(node + length - ending, known)) return EAI_NONAME;
        return next("127.0.0.1", service, hints, found);
    }
    if (!slow) return next(node, service, hints, found);
    sleep(atoi(slow));
    return EAI_AGAIN;
}
