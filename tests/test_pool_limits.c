/* SPDX-License-Identifier: MIT
 *
 * test_pool_limits.c - pools under strain: limits of time, cancelling, sizes,
 * endless input, workers that talk nonsense, and chaos.
 */
#include "crash.h"

#include "pool_wire_internal.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { WORKERS = 2 };

#define LIMIT (HAS_ASAN || HAS_TSAN ? 1.0 : 0.2)

static mp_pool *make_pool(int processes)
{
    mp_pool *pool = mp_pool_new(.processes = processes);

    assert_non_null(pool);
    return pool;
}

static int twice(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 99;
    return x < 0 ? fail_by(call, (enum way)POISON(x)) : mp_return(call, 2 * x);
}

static void check_usable(mp_pool *pool)
{
    int in[50], out[50];

    for (int i = 0; i < 50; i++)
        in[i] = i;
    assert_int_equal(mp_pool_map(pool, twice, MP_ITEMS(in, 50), MP_ITEMS(out, 50)), 0);
    for (int i = 0; i < 50; i++)
        assert_int_equal(out[i], 2 * i);
}

/* ---- limits of time ---- */

/* Waits for its limit if x is not 0; whether it saw it. */
static int run_until_expired(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 99;
    while (x && !mp_call_expired(call))
        continue;
    return mp_return(call, mp_call_expired(call));
}

static void an_item_sees_its_soft_limit(void **state)
{
    mp_pool *pool = make_pool(WORKERS);
    int in[20] = { [4] = 1, [11] = 1 };
    bool out[20];

    (void)state;
    assert_int_equal(mp_pool_map(pool, run_until_expired, MP_ITEMS(in, 20), MP_ITEMS(out, 20),
                         .soft_time_limit = LIMIT),
        0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(out[i], i == 4 || i == 11);
    in[4] = in[11] = 0;
    assert_int_equal(mp_pool_map(pool, run_until_expired, MP_ITEMS(in, 20), MP_ITEMS(out, 20)), 0);
    for (int i = 0; i < 20; i++)
        assert_false(out[i]);
    mp_pool_free(pool);
}

static void a_time_limit_hits_only_the_item_that_exceeds_it(void **state)
{
    enum { MANY = 300 };
    mp_pool *pool = make_pool(WORKERS);
    int in[MANY], out[MANY], status[MANY];
    mp_task_error error;

    (void)state;
    for (int i = 0; i < MANY; i++)
        in[i] = i;
    in[20] = POISON(LOOPS);
    in[170] = POISON(STOPS);
    assert_int_equal(mp_pool_map(pool, twice, MP_ITEMS(in, MANY), MP_ITEMS(out, MANY),
                         .time_limit = LIMIT, .chunksize = 50, .status = status, .error = &error),
        MP_ETIMELIMIT);
    assert_int_equal(error.index, 20);
    assert_true(error.seconds >= LIMIT);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(status[i], in[i] < 0 ? MP_ETIMELIMIT : 0);
        if (in[i] >= 0)
            assert_int_equal(out[i], 2 * i);
    }
    check_usable(pool);
    mp_pool_free(pool);
}

/* ---- cancelling ---- */

static mp_connection *diary; /* of a worker */

static int keep_diary(mp_call *call)
{
    if (mp_unpack(call, &diary))
        return 99;
    mp_connection_keep(diary);
    return 0;
}

typedef struct entry {
    int number, pid; /* pid 0: the parent has cancelled it */
} entry;

static int write_entry(mp_call *call)
{
    entry e = { .pid = (int)getpid() };

    if (mp_unpack(call, &e.number) || write(mp_connection_fileno(diary), &e, sizeof(e)) < 0)
        return 99;
    return mp_return(call, e.number);
}

/*
 * What began after it was cancelled: an entry behind the parent's. Who had begun
 * just before is being killed and may still have written, but nothing after that.
 */
static void check_entries(const entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool cancelled = false;

        if (!entries[i].pid)
            continue;
        for (size_t k = 0; k < i; k++)
            cancelled |= !entries[k].pid && entries[k].number == entries[i].number;
        for (size_t k = i + 1; cancelled && k < count; k++)
            if (entries[k].pid == entries[i].pid)
                fail_msg("item %d began after it was cancelled", entries[i].number);
        if (cancelled && is_alive(entries[i].pid))
            fail_msg("item %d began after it was cancelled", entries[i].number);
    }
}

static void cancelled_items_never_begin(void **state)
{
    enum { MANY = 10000 };
    static mp_result *results[MANY];
    static entry entries[2 * MANY];
    mp_connection *here, *there;
    mp_pool *pool;
    size_t killed = 0, queued = 0, late = 0, count;
    ssize_t n;

    (void)state;
    seed_chance();
    assert_int_equal(mp_pipe(&here, &there, .oneway = true), 0);
    assert_true(fcntl(mp_connection_fileno(there), F_SETPIPE_SZ, sizeof(entries)) > 0);
    pool = mp_pool_new(.processes = WORKERS, .initializer = keep_diary, .initargs = MP_ARGS(there));
    assert_non_null(pool);
    for (int i = 0; i < MANY; i++) {
        results[i] = mp_pool_apply_async(pool, write_entry, MP_ARGS(i));
        assert_non_null(results[i]);
    }
    for (int i = MANY - 1; i >= 0; i -= 1 + (int)chance(2)) {
        int k = chance(8) ? i : (int)chance(MANY);
        int r = mp_result_cancel(results[k]);
        entry e = { k, 0 };

        assert_true(r == 0 || r == MP_EALREADY);
        late += r != 0;
        if (r == 0)
            assert_int_equal(write(mp_connection_fileno(there), &e, sizeof(e)), sizeof(e));
    }
    for (int i = 0; i < MANY; i++) {
        mp_message message = MP_MESSAGE_INIT;
        int x, r = mp_result_get(results[i], &message, MP_FOREVER);

        assert_true(r == 0 || r == MP_ECANCELLED);
        queued += r == MP_ECANCELLED;
        if (r == 0) {
            assert_int_equal(mp_unpack(&message, &x), 0);
            assert_int_equal(x, i);
        }
        mp_message_clear(&message);
        mp_result_free(results[i]);
    }
    check_usable(pool);
    n = 0;
    for (count = 0; mp_connection_poll(here, 0) == 1; count += (size_t)n / sizeof(entry)) {
        n = read(
            mp_connection_fileno(here), entries + count, sizeof(entries) - count * sizeof(entry));
        assert_true(n > 0 && (size_t)n % sizeof(entry) == 0);
    }
    for (size_t i = 0; i < count; i++)
        killed += entries[i].pid != 0;
    check_entries(entries, count);
    print_message("%zu cancelled, %zu too late, %zu begun\n", queued, late, killed);
    mp_pool_free(pool);
    mp_connection_free(here);
    mp_connection_free(there);
}

/* Arguments: a line to say so, and one that ends it. */
static int say_and_wait(mp_call *call)
{
    mp_connection *line, *end;
    char byte;

    if (mp_unpack(call, &line, &end) || write(mp_connection_fileno(line), "", 1) != 1)
        return 99;
    return read(mp_connection_fileno(end), &byte, 1) == 1 ? mp_return(call, 77) : 98;
}

static int measure(mp_call *call)
{
    mp_bytes_view bytes;

    return mp_unpack(call, &bytes) ? 99 : mp_return(call, bytes.size);
}

/* Lies half in the socket of the worker that runs another. */
static void cancelling_a_big_task_in_the_queue_leaves_the_one_that_runs(void **state)
{
    enum { BIG = 8 << 20 };
    mp_pool *pool = make_pool(1);
    tokens said = make_tokens(0);
    mp_connection *end, *ends;
    void *big = calloc(1, BIG);
    mp_message message = MP_MESSAGE_INIT;
    int x = 0;

    (void)state;
    assert_non_null(big);
    assert_int_equal(mp_pipe(&end, &ends, .oneway = true), 0);
    for (int round = 0; round < 3; round++) {
        mp_result *runs = mp_pool_apply_async(pool, say_and_wait, MP_ARGS(said.here, end));
        mp_result *queued;

        assert_non_null(runs);
        assert_int_equal(mp_connection_poll(said.there, MP_FOREVER), 1);
        assert_true(take_token(said.there));
        queued = mp_pool_apply_async(pool, measure, MP_ARGS(mp_bytes(big, BIG)));
        assert_non_null(queued);
        assert_int_equal(mp_result_cancel(queued), 0);
        assert_int_equal(mp_result_get(queued, NULL, MP_FOREVER), MP_ECANCELLED);
        assert_int_equal(write(mp_connection_fileno(ends), "", 1), 1);
        assert_int_equal(mp_result_get(runs, &message, MP_FOREVER), 0);
        assert_int_equal(mp_unpack(&message, &x), 0);
        assert_int_equal(x, 77);
        mp_result_free(runs);
        mp_result_free(queued);
        check_usable(pool);
    }
    mp_message_clear(&message);
    mp_pool_free(pool);
    free_tokens(&said);
    mp_connection_free(end);
    mp_connection_free(ends);
    free(big);
}

static void a_running_item_that_is_cancelled_ends_with_its_worker(void **state)
{
    mp_pool *pool = make_pool(1);
    tokens said = make_tokens(0);
    mp_connection *end, *ends;

    (void)state;
    assert_int_equal(mp_pipe(&end, &ends, .oneway = true), 0);
    for (int round = 0; round < 5; round++) {
        mp_result *runs = mp_pool_apply_async(pool, say_and_wait, MP_ARGS(said.here, end));
        mp_result *behind = mp_pool_apply_async(pool, twice, MP_ARGS(4));
        pid_t pid;
        int fd;

        assert_non_null(runs);
        assert_non_null(behind);
        assert_int_equal(mp_connection_poll(said.there, MP_FOREVER), 1);
        assert_true(take_token(said.there));
        assert_int_equal(mp_pool_pids(pool, &pid, 1), 1);
        fd = open_pid(pid);
        assert_int_equal(mp_result_cancel(runs), 0);
        assert_true(await_end(fd, PATIENCE));
        assert_int_equal(mp_result_get(runs, NULL, MP_FOREVER), MP_ECANCELLED);
        assert_int_equal(mp_result_get(behind, NULL, MP_FOREVER), 0);
        assert_int_equal(mp_result_cancel(behind), MP_EALREADY);
        mp_result_free(runs);
        mp_result_free(behind);
    }
    mp_pool_free(pool);
    free_tokens(&said);
    mp_connection_free(end);
    mp_connection_free(ends);
}

static void *cancel_it(void *result)
{
    (void)mp_result_cancel(result);
    return NULL;
}

/* Whoever waits may be the one that drives the pool, asleep. */
static void cancelling_wakes_whoever_waits_for_it(void **state)
{
    mp_pool *pool = make_pool(1);
    tokens said = make_tokens(0);
    mp_connection *end, *ends;
    mp_result *runs;

    (void)state;
    assert_int_equal(mp_pipe(&end, &ends, .oneway = true), 0);
    runs = mp_pool_apply_async(pool, say_and_wait, MP_ARGS(said.here, end));
    assert_non_null(runs);
    assert_int_equal(mp_connection_poll(said.there, MP_FOREVER), 1);
    for (int round = 0; round < 200; round++) {
        mp_result *queued = mp_pool_apply_async(pool, twice, MP_ARGS(round));
        pthread_t thread;

        assert_non_null(queued);
        assert_int_equal(pthread_create(&thread, NULL, cancel_it, queued), 0);
        assert_int_equal(mp_result_get(queued, NULL, MP_FOREVER), MP_ECANCELLED);
        (void)pthread_join(thread, NULL);
        mp_result_free(queued);
    }
    assert_int_equal(write(mp_connection_fileno(ends), "", 1), 1);
    assert_int_equal(mp_result_get(runs, NULL, MP_FOREVER), 0);
    mp_result_free(runs);
    mp_pool_free(pool);
    free_tokens(&said);
    mp_connection_free(end);
    mp_connection_free(ends);
}

/* ---- sizes ---- */

static int echo(mp_call *call)
{
    mp_bytes_view bytes;

    return mp_unpack(call, &bytes) ? 99 : mp_return(call, mp_bytes(bytes.data, bytes.size));
}

static const size_t sizes[] = { 0, 1, 240, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 4000,
    4095, 4096, 4097, 65000, 65400, 65470, 65480, 65490, 65529, 65530, 65531, 65532, 65533, 65534,
    65535, 65536, 65537, 65600, 131071, 131072, 131073, (1 << 20) - 1, 1 << 20, (1 << 20) + 1 };
enum { SIZES = sizeof(sizes) / sizeof(*sizes), LARGEST = (1 << 20) + 1 };

/* No two places of it look alike. */
static unsigned char *make_pattern(size_t size)
{
    unsigned char *bytes = malloc(size + 1);

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(i * 131 + (i >> 9));
    return bytes;
}

static void check_bytes(mp_message *message, const void *expected, size_t size)
{
    mp_bytes_view bytes = { NULL, 1 };

    assert_int_equal(mp_unpack(message, &bytes), 0);
    assert_int_equal(bytes.size, size);
    assert_int_equal(memcmp(bytes.data, expected, size), 0);
}

static void bytes_of_every_size_go_there_and_come_back(void **state)
{
    mp_pool *pool = make_pool(WORKERS);
    unsigned char *pattern = make_pattern(LARGEST + SIZES);
    mp_message message = MP_MESSAGE_INIT, out[3 * SIZES];
    msgpack_object in[3 * SIZES];
    mp_imap *imap;

    (void)state;
    for (size_t i = 0; i < 3 * SIZES; i++) {
        in[i] = mp_bytes(pattern + i % SIZES, sizes[i % SIZES]);
        out[i] = (mp_message)MP_MESSAGE_INIT;
    }
    for (size_t i = 0; i < SIZES; i++) {
        assert_int_equal(mp_pool_apply(pool, echo, MP_ARGS(in[i]), &message), 0);
        check_bytes(&message, pattern + i, sizes[i]);
    }
    assert_int_equal(mp_pool_map(pool, echo, MP_ITEMS(in, 3 * SIZES), MP_ITEMS(out, 3 * SIZES)), 0);
    for (size_t i = 0; i < 3 * SIZES; i++) {
        check_bytes(&out[i], pattern + i % SIZES, sizes[i % SIZES]);
        mp_message_clear(&out[i]);
    }
    imap = mp_pool_imap_unordered(pool, echo, MP_ITEMS(in, 3 * SIZES), .window = 100);
    assert_non_null(imap);
    for (size_t i = 0; i < 3 * SIZES; i++) {
        size_t k;

        assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), 0);
        k = mp_imap_index(imap) % SIZES;
        check_bytes(&message, pattern + k, sizes[k]);
    }
    assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), MP_EEOF);
    mp_imap_free(imap);
    mp_message_clear(&message);
    free(pattern);
    mp_pool_free(pool);
}

typedef struct block {
    unsigned char bytes[70000];
} block;

static int turn_block(mp_call *call)
{
    static block b;

    if (mp_unpack(call, &b))
        return 99;
    for (size_t i = 0; i < sizeof(b.bytes); i++)
        b.bytes[i] ^= 255;
    return mp_return(call, mp_struct(&b));
}

/* As they lie in the array, each longer than the ring. */
static void structs_longer_than_the_ring_go_there_and_come_back(void **state)
{
    enum { MANY = 64 };
    mp_pool *pool = make_pool(WORKERS);
    block *in = calloc(MANY, sizeof(*in)), *out = calloc(MANY, sizeof(*out));

    (void)state;
    assert_true(in && out);
    for (size_t i = 0; i < MANY; i++)
        for (size_t k = 0; k < sizeof(in->bytes); k++)
            in[i].bytes[k] = (unsigned char)(i + k * 7);
    assert_int_equal(mp_pool_map(pool, turn_block, MP_ITEMS(in, MANY), MP_ITEMS(out, MANY)), 0);
    for (size_t i = 0; i < MANY; i++)
        for (size_t k = 0; k < sizeof(in->bytes); k++)
            if ((in[i].bytes[k] ^ 255) != out[i].bytes[k])
                fail_msg("item %zu differs at %zu", i, k);
    free(in);
    free(out);
    mp_pool_free(pool);
}

static void check_huge(size_t size)
{
    mp_pool *pool = make_pool(1);
    mp_message message = MP_MESSAGE_INIT;
    unsigned char *pattern = make_pattern(size);

    assert_int_equal(mp_pool_apply(pool, echo, MP_ARGS(mp_bytes(pattern, size)), &message), 0);
    check_bytes(&message, pattern, size);
    mp_message_clear(&message);
    free(pattern);
    check_usable(pool);
    mp_pool_free(pool);
}

static void a_hundred_mebibytes_go_there_and_come_back(void **state)
{
    (void)state;
    check_huge((size_t)100 << 20);
}

/* Needs five times as much memory. */
static void three_gibibytes_go_there_and_come_back(void **state)
{
    (void)state;
    if (!getenv("HUGE_ITEMS") ||
        sysconf(_SC_AVPHYS_PAGES) < (INT64_C(18) << 30) / sysconf(_SC_PAGESIZE)) {
        print_message("needs HUGE_ITEMS=1 in the environment and 18 GiB of free memory\n");
        skip();
    }
    support_allow(600);
    check_huge((size_t)3 << 30);
}

/* ---- endless input ---- */

typedef struct counter {
    int calls;
} counter;

static int count_on(void *state, mp_call *item)
{
    counter *c = state;

    return mp_return(item, c->calls++);
}

static void endless_input_is_read_no_further_than_the_window(void **state)
{
    enum { WINDOW = 24, MANY = 5000 };
    mp_pool *pool = make_pool(WORKERS);

    (void)state;
    for (int ordered = 0; ordered < 2; ordered++) {
        counter c = { 0 };
        mp_message message = MP_MESSAGE_INIT;
        size_t before = 0;
        mp_imap *imap =
            ordered
                ? mp_pool_imap(pool, twice, MP_GENERATE(count_on, &c), .window = WINDOW)
                : mp_pool_imap_unordered(pool, twice, MP_GENERATE(count_on, &c), .window = WINDOW);

        assert_non_null(imap);
        for (int i = 0; i < MANY; i++) {
            int x = -1;

            assert_in_range(c.calls, i, i + WINDOW);
            assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), 0);
            assert_int_equal(mp_unpack(&message, &x), 0);
            assert_int_equal(x, 2 * (int)mp_imap_index(imap));
            if (i == 500)
                before = memory_in_use();
        }
        assert_true(memory_in_use() <= before + 64 * 1024);
        mp_imap_free(imap); /* half way */
        assert_true(c.calls <= MANY + WINDOW);
        mp_message_clear(&message);
        check_usable(pool);
    }
    mp_pool_free(pool);
}

static void an_imap_of_big_items_that_is_abandoned_leaves_the_pool_usable(void **state)
{
    enum { BIG = 3 << 20 };
    mp_pool *pool = make_pool(WORKERS);
    unsigned char *pattern = make_pattern(BIG);
    mp_message message = MP_MESSAGE_INIT;
    msgpack_object in[8];

    (void)state;
    for (int i = 0; i < 8; i++)
        in[i] = mp_bytes(pattern, BIG);
    for (int fetched = 0; fetched < 6; fetched++) {
        mp_imap *imap = mp_pool_imap(pool, echo, MP_ITEMS(in, 8));

        assert_non_null(imap);
        for (int i = 0; i < fetched; i++)
            assert_int_equal(mp_imap_next(imap, &message, MP_FOREVER), 0);
        mp_imap_free(imap);
        check_usable(pool);
    }
    mp_message_clear(&message);
    free(pattern);
    mp_pool_free(pool);
}

/* ---- nonsense ---- */

enum nonsense { ZEROS, ONES, WORDS, NOISE, SHORT, NONSENSES };

static void make_nonsense(enum nonsense kind, unsigned char *bytes, size_t size)
{
    static const char text[] = "Segmentation fault? Not at all: a printf to the wrong place.\n";

    memset(bytes, kind == ONES ? 255 : 0, size);
    for (size_t i = 0; kind == WORDS && i < size; i++)
        bytes[i] = (unsigned char)text[i % (sizeof(text) - 1)];
    for (size_t i = 0; kind == NOISE && i < size; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
}

/* Writes it to all its sockets; then answers with so many bytes. */
static int talk_nonsense(mp_call *call)
{
    static unsigned char bytes[4096], much[1 << 20];
    int kind, size;
    struct stat s;

    if (mp_unpack(call, &kind, &size))
        return 99;
    if (kind >= 0) {
        make_nonsense((enum nonsense)kind, bytes, sizeof(bytes));
        for (int fd = 3; fd < 256; fd++)
            if (fstat(fd, &s) == 0 && S_ISSOCK(s.st_mode))
                (void)send(
                    fd, bytes, kind == SHORT ? 10 : sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return mp_return(call, mp_bytes(much, (size_t)size));
}

/*
 * What was not noticed yet is noticed at the latest by a long answer of that worker,
 * which may get none for a while: how many items it costs, with those lost before.
 */
static int lose_what_is_bad(mp_pool *pool, int lost)
{
    enum { MANY = 8 * WORKERS };
    msgpack_object pairs[MANY][2], in[MANY];
    int rounds = lost ? 3 : 12, status[MANY];

    for (int i = 0; i < MANY; i++) {
        pairs[i][0] = mp__from_signed(-1);
        pairs[i][1] = mp__from_signed(100000);
        in[i] = mp__list(2, pairs[i]);
    }
    for (int round = 0; round < rounds; round++) {
        mp_message out[MANY] = { MP_MESSAGE_INIT };

        (void)mp_pool_starmap(
            pool, talk_nonsense, MP_ITEMS(in, MANY), MP_ITEMS(out, MANY), .status = status);
        for (int i = 0; i < MANY; i++) {
            assert_true(status[i] == 0 || status[i] == MP_EWORKERLOST);
            lost += status[i] != 0;
            mp_message_clear(&out[i]);
        }
    }
    return lost;
}

/* A short answer does not come over the socket, so the nonsense may be noticed after it. */
static void check_nonsense(int kind, int size)
{
    enum { MANY = 30, BAD = 9 };
    mp_pool *pool = make_pool(WORKERS);
    msgpack_object pairs[MANY][2], in[MANY];
    mp_message out[MANY];
    int status[MANY], lost = 0;

    for (int i = 0; i < MANY; i++) {
        pairs[i][0] = mp__from_signed(i == BAD ? kind : -1);
        pairs[i][1] = mp__from_signed(size);
        in[i] = mp__list(2, pairs[i]);
        out[i] = (mp_message)MP_MESSAGE_INIT;
    }
    (void)mp_pool_starmap(
        pool, talk_nonsense, MP_ITEMS(in, MANY), MP_ITEMS(out, MANY), .status = status);
    for (int i = 0; i < MANY; i++) {
        mp_bytes_view bytes = { NULL, 0 };

        if (status[i] == 0) {
            assert_int_equal(mp_unpack(&out[i], &bytes), 0);
            assert_int_equal(bytes.size, size);
        } else {
            assert_int_equal(status[i], MP_EWORKERLOST);
            lost++;
        }
        mp_message_clear(&out[i]);
    }
    if (size > 1000)
        assert_int_equal(status[BAD], MP_EWORKERLOST);
    assert_true(lose_what_is_bad(pool, lost) <= 1);
    check_usable(pool);
    mp_pool_free(pool);
}

static void a_worker_that_talks_nonsense_is_ended(void **state)
{
    (void)state;
    for (int kind = 0; kind < NONSENSES; kind++) {
        check_nonsense(kind, 10);
        check_nonsense(kind, 1000000);
    }
}

/* The memory it shares with its pool: from so many bytes on. */
static int scribble(mp_call *call)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    unsigned long begin, end;
    char line[512], rights[8];
    int kind, from;

    if (!maps || mp_unpack(call, &kind, &from))
        return 99;
    while (fgets(line, sizeof(line), maps))
        if (sscanf(line, "%lx-%lx %7s", &begin, &end, rights) == 3 && strcmp(rights, "rw-s") == 0 &&
            end - begin >= sizeof(mp__pool_shared) && end - begin < sizeof(mp__pool_shared) + 8192)
            make_nonsense((enum nonsense)kind, (unsigned char *)begin + from,
                (size_t)(end - begin) - (size_t)from);
    (void)fclose(maps);
    return mp_return(call, 1);
}

static void a_worker_that_scribbles_over_its_ring_is_ended(void **state)
{
    enum { MANY = 30 };

    (void)state;
    for (int kind = 0; kind < SHORT; kind++) {
        mp_pool *pool = make_pool(1 + kind % WORKERS);
        mp_result *results[MANY];
        int r, lost = 0;

        for (int i = 0; i < MANY; i++) {
            results[i] = i == 9 ? mp_pool_apply_async(pool, scribble, MP_ARGS(kind, 512))
                                : mp_pool_apply_async(pool, twice, MP_ARGS(i));
            assert_non_null(results[i]);
        }
        for (int i = 0; i < MANY; i++) {
            r = mp_result_get(results[i], NULL, MP_FOREVER);
            assert_true(r == 0 || (r == MP_EWORKERLOST && i >= 9)); /* it, or the one begun next */
            lost += r != 0;
            mp_result_free(results[i]);
        }
        assert_true(lost <= 1);
        r = mp_pool_apply(pool, scribble, MP_ARGS((int)ZEROS, 0), NULL);
        assert_true(r == 0 || r == MP_EWORKERLOST);
        check_usable(pool);
        mp_pool_free(pool);
    }
}

/* ---- chaos ---- */

/* Who ends workers, and stops and continues them, at random. */
typedef struct havoc {
    mp_pool *pool;
    int seen, stop; /* descriptors: pids of workers that begin items; readable: it is enough */
    int kills, killed, stopped;
    double until;
} havoc;

/* The pid of one that has begun an item and is still in the pool, or 0. */
static pid_t choose_victim(const havoc *h)
{
    static pid_t seen[4096];
    pid_t pids[64], found = 0;
    ssize_t n = read(h->seen, seen, sizeof(seen));
    size_t count = mp_pool_pids(h->pool, pids, 64);

    if (n <= 0)
        return 0;
    for (int tries = 0; tries < 8 && !found; tries++) {
        pid_t pid = seen[(size_t)n / sizeof(pid_t) - 1 - chance(8) % ((size_t)n / sizeof(pid_t))];

        for (size_t i = 0; i < count; i++)
            found = pids[i] == pid ? pid : found;
    }
    return found;
}

/* Up to so many milliseconds, or until it is enough. */
static bool linger(const havoc *h, unsigned ms)
{
    struct pollfd one = { .fd = h->stop, .events = POLLIN };

    return poll(&one, 1, (int)chance(ms + 1)) == 0;
}

static void *wreak_havoc(void *argument)
{
    havoc *h = argument;
    pid_t stopped = 0;

    while (
        linger(h, 6) && (h->until > 0 ? now() < h->until
                                      : __atomic_load_n(&h->killed, __ATOMIC_RELAXED) < h->kills)) {
        pid_t pid = choose_victim(h);

        if (stopped)
            (void)kill(stopped, SIGCONT);
        stopped = 0;
        if (!pid)
            continue;
        if (chance(3)) {
            (void)__atomic_add_fetch(&h->killed, kill(pid, SIGKILL) == 0, __ATOMIC_RELAXED);
        } else if (kill(pid, SIGSTOP) == 0) {
            h->stopped++;
            stopped = pid;
        }
    }
    if (stopped)
        (void)kill(stopped, SIGCONT);
    return NULL;
}

/* Says who it is, works a little, answers with twice x. */
static int work_a_little(mp_call *call)
{
    pid_t pid = getpid();
    unsigned spin = 0;
    int x;

    if (mp_unpack(call, &x))
        return 99;
    if (write(mp_connection_fileno(diary), &pid, sizeof(pid)) < 0)
        errno = 0; /* full: there is enough to choose from */
    for (int i = x % 1000; i > 0; i--)
        spin += (unsigned)i * spin + 1;
    return mp_return(call, 2 * x + (spin == 1234567 ? 1 : 0));
}

typedef struct chaos {
    mp_connection *here, *there, *stop, *stops;
    mp_pool *pool;
    havoc h;
    pthread_t thread;
    size_t lost, answered;
} chaos;

static void begin_chaos(chaos *c, int kills)
{
    const char *seconds = getenv("CHAOS_SECONDS");

    memset(c, 0, sizeof(*c));
    seed_chance();
    assert_int_equal(mp_pipe(&c->here, &c->there, .oneway = true), 0);
    assert_int_equal(mp_pipe(&c->stop, &c->stops, .oneway = true), 0);
    (void)fcntl(mp_connection_fileno(c->here), F_SETFL, O_NONBLOCK);
    (void)fcntl(mp_connection_fileno(c->there), F_SETFL, O_NONBLOCK);
    c->pool = mp_pool_new(.processes = 4, .initializer = keep_diary, .initargs = MP_ARGS(c->there));
    assert_non_null(c->pool);
    c->h = (havoc){ .pool = c->pool,
        .seen = mp_connection_fileno(c->here),
        .stop = mp_connection_fileno(c->stop),
        .kills = kills };
    if (seconds) {
        support_allow(60 + 2 * (unsigned)strtoul(seconds, NULL, 10));
        c->h.until = now() + strtod(seconds, NULL);
    }
    assert_int_equal(pthread_create(&c->thread, NULL, wreak_havoc, &c->h), 0);
}

static bool goes_on(const chaos *c)
{
    return c->h.until > 0 ? now() < c->h.until
                          : __atomic_load_n(&c->h.killed, __ATOMIC_RELAXED) < c->h.kills;
}

static void end_chaos(chaos *c)
{
    mp_connection_free(c->stops);
    (void)pthread_join(c->thread, NULL);
    check_usable(c->pool);
    mp_pool_free(c->pool);
    mp_connection_free(c->here);
    mp_connection_free(c->there);
    mp_connection_free(c->stop);
    print_message("%zu answers, %zu lost to %d kills (%d stops)\n", c->answered, c->lost,
        c->h.killed, c->h.stopped);
    assert_true(c->lost <= (size_t)c->h.killed);
}

static void every_item_of_a_map_is_answered_once_in_chaos(void **state)
{
    size_t count = getenv("CHAOS_SECONDS") ? 1000000 : 20000;
    int *in = calloc(count, sizeof(int)), *out = calloc(count, sizeof(int));
    int *status = calloc(count, sizeof(int));
    chaos c;

    (void)state;
    assert_true(in && out && status);
    begin_chaos(&c, 40);
    do {
        int r;

        for (size_t i = 0; i < count; i++) {
            in[i] = (int)i;
            out[i] = -5;
        }
        r = mp_pool_map(
            c.pool, work_a_little, MP_ITEMS(in, count), MP_ITEMS(out, count), .status = status);
        assert_true(r == 0 || r == MP_EWORKERLOST);
        for (size_t i = 0; i < count; i++) {
            if (status[i] ? status[i] != MP_EWORKERLOST || out[i] != -5 : out[i] != 2 * (int)i)
                fail_msg("item %zu: %s, %d", i, mp_strerror(status[i]), out[i]);
            c.lost += status[i] != 0;
        }
        c.answered += count;
    } while (goes_on(&c));
    end_chaos(&c);
    free(in);
    free(out);
    free(status);
}

static void every_item_of_an_imap_is_answered_once_in_chaos(void **state)
{
    static unsigned char seen[1 << 26];
    mp_message message = MP_MESSAGE_INIT;
    counter source = { 0 };
    mp_imap *imap;
    size_t count = 0;
    chaos c;

    (void)state;
    memset(seen, 0, sizeof(seen));
    begin_chaos(&c, 40);
    imap = mp_pool_imap_unordered(c.pool, work_a_little, MP_GENERATE(count_on, &source));
    assert_non_null(imap);
    for (; count < sizeof(seen) - 4096 && (goes_on(&c) || count < 10000); count++) {
        int x = -1, r = mp_imap_next(imap, &message, MP_FOREVER);
        size_t i = mp_imap_index(imap);

        assert_true(i < sizeof(seen) && !seen[i]);
        seen[i] = 1;
        if (r != 0) {
            assert_int_equal(r, MP_EWORKERLOST);
            c.lost++;
            continue;
        }
        assert_int_equal(mp_unpack(&message, &x), 0);
        assert_int_equal(x, 2 * (int)i);
    }
    assert_in_range(source.calls, count, count + 64);
    mp_imap_free(imap);
    mp_message_clear(&message);
    c.answered = count;
    end_chaos(&c);
}

/* Big ones both ways: workers die while they read, and while they write. */
static int say_and_echo(mp_call *call)
{
    pid_t pid = getpid();
    mp_bytes_view bytes;

    if (mp_unpack(call, &bytes))
        return 99;
    if (write(mp_connection_fileno(diary), &pid, sizeof(pid)) < 0)
        errno = 0;
    return mp_return(call, mp_bytes(bytes.data, bytes.size));
}

static void big_items_survive_chaos_too(void **state)
{
    enum { BIG = 1 << 20, MANY = 24 };
    unsigned char *pattern = make_pattern(BIG + MANY);
    chaos c;

    (void)state;
    begin_chaos(&c, 25);
    do {
        msgpack_object in[MANY];
        mp_message out[MANY];
        int status[MANY];

        for (int i = 0; i < MANY; i++) {
            in[i] = mp_bytes(pattern + i, BIG);
            out[i] = (mp_message)MP_MESSAGE_INIT;
        }
        (void)mp_pool_map(
            c.pool, say_and_echo, MP_ITEMS(in, MANY), MP_ITEMS(out, MANY), .status = status);
        for (int i = 0; i < MANY; i++) {
            assert_true(status[i] == 0 || status[i] == MP_EWORKERLOST);
            if (status[i] == 0)
                check_bytes(&out[i], pattern + i, BIG);
            c.lost += status[i] != 0;
            mp_message_clear(&out[i]);
        }
        c.answered += MANY;
    } while (goes_on(&c));
    end_chaos(&c);
    free(pattern);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(an_item_sees_its_soft_limit),
    UNDER_EACH(a_time_limit_hits_only_the_item_that_exceeds_it),
    UNDER_EACH(cancelled_items_never_begin),
    UNDER_EACH(cancelling_a_big_task_in_the_queue_leaves_the_one_that_runs),
    UNDER_EACH(a_running_item_that_is_cancelled_ends_with_its_worker),
    UNDER_EACH(cancelling_wakes_whoever_waits_for_it),
    UNDER_EACH(bytes_of_every_size_go_there_and_come_back),
    UNDER_EACH(structs_longer_than_the_ring_go_there_and_come_back),
    UNDER(a_hundred_mebibytes_go_there_and_come_back, "fork"),
    UNDER(three_gibibytes_go_there_and_come_back, "fork"),
    UNDER_EACH(endless_input_is_read_no_further_than_the_window),
    UNDER_EACH(an_imap_of_big_items_that_is_abandoned_leaves_the_pool_usable),
    UNDER_EACH(a_worker_that_talks_nonsense_is_ended),
    UNDER_EACH(a_worker_that_scribbles_over_its_ring_is_ended),
    UNDER_EACH(every_item_of_a_map_is_answered_once_in_chaos),
    UNDER_EACH(every_item_of_an_imap_is_answered_once_in_chaos),
    UNDER_EACH(big_items_survive_chaos_too),
};

TESTS_MAIN(tests)
