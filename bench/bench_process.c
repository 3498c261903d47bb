/* SPDX-License-Identifier: MIT
 *
 * bench_process.c - what start + join cost under each start method, against the
 * bare system calls and against CPython.
 *
 *     bench_process [--rounds N] [--quick] [--big]
 *
 * --big: also with 1 GiB of touched memory in the parent, against without.
 */
#include <multiprocessing.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "bench.h"

#define OPERATIONS 10 /* of a turn, whose median counts */
#define PAYLOAD 256
#define ROWS 6
#define FLOOR_CHILD "BENCH_FLOOR_CHILD=1"
#define BIG ((size_t)1 << 30)

static char this_binary[4096];

/* What a turn does, and with which pauses. */
struct work {
    const char *method;
    const mp_context *context;
    void (*floor)(void);
    bool spaced; /* 2 ms apart: both CPUs have come to rest */
};

/* ---- floors: what has to be done, and nothing more ---- */

static void reap(pid_t pid)
{
    bench_check(pid > 0, "floor");
    bench_check(waitpid(pid, NULL, 0) == pid, "waitpid");
}

static void floor_fork(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    reap(pid);
}

/* Waits for the end as one does who waits for several things at once. */
static void await_sentinel(pid_t pid)
{
#ifdef SYS_pidfd_open
    struct pollfd sentinel = { .fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };

    if (sentinel.fd >= 0) {
        (void)poll(&sentinel, 1, -1);
        (void)close(sentinel.fd);
    }
#else
    (void)pid;
#endif
}

static void wait_by_sentinel(pid_t pid)
{
    await_sentinel(pid);
    reap(pid);
}

static void leave(int code, void *argument)
{
    (void)argument;
    (void)fflush(NULL);
    _exit(code);
}

/*
 * By hand what the library promises of a child: nothing printed twice or lost, the
 * program's signal handlers reset and not run in it, stdin from /dev/null, handlers
 * of atexit that it registered itself, a sentinel.
 */
static void floor_fork_by_hand(void)
{
    static int null = -1, status = -1;
    char text[2048];
    sigset_t all, old;
    pid_t pid;

    if (null < 0) {
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        status = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    }
    (void)fflush(NULL);
    bench_check(pread(status, text, sizeof(text), 0) > 0, "status");
    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &old);
    pid = fork();
    if (pid == 0) {
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        (void)dup2(null, STDIN_FILENO);
        (void)close(status);
        (void)on_exit(leave, NULL);
        exit(0);
    }
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
    wait_by_sentinel(pid);
}

/* A child forked ahead by another process, by hand: it reads its request and ends. */
static int requests[2], offers[2];

static void fork_ahead(void)
{
    char request[PAYLOAD];
    pid_t pid;

    do {
        pid = fork();
        if (pid == 0)
            _exit(read(requests[1], request, sizeof(request)) == PAYLOAD ? 0 : 1);
    } while (write(offers[1], &pid, sizeof(pid)) > 0 && waitpid(pid, NULL, 0) == pid);
    _exit(0);
}

static void start_forking_ahead(void)
{
    bench_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, requests) == 0, "socketpair");
    bench_check(pipe2(offers, O_CLOEXEC) == 0, "pipe2");
    if (fork() == 0) {
        (void)signal(SIGPIPE, SIG_IGN);
        (void)close(requests[0]);
        (void)close(offers[0]);
        fork_ahead();
    }
    (void)close(requests[1]);
    (void)close(offers[1]);
}

static void floor_spare_by_hand(void)
{
    static char request[PAYLOAD];
    pid_t pid;

    bench_check(read(offers[0], &pid, sizeof(pid)) == sizeof(pid), "offer");
    bench_check(write(requests[0], request, sizeof(request)) == PAYLOAD, "request");
    await_sentinel(pid);
}

/* This binary, executed to read a payload from its stdin. */
static void floor_spawn(void)
{
    static char payload[PAYLOAD], *arguments[] = { (char *)"floor", NULL };
    static char *environment[2] = { (char *)FLOOR_CHILD, NULL };
    posix_spawn_file_actions_t actions;
    int ends[2];
    pid_t pid;

    bench_check(pipe2(ends, O_CLOEXEC) == 0, "pipe2");
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
    errno = posix_spawn(&pid, this_binary, &actions, NULL, arguments, environment);
    bench_check(errno == 0, "posix_spawn");
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(ends[0]);
    bench_check(write(ends[1], payload, sizeof(payload)) == PAYLOAD, "payload");
    (void)close(ends[1]);
    wait_by_sentinel(pid);
}

/* The other side of it. */
static _Noreturn void be_floor_child(void)
{
    char payload[PAYLOAD];

    _exit(read(STDIN_FILENO, payload, sizeof(payload)) == PAYLOAD ? 0 : 1);
}

/* ---- the library ---- */

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

static void start_and_join(const mp_context *context)
{
    mp_process *p = mp_process_new(.target = nothing, .context = context);

    if (!p || mp_process_start(p) < 0 || mp_process_join(p, MP_FOREVER) < 0) {
        mp_perror("bench_process");
        exit(1);
    }
    if (mp_process_exitcode(p) != 0) {
        fprintf(stderr, "bench_process: a child ended with %d\n", mp_process_exitcode(p));
        exit(1);
    }
    mp_process_free(p);
}

/* ---- turns ---- */

static double turn(const struct work *work, bool library)
{
    static const struct timespec pause = { 0, 2000000 };
    double times[OPERATIONS];

    for (int i = 0; i < OPERATIONS; i++) {
        double begin;

        if (work->spaced)
            (void)nanosleep(&pause, NULL);
        begin = bench_now();
        if (library)
            start_and_join(work->context);
        else
            work->floor();
        times[i] = bench_now() - begin;
    }
    return bench_median(times, OPERATIONS);
}

static double floor_turn(void *work)
{
    return turn(work, false);
}

static double library_turn(void *work)
{
    return turn(work, true);
}

/* With the big memory; its floor is the library without. */
static double big_turn(void *argument)
{
    double us;
    void *memory = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bench_check(memory != MAP_FAILED, "1 GiB of memory");
    memset(memory, 1, BIG);
    us = turn(argument, true);
    (void)munmap(memory, BIG);
    return us;
}

static void measure(const bench_options *options, bench_peer *peer)
{
    struct work works[] = {
        { .method = "fork", .floor = floor_fork },
        { .method = "spawn", .floor = floor_spawn },
        { .method = "forkserver", .floor = floor_fork },
        { .method = "forkserver", .floor = floor_fork, .spaced = true },
        { .method = "fork", .floor = floor_fork_by_hand },
        { .method = "forkserver", .floor = floor_spare_by_hand, .spaced = true },
    };
    static const int peer_counts[] = { 20, 3, 10, 0, 0, 0 };
    static bench_row rows[] = {
        { .name = "fork", .goal = 1.10, .peer_goal = 14 },
        { .name = "spawn", .goal = 1.10, .peer_goal = 80 },
        { .name = "forkserver", .goal = 1.25, .peer_goal = 35 },
        { .name = "forkserver, 2 ms apart", .goal = 0.60 },
        { .name = "fork, by hand" },
        { .name = "2 ms apart, by hand" },
    };
    static bench_row big[] = {
        { .name = "spawn, 1 GiB", .goal = 1.05 },
        { .name = "forkserver, 1 GiB", .goal = 1.05 },
    };

    for (int i = 0; i < ROWS; i++) {
        works[i].context = mp_get_context(works[i].method);
        start_and_join(works[i].context); /* starts the fork server, and warms up */
        works[i].floor();
    }
    for (int r = 0; r < options->rounds; r++) {
        for (int i = 0; i < ROWS; i++) {
            int count = options->quick ? (peer_counts[i] + 9) / 10 : peer_counts[i];
            double us = count ? bench_ask(peer, "process %s %d", works[i].method, count) : 0;

            bench_round(&rows[i], options->turns, floor_turn, library_turn, &works[i], us);
        }
        for (int i = 0; i < 2 && options->big; i++)
            bench_round(&big[i], options->quick ? 2 : 4, library_turn, big_turn, &works[i + 1], 0);
    }
    bench_print_header("start + join");
    for (int i = 0; i < ROWS; i++)
        bench_print(&rows[i]);
    for (int i = 0; i < 2 && options->big; i++)
        bench_print(&big[i]);
}

int main(int argc, char **argv)
{
    if (getenv("BENCH_FLOOR_CHILD"))
        be_floor_child();
    MP_MAIN () {
        bench_options options = bench_parse(argc, argv);
        bench_peer peer;

        start_forking_ahead(); /* first: it has no end of what is made later */
        peer = bench_peer_open();
        bench_check(readlink("/proc/self/exe", this_binary, sizeof(this_binary) - 1) > 0, "exe");
        (void)bench_ask(&peer, "process forkserver 1"); /* starts its server */
        measure(&options, &peer);
        bench_peer_close(&peer);
        printf("\nfloor: fork + waitpid; posix_spawn of this binary, %d bytes for it, pidfd, "
               "waitpid; by hand: what the\nlibrary promises of a child of fork, and a child that "
               "another process forked ahead, by bare calls%s\n",
            PAYLOAD, options.big ? "; with 1 GiB: the library without it" : "");
    }
    return 0;
}
