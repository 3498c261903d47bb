/* SPDX-License-Identifier: MIT
 *
 * shared_memory.c - one array for many processes: anonymous memory as a big
 * argument, a table with a name, and a list, which a Python program can have too.
 *
 *     shared_memory       shows them
 *     shared_memory -w    and waits before it ends, for a Python program to look
 *
 * In Python, with the names that it prints:
 *
 *     from multiprocessing import shared_memory
 *     table = shared_memory.SharedMemory(TABLE, track=False)
 *     print(table.buf.cast("d").tolist()[:3])
 *     print(list(shared_memory.ShareableList(name=LIST)))
 *
 * prints [0.5, 1.5, 2.5] and ['filled', 2.5, 42]. A Python before 3.13 has no
 * track=False, and takes the names away when it ends: see shared_memory.h.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <string.h>

enum { COUNT = 1000000, PARTS = 4 };

/* ---- a big argument: read by all, copied by nobody; and an array for the answers ---- */

/* Runs in a worker: adds up a part of the numbers. */
static int add_part(mp_call *call)
{
    mp_raw_array *numbers, *sums;
    const double *number;
    double sum = 0;
    int part;

    if (mp_unpack(call, &numbers, &sums, &part) < 0)
        return mp_raise(call, mp_last_error()->code, "%s", mp_last_error()->text);
    number = mp_raw_array_data(numbers, double);
    for (int i = COUNT / PARTS * part; i < COUNT / PARTS * (part + 1); i++)
        sum += number[i];
    if (mp_raw_array_set(sums, part, sum) < 0)
        return mp_raise(call, mp_last_error()->code, "%s", mp_last_error()->text);
    return 0;
}

/* One task a part. Each gets the arrays themselves, not what is in them. */
static int add_up(mp_pool *pool, mp_raw_array *numbers, mp_raw_array *sums)
{
    mp_result *results[PARTS] = { NULL };
    int r = 0;

    for (int i = 0; i < PARTS && r == 0; i++) {
        results[i] = mp_pool_apply_async(pool, add_part, MP_ARGS(numbers, sums, i));
        r = results[i] ? 0 : mp_last_error()->code;
    }
    for (int i = 0; i < PARTS; i++) {
        if (r == 0)
            r = mp_result_get(results[i], NULL, MP_FOREVER);
        mp_result_free(results[i]);
    }
    return r;
}

static int big_argument(void)
{
    mp_raw_array *numbers = mp_raw_array_new(double, COUNT, .readonly = true);
    mp_raw_array *sums = mp_raw_array_new(double, PARTS);
    mp_pool *pool = mp_pool_new(.processes = 2);
    int r = numbers && sums && pool ? 0 : mp_last_error()->code;

    printf("a big argument\n");
    for (int i = 0; i < COUNT && r == 0; i++)
        mp_raw_array_data(numbers, double)[i] = i;
    if (r == 0)
        r = add_up(pool, numbers, sums);
    for (int i = 0; i < PARTS && r == 0; i++)
        printf("  part %d: %.0f\n", i, mp_raw_array_data(sums, double)[i]);
    mp_pool_free(pool);
    mp_raw_array_free(sums);
    mp_raw_array_free(numbers);
    return r;
}

/* ---- memory with a name: all a process needs is to know it ---- */

/* Runs in a child: fills the table, and changes the list. */
static int fill(mp_call *call)
{
    const char *table_name, *list_name;
    mp_shared_memory *table = NULL;
    mp_shareable_list *list = NULL;
    int r = mp_unpack(call, &table_name, &list_name);

    if (r == 0) {
        table = mp_shared_memory_new(.name = table_name);
        list = mp_shareable_list_new(.name = list_name);
        r = table && list ? 0 : mp_last_error()->code;
    }
    for (size_t i = 0; r == 0 && i < mp_shared_memory_size(table) / sizeof(double); i++)
        ((double *)mp_shared_memory_buf(table))[i] = (double)i + 0.5;
    if (r == 0)
        r = mp_shareable_list_set(list, 0, "filled");
    if (r == 0)
        r = mp_shareable_list_set(list, -1, 42);
    if (r < 0)
        mp_perror("fill");
    mp_shareable_list_free(list);
    mp_shared_memory_free(table);
    return r < 0;
}

static int run_child(const char *table, const char *list)
{
    mp_process *p = mp_process_new(.target = fill, .args = MP_ARGS(table, list));
    int r = p ? mp_process_start(p) : mp_last_error()->code;

    if (r == 0)
        r = mp_process_join(p, MP_FOREVER);
    if (r == 0)
        printf("  exit code %d\n", mp_process_exitcode(p));
    mp_process_free(p);
    return r;
}

static int print_list(mp_shareable_list *list)
{
    mp_message item = MP_MESSAGE_INIT;
    const char *text;
    double real;
    int number;
    int r = mp_shareable_list_get(list, 0, &item); /* text needs a place to be: a message */

    if (r == 0)
        r = mp_unpack(&item, &text);
    if (r == 0)
        r = mp_shareable_list_get(list, 1, &real); /* numbers go into variables */
    if (r == 0)
        r = mp_shareable_list_get(list, 2, &number);
    if (r == 0)
        printf("  %s %g %d\n", text, real, number);
    mp_message_clear(&item);
    return r;
}

static const char *name_of(mp_shareable_list *list)
{
    return mp_shared_memory_name(mp_shareable_list_shm(list));
}

static void wait_for_enter(const char *table, const char *list)
{
    printf("  TABLE = \"%s\", LIST = \"%s\"; Enter ends this\n", table, list);
    (void)fflush(stdout);
    (void)getchar();
}

static int by_name(bool wait)
{
    mp_shared_memory *table = mp_shared_memory_new(.create = true, .size = 80);
    mp_shareable_list *list = mp_shareable_list_new(.items = mp_list("not yet", 2.5, 0));
    int r = table && list ? 0 : mp_last_error()->code;

    printf("memory with a name\n");
    if (r == 0)
        r = print_list(list);
    if (r == 0)
        r = run_child(mp_shared_memory_name(table), name_of(list));
    if (r == 0)
        r = print_list(list);
    for (int i = 0; i < 3 && r == 0; i++)
        printf("  table: %g\n", ((double *)mp_shared_memory_buf(table))[i]);
    if (r == 0 && wait)
        wait_for_enter(mp_shared_memory_name(table), name_of(list));
    mp_shareable_list_free(list); /* takes the names away: they are this process's */
    mp_shared_memory_free(table);
    return r;
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        bool wait = argc > 1 && strcmp(argv[1], "-w") == 0;

        if (big_argument() < 0 || by_name(wait) < 0)
            return mp_perror("shared_memory"), 1;
    }
    return 0;
}
