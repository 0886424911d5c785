/* Runs programs in turn and prints what each run cost, so that whatever else the machine does befalls all of them alike.
 *
 *     race ROUNDS PROGRAM [ARGUMENT …] :: PROGRAM [ARGUMENT …] …
 *
 * One line for each program: median and fastest tenth (microseconds), page faults (median), peak memory (kB).
 * Written in C because a child's peak memory begins with that of the process that starts it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

enum { MOST = 16, WARM_UP = 20 };

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

int main(int count, char **words) {
    char **programs[MOST];
    int rounds = count > 2 ? atoi(words[1]) : 0, known = 0;
    if (rounds < 1) return 2;
    programs[known++] = words + 2;
    for (int at = 2; at < count; at++)
        if (strcmp(words[at], "::") == 0) {
            if (known == MOST) return 2;
            words[at] = NULL;
            programs[known++] = words + at + 1;
        }
    double *times[MOST], *faults[MOST];
    long memory[MOST] = {0};
    for (int which = 0; which < known; which++) {
        times[which] = calloc((size_t)rounds, sizeof(double));
        faults[which] = calloc((size_t)rounds, sizeof(double));
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    for (int round = -WARM_UP; round < rounds; round++)
        for (int which = 0; which < known; which++) {
            pid_t child;
            int status;
            struct rusage used;
            double started = microseconds();
            if (posix_spawnp(&child, programs[which][0], &actions, NULL, programs[which], environ) != 0 ||
                wait4(child, &status, 0, &used) != child || status != 0) {
                fprintf(stderr, "`%s` failed\n", programs[which][0]);
                return 1;
            }
            if (round < 0) continue;
            times[which][round] = microseconds() - started;
            faults[which][round] = (double)used.ru_minflt;
            if (used.ru_maxrss > memory[which]) memory[which] = used.ru_maxrss;
        }
    for (int which = 0; which < known; which++) {
        qsort(times[which], (size_t)rounds, sizeof(double), ascending);
        qsort(faults[which], (size_t)rounds, sizeof(double), ascending);
        printf("%.1f %.1f %.0f %ld\n", times[which][rounds / 2], times[which][rounds / 10], faults[which][rounds / 2],
               memory[which]);
    }
    return 0;
}
