/* SPDX-License-Identifier: MIT
 *
 * bench_pool.c - what a pool costs: tasks a second, the round trip of one, how well
 * uneven work is spread, start and shutdown, memory; against bare processes and
 * pipes doing the same, and against CPython's Pool.
 *
 *     bench_pool [--rounds N] [--quick]
 */
#include <multiprocessing.h>

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <spawn.h>

#include "bench.h"

#define WORKERS 2
#define DEPTH 16   /* tasks on their way to a worker of the floor */
#define BATCH 1000 /* numbers in a message of the floor */
#define FLOOR_CHILD "BENCH_FLOOR_CHILD=1"

static char this_binary[4096];
static mp_pool *pool;
static size_t many = 1000000, some = 200000, calls = 500;
static long *in, *out;

static void must(int r, const char *what)
{
    if (r == 0)
        return;
    mp_perror(what);
    exit(1);
}

/* ---- floor: forked workers with a pipe each way ---- */

struct bare {
    pid_t pid;
    int to, from;
    size_t flying;
};

static struct bare bares[WORKERS];

/* Squares what comes, as many numbers at once as the first one says. */
static _Noreturn void be_bare(int from, int to)
{
    long count, numbers[BATCH];

    while (bench_read(from, &count, sizeof(count)) && count > 0 && count <= BATCH &&
           bench_read(from, numbers, (size_t)count * sizeof(*numbers))) {
        for (long i = 0; i < count; i++)
            numbers[i] *= numbers[i];
        bench_write(to, numbers, (size_t)count * sizeof(*numbers));
    }
    _exit(0);
}

static void start_bares(void)
{
    for (int i = 0; i < WORKERS; i++) {
        int question[2], answer[2];

        bench_check(pipe(question) == 0 && pipe(answer) == 0, "pipe");
        bares[i].pid = fork();
        bench_check(bares[i].pid >= 0, "fork");
        if (bares[i].pid == 0) {
            for (int j = 0; j < i; j++) {
                (void)close(bares[j].to);
                (void)close(bares[j].from);
            }
            (void)close(question[1]);
            (void)close(answer[0]);
            be_bare(question[0], answer[1]);
        }
        (void)close(question[0]);
        (void)close(answer[1]);
        bares[i].to = question[1];
        bares[i].from = answer[0];
    }
}

static void end_bares(void)
{
    for (int i = 0; i < WORKERS; i++) {
        (void)close(bares[i].to);
        (void)close(bares[i].from);
        (void)waitpid(bares[i].pid, NULL, 0);
    }
}

static void put(struct bare *b, size_t *next, size_t count, size_t total)
{
    long message[BATCH + 1];

    if (*next + count > total)
        count = total - *next;
    if (!count)
        return;
    message[0] = (long)count;
    memcpy(message + 1, in + *next, count * sizeof(long));
    bench_write(b->to, message, (count + 1) * sizeof(long));
    *next += count;
    b->flying += count;
}

/* All numbers through the bare workers, batch at a time, at most depth batches under way. */
static double bare_map(size_t total, size_t batch, size_t depth)
{
    double begin = bench_now();
    size_t next = 0, done = 0;
    long answers[BATCH];

    for (size_t d = 0; d < depth; d++)
        for (int i = 0; i < WORKERS; i++)
            put(&bares[i], &next, batch, total);
    while (done < total) {
        struct pollfd fds[WORKERS];

        for (int i = 0; i < WORKERS; i++)
            fds[i] = (struct pollfd){ .fd = bares[i].from, .events = POLLIN };
        (void)poll(fds, WORKERS, -1);
        for (int i = 0; i < WORKERS; i++) {
            size_t n = bares[i].flying < batch ? bares[i].flying : batch;

            if (!fds[i].revents || !n)
                continue;
            bench_check(bench_read(bares[i].from, answers, n * sizeof(long)), "read");
            bares[i].flying -= n;
            done += n;
            put(&bares[i], &next, batch, total);
        }
    }
    return (bench_now() - begin) / (double)total;
}

static double floor_each(void *unused)
{
    (void)unused;
    return bare_map(some, 1, DEPTH);
}

static double floor_batches(void *unused)
{
    (void)unused;
    return bare_map(many, BATCH, 2);
}

static double floor_call(void *unused)
{
    double begin = bench_now();
    long message[2] = { 1, 12 }, answer;

    (void)unused;
    for (size_t i = 0; i < calls; i++) {
        bench_write(bares[0].to, message, sizeof(message));
        bench_check(bench_read(bares[0].from, &answer, sizeof(answer)), "read");
    }
    return (bench_now() - begin) / (double)calls;
}

/* ---- the library ---- */

static int square(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return -1;
    return mp_return(call, x * x);
}

static double map_numbers(size_t total, size_t chunksize)
{
    double begin = bench_now();

    must(mp_pool_map(
             pool, square, MP_ITEMS(in, total), MP_ITEMS(out, total), .chunksize = chunksize),
        "map");
    begin = bench_now() - begin;
    for (size_t i = 0; i < total; i += 997)
        bench_check(out[i] == in[i] * in[i], "a wrong answer");
    return begin / (double)total;
}

static double library_each(void *unused)
{
    (void)unused;
    return map_numbers(some, 1);
}

static double library_batches(void *unused)
{
    (void)unused;
    return map_numbers(many, 0);
}

/* Its memory is given back: what comes after is not to fork more than it needs. */
static double library_values(void *unused)
{
    mp_message *answers = calloc(some, sizeof(*answers));
    msgpack_object *values = calloc(some, sizeof(*values));
    double begin;

    (void)unused;
    bench_check(values && answers, "memory");
    for (size_t i = 0; i < some; i++)
        values[i] = (msgpack_object){ MSGPACK_OBJECT_POSITIVE_INTEGER, { .u64 = i } };
    begin = bench_now();
    must(mp_pool_map(pool, square, MP_ITEMS(values, some), MP_ITEMS(answers, some)), "map");
    begin = bench_now() - begin;
    for (size_t i = 0; i < some; i++)
        mp_message_clear(&answers[i]);
    free(answers);
    free(values);
    return begin / (double)some;
}

static double library_call(void *unused)
{
    static mp_message answer = MP_MESSAGE_INIT;
    double begin = bench_now();

    (void)unused;
    for (size_t i = 0; i < calls; i++)
        must(mp_pool_apply(pool, square, MP_ARGS(12), &answer), "apply");
    return (bench_now() - begin) / (double)calls;
}

/* ---- work that takes time ---- */

static int even[200], skewed[2000]; /* what items cost, in units */

static void burn(int units)
{
    static volatile double sink;
    double x = 1;

    for (long i = 0; i < units * 1500L; i++)
        x = x * 1.0000001 + 1e-9;
    sink = x;
    (void)sink;
}

static int burn_item(mp_call *call)
{
    int units;

    if (mp_unpack(call, &units))
        return -1;
    burn(units);
    return 0;
}

static void make_costs(void)
{
    unsigned state = 1;

    for (size_t i = 0; i < 200; i++)
        even[i] = 100;
    for (size_t i = 0; i < 2000; i++) { /* one of a hundred costs a thousand times as much */
        state = state * 1103515245u + 12345u;
        skewed[i] = (state >> 16) % 100 == 0 ? 1000 : 1;
    }
}

struct costs {
    const int *items;
    size_t count;
};

/* The same work in forked processes, each with its exact share of the cost. */
static double floor_burn(void *argument)
{
    const struct costs *c = argument;
    double begin = bench_now();
    long total = 0, mine;
    pid_t pids[WORKERS];

    for (size_t i = 0; i < c->count; i++)
        total += c->items[i];
    for (int i = 0; i < WORKERS; i++) {
        pids[i] = fork();
        bench_check(pids[i] >= 0, "fork");
        if (pids[i] > 0)
            continue;
        for (mine = total / WORKERS; mine > 0; mine--)
            burn(1);
        _exit(0);
    }
    for (int i = 0; i < WORKERS; i++)
        (void)waitpid(pids[i], NULL, 0);
    return bench_now() - begin;
}

static double library_burn(void *argument)
{
    const struct costs *c = argument;
    double begin = bench_now();

    must(mp_pool_map(pool, burn_item, MP_ITEMS(c->items, c->count)), "map");
    return bench_now() - begin;
}

/* ---- start and shutdown ---- */

struct starting {
    const char *method;
    int workers;
};

static _Noreturn void be_idle(int from, int to)
{
    char byte = 0;

    if (write(to, &byte, 1) == 1)
        (void)!read(from, &byte, 1);
    _exit(0);
}

static pid_t spawn_idle(int from, int to)
{
    static char *arguments[] = { (char *)"floor", NULL };
    static char *environment[2] = { (char *)FLOOR_CHILD, NULL };
    posix_spawn_file_actions_t actions;
    pid_t pid;

    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, from, STDIN_FILENO);
    (void)posix_spawn_file_actions_adddup2(&actions, to, STDOUT_FILENO);
    errno = posix_spawn(&pid, this_binary, &actions, NULL, arguments, environment);
    bench_check(errno == 0, "posix_spawn");
    (void)posix_spawn_file_actions_destroy(&actions);
    return pid;
}

/* Workers that say that they are there, and go when their input ends. */
static double floor_start(void *argument)
{
    const struct starting *s = argument;
    double begin = bench_now();
    int go[2], there[2];
    pid_t pids[16];
    char byte;

    bench_check(pipe2(go, O_CLOEXEC) == 0 && pipe2(there, O_CLOEXEC) == 0, "pipe2");
    for (int i = 0; i < s->workers; i++) {
        pids[i] = strcmp(s->method, "spawn") == 0 ? spawn_idle(go[0], there[1]) : fork();
        bench_check(pids[i] >= 0, "fork");
        if (pids[i] == 0) {
            (void)close(go[1]);
            be_idle(go[0], there[1]);
        }
    }
    for (int i = 0; i < s->workers; i++)
        bench_check(bench_read(there[0], &byte, 1), "read");
    (void)close(go[1]);
    for (int i = 0; i < s->workers; i++)
        (void)waitpid(pids[i], NULL, 0);
    (void)close(go[0]);
    (void)close(there[0]);
    (void)close(there[1]);
    return bench_now() - begin;
}

/* Every worker has answered when each has run one item of a map of as many. */
static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

static double library_start(void *argument)
{
    const struct starting *s = argument;
    double begin = bench_now();
    mp_pool *p = mp_pool_new(.processes = s->workers, .context = mp_get_context(s->method));

    must(p ? 0 : -1, "pool");
    must(mp_pool_apply(p, nothing, MP_ARGS(), NULL), "apply");
    must(mp_pool_close(p), "close");
    must(mp_pool_join(p, MP_FOREVER), "join");
    mp_pool_free(p);
    return bench_now() - begin;
}

/* ---- deaths ---- */

/* Writes down when, and is killed. */
static int die(mp_call *call)
{
    mp_raw_value *when;

    if (mp_unpack(call, &when) < 0)
        return -1;
    *mp_raw_value_data(when, double) = bench_now();
    (void)raise(SIGKILL);
    return -1;
}

static void print_deaths(int count)
{
    static const char *const methods[] = { "fork", "spawn", "forkserver" };
    mp_raw_value *when = mp_raw_value_new(double, 0);
    double times[100];

    printf("\na worker's death is reported after (median, longest of %d):", count);
    for (int i = 0; i < 3; i++) {
        mp_pool *p = mp_pool_new(.processes = WORKERS, .context = mp_get_context(methods[i]));

        must(p && when ? 0 : -1, "pool");
        for (int k = 0; k < count; k++) {
            int r = mp_pool_apply(p, die, MP_ARGS(when), NULL);

            bench_check(r == MP_EWORKERLOST, "the death of a worker");
            times[k] = (bench_now() - *mp_raw_value_data(when, double)) / 1000;
        }
        mp_pool_free(p);
        printf(" %s %.2f, ", methods[i], bench_median(times, count));
        printf("%.2f ms%s", times[count - 1], i < 2 ? ";" : " (goal: < 100)\n");
    }
    mp_raw_array_free(when);
}

/* ---- memory ---- */

static long private_kib(pid_t pid)
{
    char path[64], line[256];
    long sum = 0, value;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%ld/smaps_rollup", (long)pid);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "Private_Clean: %ld", &value) == 1 ||
            sscanf(line, "Private_Dirty: %ld", &value) == 1)
            sum += value;
    if (file)
        (void)fclose(file);
    return sum;
}

/* The least a process has: a bare one that sleeps. */
static long floor_kib(bool spawned)
{
    int go[2], there[2];
    char byte;
    pid_t pid;
    long kib;

    bench_check(pipe2(go, O_CLOEXEC) == 0 && pipe2(there, O_CLOEXEC) == 0, "pipe2");
    pid = spawned ? spawn_idle(go[0], there[1]) : fork();
    if (pid == 0) {
        (void)close(go[1]);
        be_idle(go[0], there[1]);
    }
    bench_check(pid > 0 && bench_read(there[0], &byte, 1), "floor");
    kib = private_kib(pid);
    (void)close(go[1]);
    (void)waitpid(pid, NULL, 0);
    (void)close(go[0]);
    (void)close(there[0]);
    (void)close(there[1]);
    return kib;
}

/* Before all else: a copy of a process whose memory is in pieces takes more of it. */
static void print_memory(void)
{
    static const char *const methods[] = { "fork", "spawn", "forkserver" };

    printf("\nprivate memory of an idle worker:");
    for (int i = 0; i < 3; i++) {
        mp_pool *p = mp_pool_new(.processes = 1, .context = mp_get_context(methods[i]));
        pid_t pid = 0;

        must(p ? mp_pool_apply(p, nothing, MP_ARGS(), NULL) : -1, "pool");
        (void)mp_pool_pids(p, &pid, 1);
        printf(" %s %ld KiB%s", methods[i], private_kib(pid), i < 2 ? "," : "");
        mp_pool_free(p);
    }
    printf(" (goals: 64, 130, 64; a bare process: forked %ld, spawned %ld)\n", floor_kib(false),
        floor_kib(true));
}

/* ---- the table ---- */

static void measure_tasks(const bench_options *options, bench_peer *peer)
{
    static struct costs costs[] = { { even, 200 }, { skewed, 2000 } };
    static bench_row rows[] = {
        { .name = "map, chunksize 1", .bytes = 1, .unit = "M/s", .goal = 2.5, .peer_goal = 100 },
        { .name = "map, default", .bytes = 1, .unit = "M/s", .goal = 0.33, .peer_goal = 8 },
        { .name = "map, values", .bytes = 1, .unit = "M/s" },
        { .name = "apply, one by one", .goal = 1.15, .peer_goal = 30 },
        { .name = "even items of 100 us", .goal = 1.02 },
        { .name = "uneven items, 1:1000", .goal = 1.05 },
    };
    static const struct {
        bench_work floor, library;
        const char *peer;
    } works[] = {
        { floor_each, library_each, "map 1 20000" },
        { floor_batches, library_batches, "map 0 1000000" },
        { floor_each, library_values, NULL },
        { floor_call, library_call, "apply 500" },
        { floor_burn, library_burn, NULL },
        { floor_burn, library_burn, NULL },
    };

    for (int r = 0; r < options->rounds; r++) {
        for (int i = 0; i < 6; i++) {
            double us = works[i].peer ? bench_ask(peer, "%s", works[i].peer) : 0;

            bench_round(&rows[i], options->quick ? 2 : 5, works[i].floor, works[i].library,
                i >= 4 ? &costs[i - 4] : NULL, us);
        }
    }
    bench_print_header("tasks");
    for (int i = 0; i < 6; i++)
        bench_print(&rows[i]);
}

static void measure_starts(const bench_options *options, bench_peer *peer)
{
    static struct starting starts[] = { { "fork", 2 }, { "spawn", 2 }, { "forkserver", 2 },
        { "fork", 16 }, { "spawn", 16 }, { "forkserver", 16 } };
    static bench_row rows[] = {
        { .name = "fork, 2 workers", .goal = 1.15, .peer_goal = 18 },
        { .name = "spawn, 2", .goal = 1.15, .peer_goal = 85 },
        { .name = "forkserver, 2", .goal = 1.15, .peer_goal = 70 },
        { .name = "fork, 16 workers", .goal = 1.15, .peer_goal = 18 },
        { .name = "spawn, 16", .goal = 1.15, .peer_goal = 85 },
        { .name = "forkserver, 16", .goal = 1.15, .peer_goal = 70 },
    };

    for (int r = 0; r < options->rounds; r++) {
        for (int i = 0; i < 6; i++) {
            double us = bench_ask(
                peer, "pool %s %d %d", starts[i].method, starts[i].workers, options->quick ? 1 : 3);

            bench_round(
                &rows[i], options->quick ? 2 : 10, floor_start, library_start, &starts[i], us);
        }
    }
    bench_print_header("pool start + shutdown");
    for (int i = 0; i < 6; i++)
        bench_print(&rows[i]);
}

int main(int argc, char **argv)
{
    if (getenv("BENCH_FLOOR_CHILD"))
        be_idle(STDIN_FILENO, STDOUT_FILENO);
    MP_MAIN () {
        bench_options options = bench_parse(argc, argv);
        bench_peer peer = bench_peer_open();

        bench_check(readlink("/proc/self/exe", this_binary, sizeof(this_binary) - 1) > 0, "exe");
        print_memory();
        if (options.quick)
            many /= 10, some /= 10, calls /= 5;
        in = calloc(many, sizeof(*in));
        out = calloc(many, sizeof(*out));
        bench_check(in && out, "memory");
        for (size_t i = 0; i < many; i++)
            in[i] = (long)i;
        make_costs();
        start_bares();
        pool = mp_pool_new(.processes = WORKERS);
        must(pool ? 0 : -1, "pool");
        measure_tasks(&options, &peer);
        mp_pool_free(pool);
        end_bares();
        free(in);
        free(out);
        (void)malloc_trim(0);
        must(mp_forkserver_ensure_running(), "fork server");
        measure_starts(&options, &peer);
        print_deaths(options.quick ? 10 : 100);
        bench_peer_close(&peer);
        printf("\nfloor: bare forked workers and pipes, %d deep, one write a task; %d numbers a "
               "message;\nforked processes with an exact share of the work; fork or posix_spawn, "
               "an answer each, waitpid\n",
            DEPTH, BATCH);
    }
    return 0;
}
