/* SPDX-License-Identifier: MIT
 *
 * value_array.c - a number and an array that a child changes, as in the manual of
 * Python's multiprocessing, and a counter that several processes increment.
 *
 * Each get and set takes the lock by itself. Adding one is a get and a set: the
 * counter is right because each process holds the lock for both.
 */
#include <multiprocessing.h>
#include <stdio.h>

enum { COUNTERS = 4, INCREMENTS = 1000 };

/* Runs in a child. */
static int change(mp_call *call)
{
    mp_array *numbers;
    mp_value *pi;
    int number;

    if (mp_unpack(call, &pi, &numbers) < 0 || mp_value_set(pi, 3.1415927) < 0)
        return mp_perror("change"), 1;
    for (int i = 0; i < (int)mp_array_len(numbers); i++)
        if (mp_array_get(numbers, i, &number) < 0 || mp_array_set(numbers, i, -number) < 0)
            return mp_perror("change"), 1;
    return 0;
}

/* Runs in several children at once. */
static int count(mp_call *call)
{
    mp_value *counter;

    if (mp_unpack(call, &counter) < 0)
        return mp_perror("count"), 1;
    for (int i = 0; i < INCREMENTS; i++) {
        if (mp_value_acquire(counter, MP_FOREVER) < 0)
            return mp_perror("count"), 1;
        *mp_value_data(counter, long) += 1;
        (void)mp_value_release(counter); /* we hold it */
    }
    return 0;
}

/* 0 when it ended well. */
static int end(mp_process *p)
{
    int code;

    (void)mp_process_join(p, MP_FOREVER);
    code = mp_process_exitcode(p);
    mp_process_free(p);
    return code != 0;
}

static int show_changes(mp_value *pi, mp_array *numbers)
{
    mp_process *p = mp_process_new(.target = change, .args = MP_ARGS(pi, numbers));
    double real;
    int number;

    if (!p || mp_process_start(p) < 0)
        return mp_perror("start"), 1;
    if (end(p) || mp_value_get(pi, &real) < 0)
        return 1;
    printf("%.7f\n", real);
    for (int i = 0; i < (int)mp_array_len(numbers); i++) {
        if (mp_array_get(numbers, i, &number) < 0)
            return mp_perror("get"), 1;
        printf("%d%c", number, i + 1 < (int)mp_array_len(numbers) ? ' ' : '\n');
    }
    return 0;
}

static int show_counter(mp_value *counter)
{
    mp_process *p[COUNTERS] = { NULL };
    int failed = 0;
    long total;

    for (int i = 0; i < COUNTERS; i++) {
        p[i] = mp_process_new(.target = count, .args = MP_ARGS(counter));
        if (!p[i] || mp_process_start(p[i]) < 0)
            mp_perror("start");
    }
    for (int i = 0; i < COUNTERS; i++)
        failed |= end(p[i]);
    if (failed || mp_value_get(counter, &total) < 0)
        return 1;
    printf("%d processes, %d increments each: %ld\n", COUNTERS, INCREMENTS, total);
    return 0;
}

int main(void)
{
    MP_MAIN () {
        static const int ten[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 };
        mp_value *pi = mp_value_new(double, 0.0), *counter = mp_value_new(long, 0);
        mp_array *numbers = mp_array_new(int, 10, .from = ten);
        int r = 1;

        if (pi && counter && numbers)
            r = show_changes(pi, numbers) || show_counter(counter);
        else
            mp_perror("shared memory");
        mp_value_free(pi);
        mp_value_free(counter);
        mp_array_free(numbers);
        return r;
    }
    return 0;
}
