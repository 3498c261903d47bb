/* SPDX-License-Identifier: MIT
 *
 * pool.c - a pool of workers, after the example of Python's manual: one map over
 * an array, single calls, answers as they come, a timeout, and what errors look
 * like. The output is the same under every start method.
 */
#include <multiprocessing.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int square(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return -1;
    return mp_return(call, x * x);
}

static int greet(mp_call *call)
{
    const char *greeting, *name;
    char text[64];

    if (mp_unpack(call, &greeting, &name))
        return -1;
    (void)snprintf(text, sizeof(text), "%s, %s", greeting, name);
    return mp_return(call, text);
}

/* Fails in the two ways there are: it says so, or it crashes. */
static int divide(mp_call *call)
{
    long x;

    if (mp_unpack(call, &x))
        return -1;
    if (x == 0)
        return mp_raise(call, 33, "division by zero");
    if (x == 13)
        abort();
    return mp_return(call, 1000 / x);
}

static int sleep_long(mp_call *call)
{
    (void)call;
    while (pause() < 0)
        continue;
    return 0;
}

static void show_map(mp_pool *pool)
{
    long in[10], out[10];

    for (int i = 0; i < 10; i++)
        in[i] = i;
    if (mp_pool_map(pool, square, MP_ITEMS(in, 10), MP_ITEMS(out, 10)) < 0)
        mp_perror("map");
    printf("map:");
    for (int i = 0; i < 10; i++)
        printf(" %ld", out[i]);
    printf("\n");
}

static void show_calls(mp_pool *pool)
{
    mp_message answer = MP_MESSAGE_INIT;
    mp_result *result;
    const char *text;
    long x;

    if (mp_pool_apply(pool, square, MP_ARGS(20), &answer) || mp_unpack(&answer, &x))
        mp_perror("apply");
    else
        printf("apply: %ld\n", x);

    result = mp_pool_apply_async(pool, greet, MP_ARGS("hello", "world"));
    if (mp_result_get(result, &answer, 10) || mp_unpack(&answer, &text))
        mp_perror("apply_async");
    else
        printf("apply_async: %s\n", text);
    mp_result_free(result);
    mp_message_clear(&answer);
}

/* Lists made in a loop need a place that outlives the loop; those of mp_list() end with its block. */
static void show_starmap(mp_pool *pool)
{
    const char *greetings[] = { "good morning", "good night" }, *names[] = { "Ada", "Alan" };
    msgpack_object pairs[2][2], in[2];
    mp_message out[] = { MP_MESSAGE_INIT, MP_MESSAGE_INIT };
    const char *text;

    for (int i = 0; i < 2; i++) {
        pairs[i][0] = mp_object(greetings[i]);
        pairs[i][1] = mp_object(names[i]);
        in[i] = mp_list_of(2, pairs[i]);
    }
    if (mp_pool_starmap(pool, greet, MP_ITEMS(in, 2), MP_ITEMS(out, 2)) < 0)
        mp_perror("starmap");
    for (int i = 0; i < 2; i++) {
        if (mp_unpack(&out[i], &text) == 0)
            printf("starmap: %s\n", text);
        mp_message_clear(&out[i]);
    }
}

static void show_imap(mp_pool *pool)
{
    int in[] = { 1, 2, 3 };
    mp_imap *answers = mp_pool_imap(pool, square, MP_ITEMS(in, 3));
    mp_message answer = MP_MESSAGE_INIT;
    int x;

    printf("imap:");
    while (mp_imap_next(answers, &answer, MP_FOREVER) == 0 && mp_unpack(&answer, &x) == 0)
        printf(" %d", x);
    printf("\n");
    mp_imap_free(answers);
    mp_message_clear(&answer);
}

/* Each item has its own answer, whatever becomes of the others. */
static void show_errors(mp_pool *pool)
{
    long in[] = { 1, 0, 10, 13, 100 }, out[5] = { 0 };
    int status[5];
    mp_task_error error;
    int r = mp_pool_map(
        pool, divide, MP_ITEMS(in, 5), MP_ITEMS(out, 5), .status = status, .error = &error);

    printf("map failed: %s, first at item %zu, code %d\n", mp_error_name(r), error.index,
        error.raised);
    for (int i = 0; i < 5; i++) {
        if (status[i])
            printf("  1000 / %ld: %s\n", in[i], mp_error_name(status[i]));
        else
            printf("  1000 / %ld: %ld\n", in[i], out[i]);
    }
    r = mp_pool_apply(pool, sleep_long, MP_ARGS(), NULL, .time_limit = 0.1);
    printf("a call without end: %s\n", mp_error_name(r));
}

int main(void)
{
    MP_MAIN () {
        mp_pool *pool = mp_pool_new(.processes = 4);

        if (!pool)
            return mp_perror("pool"), 1;
        show_map(pool);
        show_calls(pool);
        show_starmap(pool);
        show_imap(pool);
        show_errors(pool);
        mp_pool_free(pool);
    }
    return 0;
}
