/* SPDX-License-Identifier: MIT
 *
 * test_pool_crash.c - items that fail and workers that die, in every way, under
 * every call: exactly what was touched fails, and the pool goes on.
 */
#include "crash.h"

#include "pid_internal.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

enum { WORKERS = 2, ITEMS = 24, BIG = 8 << 20 };

#define LIMIT (HAS_ASAN || HAS_TSAN ? 1.0 : 0.3) /* for items of no time at all */

/* ---- tasks ---- */

/* Twice x, or what a poison says. */
static int twice(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 99;
    return x < 0 ? fail_by(call, (enum way)POISON(x)) : mp_return(call, 2 * x);
}

static int twice_text(mp_call *call)
{
    const char *text;
    char answer[32];
    int x;

    if (mp_unpack(call, &text))
        return 99;
    x = (int)strtol(text, NULL, 10);
    (void)snprintf(answer, sizeof(answer), "%d", 2 * x);
    return x < 0 ? fail_by(call, (enum way)POISON(x)) : mp_return(call, (const char *)answer);
}

static int sum(mp_call *call)
{
    int x, y;

    if (mp_unpack(call, &x, &y))
        return 99;
    return x < 0 ? fail_by(call, (enum way)POISON(x)) : mp_return(call, x + y);
}

/* ---- the calls, all with one face ---- */

typedef struct answer {
    int code, value;
    mp_task_error error; /* of a map: only of the first that failed */
} answer;

typedef struct order {
    mp_pool *pool;
    const int *in;
    size_t count;
    double limit;
    int retries;
    answer *out;
} order;

typedef void (*form)(const order *o);

static void by_apply(const order *o)
{
    for (size_t i = 0; i < o->count; i++) {
        mp_message message = MP_MESSAGE_INIT;
        answer *a = &o->out[i];

        a->code = mp_pool_apply(o->pool, twice, MP_ARGS(o->in[i]), &message, .time_limit = o->limit,
            .retries = o->retries, .error = &a->error);
        if (a->code == 0)
            assert_int_equal(mp_unpack(&message, &a->value), 0);
        mp_message_clear(&message);
    }
}

/* What a map said, item by item. */
static void sort_out(const order *o, int r, const int *status, const mp_task_error *error)
{
    assert_int_equal(r, error->code);
    for (size_t i = 0; i < o->count; i++)
        o->out[i].code = status[i];
    if (error->code) {
        assert_true(error->index < o->count);
        o->out[error->index].error = *error;
        for (size_t i = 0; i < error->index; i++)
            assert_int_equal(status[i], 0);
    }
}

static void by_map(const order *o)
{
    int out[128], status[128];
    mp_task_error error;
    int r;

    for (size_t i = 0; i < o->count; i++)
        out[i] = -5;
    r = mp_pool_map(o->pool, twice, MP_ITEMS(o->in, o->count), MP_ITEMS(out, o->count),
        .time_limit = o->limit, .retries = o->retries, .status = status, .error = &error);
    sort_out(o, r, status, &error);
    for (size_t i = 0; i < o->count; i++) {
        o->out[i].value = out[i];
        assert_true(!status[i] == (out[i] != -5)); /* what failed is untouched */
    }
}

static void by_map_of_text(const order *o)
{
    mp_message out[128];
    char texts[128][16];
    char *in[128];
    int status[128];
    mp_task_error error;
    int r;

    for (size_t i = 0; i < o->count; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "%d", o->in[i]);
        in[i] = texts[i];
        out[i] = (mp_message)MP_MESSAGE_INIT;
    }
    r = mp_pool_map(o->pool, twice_text, MP_ITEMS(in, o->count), MP_ITEMS(out, o->count),
        .time_limit = o->limit, .retries = o->retries, .status = status, .error = &error);
    sort_out(o, r, status, &error);
    for (size_t i = 0; i < o->count; i++) {
        const char *text;

        if (status[i] == 0) {
            assert_int_equal(mp_unpack(&out[i], &text), 0);
            o->out[i].value = (int)strtol(text, NULL, 10);
        }
        mp_message_clear(&out[i]);
    }
}

static void by_starmap(const order *o)
{
    msgpack_object in[128], pairs[128][2];
    int out[128], status[128];
    mp_task_error error;
    int r;

    for (size_t i = 0; i < o->count; i++) {
        pairs[i][0] = pairs[i][1] = mp__from_signed(o->in[i]);
        in[i] = mp__list(2, pairs[i]);
    }
    r = mp_pool_starmap(o->pool, sum, MP_ITEMS(in, o->count), MP_ITEMS(out, o->count),
        .time_limit = o->limit, .retries = o->retries, .status = status, .error = &error);
    sort_out(o, r, status, &error);
    for (size_t i = 0; i < o->count; i++)
        o->out[i].value = out[i];
}

static void fetch_all(const order *o, mp_imap *imap, bool ordered)
{
    mp_message message = MP_MESSAGE_INIT;
    bool seen[128] = { false };
    int r;

    assert_non_null(imap);
    for (size_t n = 0; (r = mp_imap_next(imap, &message, MP_FOREVER)) != MP_EEOF; n++) {
        size_t i = mp_imap_index(imap);

        assert_true(i < o->count && !seen[i] && (!ordered || i == n));
        seen[i] = true;
        o->out[i].code = r;
        o->out[i].error = *mp_imap_error(imap);
        assert_int_equal(o->out[i].error.code, r);
        if (r == 0)
            assert_int_equal(mp_unpack(&message, &o->out[i].value), 0);
    }
    for (size_t i = 0; i < o->count; i++)
        assert_true(seen[i]);
    mp_message_clear(&message);
    mp_imap_free(imap);
}

static void by_imap(const order *o)
{
    fetch_all(o,
        mp_pool_imap(o->pool, twice, MP_ITEMS(o->in, o->count), .time_limit = o->limit,
            .retries = o->retries),
        true);
}

static void by_imap_unordered(const order *o)
{
    fetch_all(o,
        mp_pool_imap_unordered(o->pool, twice, MP_ITEMS(o->in, o->count), .time_limit = o->limit,
            .retries = o->retries),
        false);
}

static const struct {
    form run;
    const char *function;
    bool single, all_records;
} forms[] = {
    { by_apply, "twice", true, true },
    { by_map, "twice", false, false },
    { by_map_of_text, "twice_text", false, false },
    { by_starmap, "sum", false, false },
    { by_imap, "twice", false, true },
    { by_imap_unordered, "twice", false, true },
};
enum { FORMS = sizeof(forms) / sizeof(*forms) };

/* ---- judging ---- */

static mp_pool *make_pool(int processes)
{
    mp_pool *pool = mp_pool_new(.processes = processes);

    assert_non_null(pool);
    return pool;
}

static void check_crew(mp_pool *pool)
{
    pid_t pids[16];
    size_t n = mp_pool_pids(pool, pids, 16);

    assert_int_equal(n, mp_pool_processes(pool));
    for (size_t i = 0; i < n; i++)
        assert_true(is_alive(pids[i]));
}

static const char *worker_prefix(const char *method)
{
    return strcmp(method, "fork") == 0    ? "ForkPoolWorker-"
           : strcmp(method, "spawn") == 0 ? "SpawnPoolWorker-"
                                          : "ForkServerPoolWorker-";
}

static void check_record(
    const mp_task_error *e, size_t which, size_t index, enum way way, const char *method)
{
    char pid[32], item[32];

    assert_int_equal(e->code, fates[way].code);
    assert_int_equal(e->exitcode, fates[way].exitcode);
    assert_string_equal(e->function, forms[which].function);
    assert_int_equal(e->index, forms[which].single ? 0 : index);
    assert_int_equal(strncmp(e->worker, worker_prefix(method), strlen(worker_prefix(method))), 0);
    assert_true(e->pid > 0 && e->pid != getpid() && e->seconds >= 0);
    if (way == RETURNS || way == RAISES)
        assert_int_equal(e->raised, 7);
    (void)snprintf(pid, sizeof(pid), "pid %ld", e->pid);
    (void)snprintf(item, sizeof(item), "item %zu", index);
    if (!strstr(e->text, fates[way].text) || !strstr(e->text, e->function) ||
        !strstr(e->text, e->worker) || !strstr(e->text, pid) ||
        (!forms[which].single && !strstr(e->text, item)))
        fail_msg("the record says: %s", e->text);
}

/* The poisoned items failed as they must, the others are right. */
static void check_answers(const order *o, size_t which, const char *method)
{
    bool first = true;

    for (size_t i = 0; i < o->count; i++) {
        const answer *a = &o->out[i];
        enum way way = (enum way)POISON(o->in[i]);

        if (o->in[i] >= 0) {
            if (a->code || a->value != 2 * o->in[i])
                fail_msg("item %zu of form %zu: %s, %d", i, which, mp_strerror(a->code), a->value);
            continue;
        }
        if (a->code != fates[way].code)
            fail_msg(
                "item %zu of form %zu, %s: %s", i, which, fates[way].name, mp_strerror(a->code));
        if (first || forms[which].all_records)
            check_record(&a->error, which, i, way, method);
        first = false;
    }
}

static void order_items(order *o, int *in, answer *out, size_t count)
{
    o->in = in;
    o->out = out;
    o->count = count;
    for (size_t i = 0; i < count; i++) {
        in[i] = (int)i;
        out[i] = (answer){ .code = 1 };
    }
}

static bool is_among(pid_t pid, const pid_t *pids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

/* ---- in a task ---- */

static void one_poisoned_item_fails_alone_with_a_record(void **state)
{
    for (size_t which = 0; which < FORMS; which++) {
        mp_pool *pool = make_pool(WORKERS);
        double slowest = 0;

        for (enum way way = 0; way < WAYS; way++) {
            int in[ITEMS];
            answer out[ITEMS];
            pid_t pids[WORKERS];
            order o = { .pool = pool, .limit = fates[way].endless ? LIMIT : 0 };
            double begin = now();

            order_items(&o, in, out, ITEMS);
            in[7] = POISON(way);
            assert_int_equal(mp_pool_pids(pool, pids, WORKERS), WORKERS);
            forms[which].run(&o);
            check_answers(&o, which, *state);
            assert_true(is_among((pid_t)out[7].error.pid, pids, WORKERS));
            check_crew(pool);
            if (!fates[way].endless && now() - begin > slowest)
                slowest = now() - begin;
        }
        mp_pool_free(pool);
        print_message(
            "form %zu: %d items with a death took at most %.1f ms\n", which, ITEMS, slowest * 1000);
    }
}

static void all_ways_at_once_fail_only_what_they_hit(void **state)
{
    for (size_t which = 0; which < FORMS; which++) {
        mp_pool *pool = make_pool(WORKERS);
        int in[6 * WAYS];
        answer out[6 * WAYS];
        order o = { .pool = pool, .limit = LIMIT };

        order_items(&o, in, out, 6 * WAYS);
        for (enum way way = 0; way < WAYS; way++)
            in[6 * way + 3] = POISON(way);
        forms[which].run(&o);
        check_answers(&o, which, *state);
        order_items(&o, in, out, 6 * WAYS);
        forms[which].run(&o);
        check_answers(&o, which, *state);
        check_crew(pool);
        mp_pool_free(pool);
    }
}

typedef struct bystander {
    mp_pool *pool;
    atomic_bool enough;
    int maps, wrong;
} bystander;

static void *map_meanwhile(void *argument)
{
    bystander *b = argument;

    do {
        int in[ITEMS], out[ITEMS] = { 0 }, r;

        for (int i = 0; i < ITEMS; i++)
            in[i] = i;
        r = mp_pool_map(b->pool, twice, MP_ITEMS(in, ITEMS), MP_ITEMS(out, ITEMS));
        for (int i = 0; i < ITEMS; i++)
            b->wrong += r != 0 || out[i] != 2 * i;
        b->maps++;
    } while (!atomic_load(&b->enough));
    return NULL;
}

/* Either thread drives the pool now and then, and settles what the other one waits for. */
static void deaths_do_not_touch_what_another_thread_has_run(void **state)
{
    if (HAS_TSAN)
        skip(); /* it cannot follow a fork of a process with threads */
    for (size_t which = 0; which < FORMS; which++) {
        bystander b = { .pool = make_pool(WORKERS) };
        int in[6 * WAYS];
        answer out[6 * WAYS];
        order o = { .pool = b.pool, .limit = LIMIT };
        pthread_t thread;

        order_items(&o, in, out, 6 * WAYS);
        for (enum way way = 0; way < WAYS; way++)
            in[6 * way + 3] = POISON(way);
        assert_int_equal(pthread_create(&thread, NULL, map_meanwhile, &b), 0);
        forms[which].run(&o);
        atomic_store(&b.enough, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        check_answers(&o, which, *state);
        assert_true(b.maps > 0);
        assert_int_equal(b.wrong, 0);
        check_crew(b.pool);
        mp_pool_free(b.pool);
    }
}

typedef struct {
    mp_pool *pool;
    pid_t pid;
    mp_result *late;
    atomic_bool over;
} dallying;

/* As long as a callback lasts nobody looks: until both are over, the item and its limit. */
static void dally(mp_result *result, void *user)
{
    dallying *d = user;
    double begin = now();

    (void)result;
    d->late = mp_pool_apply_async(d->pool, twice, MP_ARGS(POISON(EXITS_3)), .time_limit = LIMIT);
    while (d->late && (is_alive(d->pid) || now() < begin + 2 * LIMIT))
        (void)sched_yield();
    atomic_store(&d->over, true);
}

static void who_died_before_its_limit_was_not_too_slow(void **state)
{
    dallying d = { .pool = make_pool(1) };
    mp_result *first;

    (void)state;
    assert_int_equal(mp_pool_pids(d.pool, &d.pid, 1), 1);
    first = mp_pool_apply_async(d.pool, twice, MP_ARGS(1), .callback = dally, .user = &d);
    while (!atomic_load(&d.over))
        (void)sched_yield();
    assert_int_equal(mp_result_get(d.late, NULL, MP_FOREVER), MP_EWORKERLOST);
    assert_int_equal(mp_result_error(d.late)->exitcode, 3);
    mp_result_free(first);
    mp_result_free(d.late);
    mp_pool_free(d.pool);
}

static int close_everything(mp_call *call)
{
    (void)call;
    for (int fd = 3; fd < 256; fd++)
        (void)close(fd);
    while (pause() < 0)
        ;
    return 0;
}

/* It cannot answer any more. The pool says so, and not that somebody else has killed it. */
static void a_worker_that_closes_everything_is_ended(void **state)
{
    mp_pool *pool = make_pool(1);
    mp_task_error error;

    (void)state;
    assert_int_equal(
        mp_pool_apply(pool, close_everything, MP_ARGS(), NULL, .error = &error), MP_EWORKERLOST);
    if (mp__pid_has_descriptors() && !strstr(error.text, "closed its connection"))
        fail_msg("%s", error.text);
    mp_pool_free(pool);
}

/* Every seventh of many: the array says exactly which. */
static void a_map_with_many_deaths_says_which_items_are_lost(void **state)
{
    enum { MANY = 700 };
    static int in[MANY], out[MANY], status[MANY];
    mp_pool *pool = make_pool(WORKERS);
    mp_task_error error;

    (void)state;
    for (int i = 0; i < MANY; i++)
        in[i] = i % 70 == 69 ? POISON(KILLED) : i;
    assert_int_equal(mp_pool_map(pool, twice, MP_ITEMS(in, MANY), MP_ITEMS(out, MANY),
                         .status = status, .error = &error),
        MP_EWORKERLOST);
    assert_int_equal(error.index, 69);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(status[i], in[i] < 0 ? MP_EWORKERLOST : 0);
        assert_int_equal(out[i], in[i] < 0 ? 0 : 2 * i);
    }
    mp_pool_free(pool);
}

/* ---- while idle ---- */

static void workers_killed_while_idle_cost_no_item(void **state)
{
    static const int signals[] = { SIGKILL, SIGTERM, SIGABRT, SIGSEGV };
    mp_pool *pool = make_pool(WORKERS);
    int in[ITEMS];
    answer out[ITEMS];
    order o = { .pool = pool };

    for (size_t which = 0; which < FORMS; which++) {
        for (size_t s = 0; s < (HAS_ASAN || HAS_TSAN ? 2 : 4); s++) {
            pid_t pids[WORKERS];

            order_items(&o, in, out, ITEMS);
            forms[which].run(&o);
            check_answers(&o, which, *state);
            assert_int_equal(mp_pool_pids(pool, pids, WORKERS), WORKERS);
            for (size_t i = 0; i < 1 + s % WORKERS; i++)
                end_pid(pids[i], signals[s]);
            order_items(&o, in, out, ITEMS);
            forms[which].run(&o);
            check_answers(&o, which, *state);
        }
    }
    mp_pool_free(pool);
}

/* It is not dead, and not asked for anything: the other does it all. */
static void a_worker_stopped_while_idle_delays_nobody(void **state)
{
    int in[ITEMS];
    answer out[ITEMS];

    for (size_t which = 0; which < FORMS; which++) {
        mp_pool *pool = make_pool(WORKERS);
        order o = { .pool = pool };
        pid_t pids[WORKERS];

        order_items(&o, in, out, ITEMS);
        forms[which].run(&o);
        assert_int_equal(mp_pool_pids(pool, pids, WORKERS), WORKERS);
        assert_int_equal(kill(pids[which % WORKERS], SIGSTOP), 0);
        while (state_of(pids[which % WORKERS]) != 'T')
            (void)sched_yield();
        order_items(&o, in, out, ITEMS);
        forms[which].run(&o);
        check_answers(&o, which, *state);
        mp_pool_free(pool);
    }
}

static void stop_pid(pid_t pid)
{
    assert_int_equal(kill(pid, SIGSTOP), 0);
    while (state_of(pid) != 'T')
        (void)sched_yield();
}

/* A signal to all children that are no workers. */
static void signal_servers(const pid_t pids[WORKERS], int sig)
{
    FILE *children = fopen("/proc/thread-self/children", "re");
    long pid;

    assert_non_null(children);
    while (fscanf(children, "%ld", &pid) == 1)
        if (is_among((pid_t)pid, pids, WORKERS))
            continue;
        else if (sig == SIGSTOP)
            stop_pid((pid_t)pid);
        else
            end_pid((pid_t)pid, sig);
    (void)fclose(children);
}

/* Under fork and forkserver another process starts the replacements. */
static void lose_servers(const char *method, int sig)
{
    mp_pool *pool = make_pool(WORKERS);
    int in[ITEMS];
    answer out[ITEMS];
    order o = { .pool = pool };
    pid_t pids[WORKERS];

    for (int round = 0; round < 2; round++) {
        order_items(&o, in, out, ITEMS);
        by_map(&o);
        check_answers(&o, 1, method);
        assert_int_equal(mp_pool_pids(pool, pids, WORKERS), WORKERS);
        signal_servers(pids, sig);
        end_pid(pids[0], SIGKILL);
        end_pid(pids[1], SIGKILL);
    }
    order_items(&o, in, out, ITEMS);
    by_map(&o);
    check_answers(&o, 1, method);
    check_crew(pool);
    mp_pool_free(pool);
}

static void the_server_that_starts_replacements_may_die_too(void **state)
{
    lose_servers(*state, SIGKILL);
}

/* Nor is one waited for. Where there is but the fork server, a start has no timeout. */
static void the_nursery_of_replacements_may_be_stopped(void **state)
{
    lose_servers(*state, SIGSTOP);
}

/* ---- in the initializer ---- */

/* Arguments: tokens, a diary, a way. Who finds a token fails. */
static int fail_with_a_token(mp_call *call)
{
    mp_connection *tokens_there, *diary;
    int way;

    if (mp_unpack(call, &tokens_there, &diary, &way))
        return 99;
    if (write(mp_connection_fileno(diary), "", 1) != 1)
        return 98;
    return take_token(tokens_there) ? fail_by(call, (enum way)way) : 0;
}

static mp_pool *make_pool_with_tokens(tokens *t, tokens *diary, enum way way)
{
    mp_pool *pool = mp_pool_new(.processes = WORKERS, .initializer = fail_with_a_token,
        .initargs = MP_ARGS(t->there, diary->here, (int)way));

    assert_non_null(pool);
    return pool;
}

static int count_tokens(tokens *t)
{
    int n = 0;

    while (take_token(t->there))
        n++;
    return n;
}

static void workers_that_die_in_the_initializer_are_replaced(void **state)
{
    for (enum way way = 0; way < LOOPS; way++) {
        size_t which = (size_t)way % FORMS;
        tokens t = make_tokens(4), diary = make_tokens(0);
        mp_pool *pool = make_pool_with_tokens(&t, &diary, way);
        int in[ITEMS];
        answer out[ITEMS];
        order o = { .pool = pool };

        order_items(&o, in, out, ITEMS);
        forms[which].run(&o);
        check_answers(&o, which, *state);
        mp_pool_free(pool);
        assert_in_range(count_tokens(&diary), 5, 7); /* as many as died, and the crew */
        free_tokens(&t);
        free_tokens(&diary);
    }
}

static void an_initializer_that_always_fails_breaks_the_pool(void **state)
{
    (void)state;
    for (enum way way = 0; way < LOOPS; way++) {
        tokens t = make_tokens(1000), diary = make_tokens(0);
        mp_pool *pool = make_pool_with_tokens(&t, &diary, way);
        mp_task_error error = { .code = 0 };

        assert_int_equal(mp_pool_apply(pool, twice, MP_ARGS(1), NULL, .error = &error), MP_EBROKEN);
        if (!strstr(error.text, fates[way].text))
            fail_msg("%s: %s", fates[way].name, error.text);
        assert_in_range(count_tokens(&diary), 3 + WORKERS, 2 + 2 * WORKERS);
        assert_int_equal(mp_pool_apply(pool, twice, MP_ARGS(1), NULL), MP_EBROKEN);
        if (!strstr(mp_last_error()->text, fates[way].text))
            fail_msg("%s: %s", fates[way].name, mp_last_error()->text);
        assert_null(mp_pool_imap(pool, twice, MP_ITEMS(((int[]){ 1 }), 1)));
        mp_pool_free(pool);
        free_tokens(&t);
        free_tokens(&diary);
    }
}

static void an_initializer_that_never_ends_keeps_no_pool_from_ending(void **state)
{
    (void)state;
    for (enum way way = LOOPS; way < WAYS; way++) {
        tokens t = make_tokens(100), diary = make_tokens(0);
        mp_pool *pool = make_pool_with_tokens(&t, &diary, way);

        assert_int_equal(
            mp_pool_apply(pool, twice, MP_ARGS(1), NULL, .timeout = 0.05), MP_ETIMEDOUT);
        mp_pool_free(pool);
        free_tokens(&t);
        free_tokens(&diary);
    }
}

/* ---- from a callback ---- */

typedef struct relay {
    mp_pool *pool;
    enum way way;
    mp_result *second;
    int failed;
} relay;

static void note_failure(mp_result *result, void *user)
{
    relay *r = user;

    r->failed = mp_result_error(result)->code;
}

static void submit_poison(mp_result *result, void *user)
{
    relay *r = user;

    (void)result;
    r->second = mp_pool_apply_async(r->pool, twice, MP_ARGS(POISON(r->way)), .user = r,
        .error_callback = note_failure, .time_limit = fates[r->way].endless ? LIMIT : 0);
}

static void a_task_from_a_callback_fails_like_any_other(void **state)
{
    mp_pool *pool = make_pool(WORKERS);

    for (enum way way = 0; way < WAYS; way++) {
        relay r = { .pool = pool, .way = way };
        mp_message message = MP_MESSAGE_INIT;
        int x = 0;
        mp_result *first =
            mp_pool_apply_async(pool, twice, MP_ARGS(21), .callback = submit_poison, .user = &r);

        assert_non_null(first);
        assert_int_equal(mp_result_get(first, &message, MP_FOREVER), 0);
        assert_int_equal(mp_unpack(&message, &x), 0);
        assert_int_equal(x, 42);
        assert_non_null(r.second);
        assert_int_equal(mp_result_get(r.second, NULL, MP_FOREVER), fates[way].code);
        assert_int_equal(r.failed, fates[way].code);
        check_record(mp_result_error(r.second), 0, 0, way, *state);
        mp_result_free(first);
        mp_result_free(r.second);
        mp_message_clear(&message);
    }
    mp_pool_free(pool);
}

/* ---- in the middle of something big ---- */

static int measure(mp_call *call)
{
    mp_bytes_view bytes;

    return mp_unpack(call, &bytes) ? 99 : mp_return(call, bytes.size);
}

/* It had not begun: it is run by the replacement. */
static void a_worker_killed_while_it_reads_a_task_loses_nothing(void **state)
{
    mp_pool *pool = make_pool(1);
    void *big = calloc(1, BIG);

    (void)state;
    assert_non_null(big);
    for (int round = 0; round < 3; round++) {
        mp_message message = MP_MESSAGE_INIT;
        size_t size = 0;
        mp_result *result;
        pid_t pid;

        assert_int_equal(mp_pool_apply(pool, twice, MP_ARGS(1), NULL), 0);
        assert_int_equal(mp_pool_pids(pool, &pid, 1), 1);
        assert_int_equal(kill(pid, SIGSTOP), 0);
        while (state_of(pid) != 'T')
            (void)sched_yield();
        result = mp_pool_apply_async(pool, measure, MP_ARGS(mp_bytes(big, BIG)));
        assert_non_null(result);
        end_pid(pid, SIGKILL);
        assert_int_equal(mp_result_get(result, &message, MP_FOREVER), 0);
        assert_int_equal(mp_unpack(&message, &size), 0);
        assert_int_equal(size, BIG);
        mp_result_free(result);
        mp_message_clear(&message);
    }
    mp_pool_free(pool);
    free(big);
}

/* Arguments: a number and a diary. Says that it is about to answer with much. */
static int answer_much(mp_call *call)
{
    static char much[BIG];
    mp_connection *diary;
    int x;

    if (mp_unpack(call, &x, &diary) || write(mp_connection_fileno(diary), "", 1) != 1)
        return 99;
    return mp_return(call, mp_bytes(much, BIG));
}

/* Nobody drives the pool before imap_next: the answer fills the socket, and its worker blocks. */
static void a_worker_killed_while_it_writes_an_answer_loses_only_that(void **state)
{
    mp_pool *pool = make_pool(1);
    tokens diary = make_tokens(0);
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    assert_int_equal(mp_pool_apply(pool, twice, MP_ARGS(1), NULL), 0);
    for (int round = 0; round < 3; round++) {
        msgpack_object pairs[3][2], in[3];
        mp_imap *imap;
        pid_t pid;

        for (int i = 0; i < 3; i++) {
            pairs[i][0] = mp__from_signed(i);
            pairs[i][1] = mp__from_handle(diary.here);
            in[i] = mp__list(2, pairs[i]);
        }
        imap = mp_pool_imap(pool, answer_much, MP_ITEMS(in, 3), .spread = true);
        assert_non_null(imap);
        assert_int_equal(mp_pool_pids(pool, &pid, 1), 1);
        assert_int_equal(mp_connection_poll(diary.there, MP_FOREVER), 1);
        while (state_of(pid) != 'S')
            (void)sched_yield();
        end_pid(pid, SIGKILL);
        assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), MP_EWORKERLOST);
        assert_int_equal(mp_imap_error(imap)->exitcode, -SIGKILL);
        for (int i = 1; i < 3; i++) {
            mp_bytes_view bytes = { NULL, 0 };

            assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), 0);
            assert_int_equal(mp_unpack(&message, &bytes), 0);
            assert_int_equal(bytes.size, BIG);
        }
        assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), MP_EEOF);
        assert_int_equal(count_tokens(&diary), 3);
        mp_imap_free(imap);
    }
    mp_message_clear(&message);
    mp_pool_free(pool);
    free_tokens(&diary);
}

/* ---- by another ---- */

static int say_pid_and_wait(mp_call *call)
{
    mp_connection *line, *end;
    char byte;

    if (mp_unpack(call, &line, &end) || mp_connection_send(line, (int)getpid()))
        return 99;
    return read(mp_connection_fileno(end), &byte, 1) == 1 ? 0 : 98; /* for ever: nobody writes */
}

static int kill_pid(mp_call *call)
{
    int pid;

    return mp_unpack(call, &pid) ? 99 : kill(pid, SIGKILL);
}

static void a_worker_may_kill_its_sibling(void **state)
{
    mp_pool *pool = make_pool(WORKERS);
    mp_connection *here, *there, *end, *ends;
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_pipe(&end, &ends), 0);
    for (int round = 0; round < 5; round++) {
        mp_result *result = mp_pool_apply_async(pool, say_pid_and_wait, MP_ARGS(there, end));
        int pid = 0;

        assert_non_null(result);
        assert_int_equal(mp_connection_recv(here, &message), 0);
        assert_int_equal(mp_unpack(&message, &pid), 0);
        assert_int_equal(mp_pool_apply(pool, kill_pid, MP_ARGS(pid), NULL), 0);
        assert_int_equal(mp_result_get(result, NULL, MP_FOREVER), MP_EWORKERLOST);
        assert_int_equal(mp_result_error(result)->pid, pid);
        assert_int_equal(mp_result_error(result)->exitcode, -SIGKILL);
        mp_result_free(result);
    }
    mp_message_clear(&message);
    mp_pool_free(pool);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_connection_free(end);
    mp_connection_free(ends);
}

/* ---- retries ---- */

static mp_connection *my_tokens; /* of a worker */

static int keep_tokens(mp_call *call)
{
    if (mp_unpack(call, &my_tokens))
        return 99;
    mp_connection_keep(my_tokens);
    return 0;
}

/* x, or as long as there are tokens, death; of 1000 and more only. */
static int die_at_first(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 99;
    return x >= 1000 && take_token(my_tokens) ? fail_by(call, KILLED) : mp_return(call, x);
}

static int raise_at_first(mp_call *call)
{
    return take_token(my_tokens) ? fail_by(call, RAISES) : mp_return(call, 1);
}

static void check_retries(mp_pool *pool, tokens *t, int deaths, int retries)
{
    int in[ITEMS], out[ITEMS], status[ITEMS];
    int expected = deaths > retries ? MP_EWORKERLOST : 0;
    mp_message message = MP_MESSAGE_INIT;
    mp_imap *imap;

    for (int i = 0; i < ITEMS; i++)
        in[i] = i == 5 ? 1000 + i : i;
    if (expected)
        deaths = retries + 1;
    give_tokens(t, deaths);
    assert_int_equal(
        mp_pool_apply(pool, die_at_first, MP_ARGS(1000), NULL, .retries = retries), expected);
    assert_int_equal(count_tokens(t), 0);
    give_tokens(t, deaths);
    assert_int_equal(mp_pool_map(pool, die_at_first, MP_ITEMS(in, ITEMS), MP_ITEMS(out, ITEMS),
                         .retries = retries, .status = status),
        expected);
    for (int i = 0; i < ITEMS; i++) {
        assert_int_equal(status[i], i == 5 ? expected : 0);
        if (status[i] == 0)
            assert_int_equal(out[i], in[i]);
    }
    assert_int_equal(count_tokens(t), 0);
    give_tokens(t, deaths);
    imap = mp_pool_imap(pool, die_at_first, MP_ITEMS(in, ITEMS), .retries = retries);
    assert_non_null(imap);
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), i == 5 ? expected : 0);
    assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), MP_EEOF);
    assert_int_equal(count_tokens(t), 0);
    mp_imap_free(imap);
    mp_message_clear(&message);
}

static void an_item_is_begun_again_as_often_as_retries_say(void **state)
{
    tokens t = make_tokens(0);
    mp_pool *pool =
        mp_pool_new(.processes = WORKERS, .initializer = keep_tokens, .initargs = MP_ARGS(t.there));

    (void)state;
    assert_non_null(pool);
    for (int retries = 0; retries < 3; retries++) {
        check_retries(pool, &t, retries, retries);
        check_retries(pool, &t, retries + 1, retries);
    }
    /* What fails by itself is not tried again. */
    give_tokens(&t, 1);
    assert_int_equal(
        mp_pool_apply(pool, raise_at_first, MP_ARGS(), NULL, .retries = 5), MP_ERAISED);
    /* Nor is what takes too long. */
    assert_int_equal(
        mp_pool_apply(pool, twice, MP_ARGS(POISON(LOOPS)), NULL, .retries = 5, .time_limit = LIMIT),
        MP_ETIMELIMIT);
    mp_pool_free(pool);
    free_tokens(&t);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(one_poisoned_item_fails_alone_with_a_record),
    UNDER_EACH(all_ways_at_once_fail_only_what_they_hit),
    UNDER_EACH(who_died_before_its_limit_was_not_too_slow),
    UNDER_EACH(a_worker_that_closes_everything_is_ended),
    UNDER_EACH(deaths_do_not_touch_what_another_thread_has_run),
    UNDER_EACH(a_map_with_many_deaths_says_which_items_are_lost),
    UNDER_EACH(workers_killed_while_idle_cost_no_item),
    UNDER_EACH(a_worker_stopped_while_idle_delays_nobody),
    UNDER_EACH(the_server_that_starts_replacements_may_die_too),
    UNDER(the_nursery_of_replacements_may_be_stopped, "fork"),
    UNDER_EACH(workers_that_die_in_the_initializer_are_replaced),
    UNDER_EACH(an_initializer_that_always_fails_breaks_the_pool),
    UNDER_EACH(an_initializer_that_never_ends_keeps_no_pool_from_ending),
    UNDER_EACH(a_task_from_a_callback_fails_like_any_other),
    UNDER_EACH(a_worker_killed_while_it_reads_a_task_loses_nothing),
    UNDER_EACH(a_worker_killed_while_it_writes_an_answer_loses_only_that),
    UNDER_EACH(a_worker_may_kill_its_sibling),
    UNDER_EACH(an_item_is_begun_again_as_often_as_retries_say),
};

TESTS_MAIN(tests)
