/* SPDX-License-Identifier: MIT
 *
 * bench_synchronize.c - what locks and their kin cost, alone and between two
 * processes, against what the system has for shared memory and against CPython.
 *
 *     bench_synchronize [--rounds N] [--quick]
 *
 * The second process is forked and does what the first does, at the same time.
 */
#include <multiprocessing.h>

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "bench.h"

#define ALONE 100000 /* operations of one turn */
#define TOGETHER 100000
#define MEETINGS 500

typedef void (*operation)(int side);

/* What both processes see. */
struct floor {
    sem_t sem, ping, pong, go;
    pthread_barrier_t barrier;
    _Alignas(64) atomic_int work; /* of the second process: the index in works + 1 */
    _Alignas(64) atomic_int finished;
    _Alignas(64) long guarded;
};

static struct floor *shared;
static mp_lock *lock, *rlock;
static mp_semaphore *semaphore, *ping, *pong;
static mp_event *events[2];
static mp_barrier *barrier;

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    mp_perror(what);
    exit(1);
}

/* ---- operations ---- */

static void floor_sem(int side)
{
    (void)side;
    (void)sem_wait(&shared->sem);
    shared->guarded++;
    (void)sem_post(&shared->sem);
}

static void use_lock(int side)
{
    (void)side;
    (void)mp_lock_acquire(lock, MP_FOREVER);
    shared->guarded++;
    (void)mp_lock_release(lock);
}

static void use_rlock(int side)
{
    (void)side;
    (void)mp_lock_acquire(rlock, MP_FOREVER);
    shared->guarded++;
    (void)mp_lock_release(rlock);
}

static void use_semaphore(int side)
{
    (void)side;
    (void)mp_semaphore_acquire(semaphore, MP_FOREVER);
    shared->guarded++;
    (void)mp_semaphore_release(semaphore);
}

/* There and back. */
static void floor_ping(int side)
{
    (void)sem_post(side ? &shared->pong : &shared->ping);
    (void)sem_wait(side ? &shared->ping : &shared->pong);
}

static void use_ping(int side)
{
    (void)mp_semaphore_release(side ? pong : ping);
    (void)mp_semaphore_acquire(side ? ping : pong, MP_FOREVER);
}

static void use_events(int side)
{
    if (side == 0)
        (void)mp_event_set(events[0]);
    (void)mp_event_wait(events[!side], MP_FOREVER);
    (void)mp_event_clear(events[!side]);
    if (side == 1)
        (void)mp_event_set(events[1]);
}

static void floor_barrier(int side)
{
    (void)side;
    (void)pthread_barrier_wait(&shared->barrier);
}

static void use_barrier(int side)
{
    (void)side;
    (void)mp_barrier_wait(barrier, MP_FOREVER);
}

/* ---- one process, two processes ---- */

static void repeat(operation o, int side, int count)
{
    for (int i = 0; i < count; i++)
        o(side);
}

static double alone(operation o)
{
    double begin = bench_now();

    repeat(o, 0, ALONE);
    return (bench_now() - begin) / ALONE;
}

struct shared_work {
    operation o;
    int count;
};

static const struct shared_work works[] = { { floor_sem, TOGETHER }, { use_lock, TOGETHER },
    { use_rlock, TOGETHER }, { use_semaphore, TOGETHER }, { floor_ping, MEETINGS },
    { use_ping, MEETINGS }, { use_events, MEETINGS }, { floor_barrier, MEETINGS },
    { use_barrier, MEETINGS } };

/* Each on a CPU of its own, where there are two. */
static void pin(size_t which)
{
    cpu_set_t allowed, one;

    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
        return;
    for (size_t cpu = 0, n = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && n++ == which)
            CPU_SET(cpu, &one);
    if (CPU_COUNT(&one))
        (void)sched_setaffinity(0, sizeof(one), &one);
}

/* The second process. */
static int take_part(void)
{
    int work;

    pin(1);
    for (;;) {
        (void)sem_wait(&shared->go);
        work = atomic_load(&shared->work);
        if (!work)
            return 0;
        atomic_fetch_add(&shared->finished, 1);
        repeat(works[work - 1].o, 1, works[work - 1].count);
        atomic_fetch_add(&shared->finished, 1);
    }
}

static double together(operation o)
{
    double begin;
    int work = 0, before = atomic_load(&shared->finished);

    while (works[work].o != o)
        work++;
    atomic_store(&shared->work, work + 1);
    (void)sem_post(&shared->go);
    while (atomic_load(&shared->finished) == before)
        (void)sched_yield();
    begin = bench_now();
    repeat(o, 0, works[work].count);
    while (atomic_load(&shared->finished) < before + 2)
        (void)sched_yield();
    return (bench_now() - begin) / works[work].count;
}

/* ---- the table ---- */

struct line {
    bench_row row;
    double (*how)(operation o);
    operation floor, library;
    const char *peer; /* what CPython is asked */
};

static double work_floor(void *argument)
{
    const struct line *l = argument;

    return l->how(l->floor);
}

static double work_library(void *argument)
{
    const struct line *l = argument;

    return l->how(l->library);
}

static void measure(const bench_options *options, bench_peer *peer)
{
    static struct line lines[] = {
        { { .name = "Lock, alone", .goal = 1.0, .peer_goal = 3.5 }, alone, floor_sem, use_lock,
            "lock Lock 1 200000" },
        { { .name = "RLock, alone", .goal = 1.0, .peer_goal = 3.5 }, alone, floor_sem, use_rlock,
            "lock RLock 1 200000" },
        { { .name = "Semaphore, alone", .goal = 1.0, .peer_goal = 3.5 }, alone, floor_sem,
            use_semaphore, "lock Semaphore 1 200000" },
        { { .name = "Lock, 2 processes", .goal = 1.82, .peer_goal = 3 }, together, floor_sem,
            use_lock, "lock Lock 2 20000" },
        { { .name = "RLock, 2 processes", .goal = 1.82, .peer_goal = 3 }, together, floor_sem,
            use_rlock, "lock RLock 2 20000" },
        { { .name = "Semaphore, 2 processes" }, together, floor_sem, use_semaphore,
            "lock Semaphore 2 20000" },
        { { .name = "Semaphores, there, back" }, together, floor_ping, use_ping, NULL },
        { { .name = "Events, there and back" }, together, floor_ping, use_events, "events 500" },
        { { .name = "Barrier of 2" }, together, floor_barrier, use_barrier, "barrier 500" },
    };
    size_t count = sizeof(lines) / sizeof(*lines);

    for (size_t i = 0; i < count; i++) {
        lines[i].row.bytes = 1;
        lines[i].row.unit = "M/s";
    }
    for (int r = 0; r < options->rounds; r++)
        for (size_t i = 0; i < count; i++)
            bench_round(&lines[i].row, options->turns, work_floor, work_library, &lines[i],
                lines[i].peer ? bench_ask(peer, "%s", lines[i].peer) : 0);
    bench_print_header("operations");
    for (size_t i = 0; i < count; i++)
        bench_print(&lines[i].row);
}

static void make_all(void)
{
    pthread_barrierattr_t attributes;

    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench_check(shared != MAP_FAILED, "mmap");
    bench_check(sem_init(&shared->sem, 1, 1) == 0 && sem_init(&shared->ping, 1, 0) == 0 &&
                    sem_init(&shared->pong, 1, 0) == 0 && sem_init(&shared->go, 1, 0) == 0,
        "sem_init");
    (void)pthread_barrierattr_init(&attributes);
    (void)pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    bench_check(pthread_barrier_init(&shared->barrier, &attributes, 2) == 0, "barrier");
    (void)pthread_barrierattr_destroy(&attributes);
    lock = mp_lock_new(), rlock = mp_rlock_new(), semaphore = mp_semaphore_new(1);
    ping = mp_semaphore_new(0), pong = mp_semaphore_new(0), barrier = mp_barrier_new(2);
    events[0] = mp_event_new(), events[1] = mp_event_new();
    if (!lock || !rlock || !semaphore || !ping || !pong || !barrier || !events[0] || !events[1])
        check(-1, "bench_synchronize");
}

static void free_all(void)
{
    mp_lock_free(lock), mp_lock_free(rlock), mp_semaphore_free(semaphore);
    mp_semaphore_free(ping), mp_semaphore_free(pong), mp_barrier_free(barrier);
    mp_event_free(events[0]), mp_event_free(events[1]);
    (void)munmap(shared, sizeof(*shared));
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        bench_options options = bench_parse(argc, argv);
        bench_peer peer;
        pid_t pid;

        make_all();
        (void)mp_event_wait(events[0], 0.001); /* with all CPUs: the library looks once how many */
        pid = fork();
        bench_check(pid >= 0, "fork");
        if (pid == 0)
            _exit(take_part());
        peer = bench_peer_open();
        pin(0);
        measure(&options, &peer);
        bench_peer_close(&peer);
        atomic_store(&shared->work, 0);
        (void)sem_post(&shared->go);
        (void)waitpid(pid, NULL, 0);
        free_all();
        printf("\nfloor: sem_t in shared memory; of the barrier pthread_barrier_t. An operation is "
               "acquire and release; of two processes both do it\n");
    }
    return 0;
}
