/* SPDX-License-Identifier: MIT
 *
 * cpu_linux.c - the CPUs of the affinity mask, or fewer if a control group
 * (v2 or v1) on the way to the root has a lower quota.
 */
#include "cpu_internal.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int mp__cpu_allowed(void)
{
    for (size_t cpus = 1024; cpus <= 1024 * 1024; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        int n = 0;

        if (set && sched_getaffinity(0, CPU_ALLOC_SIZE(cpus), set) == 0)
            n = CPU_COUNT_S(CPU_ALLOC_SIZE(cpus), set);
        CPU_FREE(set);
        if (n > 0)
            return n;
        if (errno != EINVAL) /* EINVAL: the kernel has more CPUs than the set */
            break;
    }
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Rounds up: half a CPU is one to run on. */
static int quota_to_cpus(double quota, double period)
{
    double cpus = period > 0 && quota > 0 ? quota / period : INT_MAX;

    if (cpus >= INT_MAX)
        return INT_MAX;
    return (int)cpus < cpus ? (int)cpus + 1 : (int)cpus;
}

static int read_numbers(const char *path, double *first, double *second)
{
    FILE *file = fopen(path, "re");
    int n = file ? fscanf(file, "%lf %lf", first, second) : 0;

    if (file)
        (void)fclose(file);
    return n;
}

static int quota_of(const char *group, int version)
{
    char path[PATH_MAX + 64];
    double quota = 0, period = 0;

    if (version == 2) {
        (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", group);
        if (read_numbers(path, &quota, &period) == 2)
            return quota_to_cpus(quota, period);
        return INT_MAX; /* "max" or no such group */
    }
    (void)snprintf(path, sizeof(path), "/sys/fs/cgroup/cpu%s/cpu.cfs_quota_us", group);
    if (read_numbers(path, &quota, &period) != 1)
        return INT_MAX;
    (void)snprintf(path, sizeof(path), "/sys/fs/cgroup/cpu%s/cpu.cfs_period_us", group);
    return read_numbers(path, &period, &period) >= 1 ? quota_to_cpus(quota, period) : INT_MAX;
}

/* The lowest quota of a group and all above it. */
static int lowest_quota(char *group, int version)
{
    int lowest = INT_MAX;

    for (;;) {
        char *slash = strrchr(group, '/');
        int here = quota_of(group, version);

        if (here < lowest)
            lowest = here;
        if (!slash)
            return lowest;
        *slash = '\0';
    }
}

static int by_quota(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[PATH_MAX];
    int lowest = INT_MAX;

    while (file && fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        int here = INT_MAX;

        if (!group)
            continue;
        line[strcspn(line, "\n")] = '\0';
        *group++ = '\0';
        if (controllers[1] == '\0')
            here = lowest_quota(group, 2);
        else if (strstr(controllers + 1, "cpu") && !strstr(controllers + 1, "cpuset"))
            here = lowest_quota(group, 1);
        if (here < lowest)
            lowest = here;
    }
    if (file)
        (void)fclose(file);
    return lowest;
}

int mp__cpu_count(void)
{
    int cpus = mp__cpu_allowed();
    int quota = by_quota();

    if (quota < cpus)
        cpus = quota;
    return cpus < 1 ? 1 : cpus;
}
