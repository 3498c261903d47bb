/* SPDX-License-Identifier: MIT
 *
 * bench.h - measuring by turns. Floor and library work alternate in one process
 * (A, B, B, A, A, B, ...), because figures of a shared machine drift by more
 * than what is to be seen; the ratio of neighbours does not. CPython does the
 * same in the same rounds, in a process of its own (peer.py).
 */
#ifndef BENCH_H
#define BENCH_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BENCH_ROUNDS_MAX 100
#define BENCH_TURNS_MAX 100

typedef struct bench_options {
    int rounds, turns;
    bool quick, big;
} bench_options;

/* A line of the table. Times are microseconds of one operation. */
typedef struct bench_row {
    const char *name;
    double bytes;     /* of an operation; then speeds are shown, in MB/s or: */
    const char *unit; /* millions of what a second */
    double goal;      /* library / floor: at most, or of speeds at least; 0: none */
    double peer_goal; /* times faster than CPython, at least; 0: none */
    int rounds, peer_rounds;
    double floor[BENCH_ROUNDS_MAX], library[BENCH_ROUNDS_MAX], ratio[BENCH_ROUNDS_MAX];
    double peer[BENCH_ROUNDS_MAX], faster[BENCH_ROUNDS_MAX];
} bench_row;

/* Does some operations and returns the microseconds of one. */
typedef double (*bench_work)(void *argument);

static inline void bench_check(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(1);
}

static inline void bench_write(int fd, const void *data, size_t size)
{
    for (const char *at = data; size;) {
        ssize_t n = write(fd, at, size);

        bench_check(n > 0, "write");
        at += n;
        size -= (size_t)n;
    }
}

/* Whether all of it came. */
static inline bool bench_read(int fd, void *data, size_t size)
{
    for (char *at = data; size;) {
        ssize_t n = read(fd, at, size);

        if (n <= 0)
            return false;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static inline double bench_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static inline bench_options bench_parse(int argc, char **argv)
{
    bench_options o = { .rounds = 7, .turns = 20 };
    int rounds = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            o.quick = true;
        else if (strcmp(argv[i], "--big") == 0)
            o.big = true;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            rounds = atoi(argv[++i]);
        else
            rounds = -1;
        if (rounds < 0 || rounds > BENCH_ROUNDS_MAX) {
            fprintf(stderr, "usage: %s [--rounds N] [--quick] [--big]\n", argv[0]);
            exit(2);
        }
    }
    if (o.quick)
        o.rounds = 1, o.turns = 4;
    if (rounds)
        o.rounds = rounds;
    return o;
}

/* ---- figures ---- */

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Sorts them. */
static inline double bench_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), bench_compare);
    return (values[count / 2] + values[(count - 1) / 2]) / 2;
}

/* One round of a row: the two by turns, each first as often as the other. peer 0: not measured. */
static inline void bench_round(bench_row *row, int turns, bench_work floor_work,
    bench_work library_work, void *argument, double peer)
{
    double a[BENCH_TURNS_MAX], b[BENCH_TURNS_MAX], ratio[BENCH_TURNS_MAX];
    int r = row->rounds++;

    for (int i = 0; i < turns; i++) {
        if (i % 2 == 0)
            a[i] = floor_work(argument);
        b[i] = library_work(argument);
        if (i % 2 == 1)
            a[i] = floor_work(argument);
        ratio[i] = row->bytes > 0 ? a[i] / b[i] : b[i] / a[i];
    }
    row->floor[r] = bench_median(a, turns);
    row->library[r] = bench_median(b, turns);
    row->ratio[r] = bench_median(ratio, turns);
    if (peer > 0) {
        row->peer[row->peer_rounds] = peer;
        row->faster[row->peer_rounds++] = peer / row->library[r];
    }
}

/* ---- the table ---- */

static inline void bench_print_header(const char *title)
{
    printf("\n%-24s %13s %13s  %-22s %-8s %13s  %s\n", title, "floor", "library",
        "ratio (min..max)", "goal", "CPython", "times faster (goal)");
}

static inline void bench_print_figure(const bench_row *row, double us)
{
    if (row->bytes > 0)
        printf(row->unit ? " %8.2f %-4s" : " %8.0f %-4s", row->bytes / us,
            row->unit ? row->unit : "MB/s");
    else
        printf(" %10.1f us", us);
}

static inline void bench_print(bench_row *row)
{
    int n = row->rounds, p = row->peer_rounds;
    char text[64];
    double ratio = bench_median(row->ratio, n); /* sorted by it, so that min and max are known */

    printf("%-24s", row->name);
    bench_print_figure(row, bench_median(row->floor, n));
    bench_print_figure(row, bench_median(row->library, n));
    (void)snprintf(
        text, sizeof(text), "%.2f (%.2f..%.2f)", ratio, row->ratio[0], row->ratio[n - 1]);
    printf("  %-22s ", text);
    (void)snprintf(text, sizeof(text), "%s %.2f", row->bytes > 0 ? ">=" : "<=", row->goal);
    printf("%-8s", row->goal > 0 ? text : "");
    if (p) {
        bench_print_figure(row, bench_median(row->peer, p));
        printf("  %.1f x faster than CPython", bench_median(row->faster, p));
        if (row->peer_goal > 0)
            printf(" (>= %g)", row->peer_goal);
    }
    printf("\n");
    (void)fflush(stdout);
}

/* ---- CPython ---- */

typedef struct bench_peer {
    pid_t pid;
    FILE *to, *from; /* NULL: there is none */
} bench_peer;

/* Becomes peer.py, which is told by the socket what to do. */
static inline void bench_become_peer(int socket)
{
    /* Without its cache of compiled files CPython starts up to five times slower. */
    (void)unsetenv("PYTHONDONTWRITEBYTECODE");
    (void)unsetenv("PYTHONPYCACHEPREFIX");
    if (dup2(socket, STDIN_FILENO) >= 0 && dup2(socket, STDOUT_FILENO) >= 0)
        (void)execlp("python3", "python3", "bench/peer.py", (char *)NULL);
    _exit(127);
}

static inline void bench_peer_close(bench_peer *peer)
{
    if (peer->to)
        (void)fclose(peer->to);
    if (peer->from)
        (void)fclose(peer->from);
    if (peer->pid > 0)
        (void)waitpid(peer->pid, NULL, 0);
    *peer = (bench_peer){ .pid = -1 };
}

/* Microseconds of one operation in CPython, as a line of words tells it; 0 without CPython. */
static inline double bench_ask(bench_peer *peer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline double bench_ask(bench_peer *peer, const char *format, ...)
{
    char line[64] = "";
    va_list list;

    if (!peer->to)
        return 0;
    va_start(list, format);
    (void)vfprintf(peer->to, format, list);
    va_end(list);
    (void)fputc('\n', peer->to);
    if (fflush(peer->to) == 0 && fgets(line, sizeof(line), peer->from))
        return atof(line);
    fprintf(stderr, "CPython ended; its figures are left out from here\n");
    bench_peer_close(peer);
    return 0;
}

/* Starts CPython, and prints its version. */
static inline bench_peer bench_peer_open(void)
{
    bench_peer peer = { .pid = -1 };
    char version[64];
    int ends[2];

    bench_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    (void)signal(SIGPIPE, SIG_IGN);
    (void)fflush(NULL);
    peer.pid = fork();
    if (peer.pid == 0)
        bench_become_peer(ends[1]);
    (void)close(ends[1]);
    peer.from = fdopen(ends[0], "r");
    peer.to = fdopen(dup(ends[0]), "w");
    if (peer.from && peer.to && fgets(version, sizeof(version), peer.from)) {
        printf("CPython %s", version);
        return peer;
    }
    printf("no CPython (python3 bench/peer.py, from the top folder): its columns stay empty\n");
    bench_peer_close(&peer);
    return peer;
}

#endif
