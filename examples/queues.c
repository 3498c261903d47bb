/* SPDX-License-Identifier: MIT
 *
 * queues.c - producers and consumers: two processes put tasks into a queue, three
 * work them off, and the answers come back through another one.
 */
#include <multiprocessing.h>
#include <stdio.h>

enum { PRODUCERS = 2, CONSUMERS = 3, TASKS = 10 };

/* Puts its share of the tasks: numbers. It need not wait until somebody takes them. */
static int produce(mp_call *call)
{
    mp_queue *tasks;
    int first;

    if (mp_unpack(call, &tasks, &first) < 0)
        return mp_perror("produce"), 1;
    for (int i = first; i < TASKS; i += PRODUCERS)
        if (mp_queue_put(tasks, mp_list(i, "squared"), MP_FOREVER) < 0)
            return mp_perror("produce"), 1;
    return 0;
}

/* Works tasks off until it gets none (Python's None) in place of one. */
static int consume(mp_call *call)
{
    mp_queue *tasks, *answers;
    mp_message task = MP_MESSAGE_INIT;
    const char *what;
    int number;
    int r = mp_unpack(call, &tasks, &answers);

    while (r == 0 && (r = mp_queue_get(tasks, &task, MP_FOREVER)) == 0) {
        if (task.value.type == MSGPACK_OBJECT_NIL)
            break;
        r = mp_unpack(&task, &number, &what);
        if (r == 0)
            r = mp_queue_put(answers, mp_list(number, what, number * number), MP_FOREVER);
        if (r == 0)
            r = mp_queue_task_done(tasks);
    }
    if (r < 0)
        mp_perror("consume");
    mp_message_clear(&task);
    return r < 0;
}

static int start(mp_process **p, mp_function target, msgpack_object args)
{
    *p = mp_process_new(.target = target, .args = args);
    return *p ? mp_process_start(*p) : mp_last_error()->code;
}

static int join(mp_process *p)
{
    int r = p ? mp_process_join(p, MP_FOREVER) : 0;

    mp_process_free(p);
    return r;
}

/* They come in the order in which they were done: sorted by the number they answer. */
static int print_answers(mp_queue *answers)
{
    mp_message answer = MP_MESSAGE_INIT;
    int squares[TASKS] = { 0 };
    const char *what = "";
    int number, square, r = 0;

    for (int i = 0; i < TASKS && r == 0; i++) {
        r = mp_queue_get(answers, &answer, MP_FOREVER);
        if (r == 0)
            r = mp_unpack(&answer, &number, &what, &square);
        if (r == 0)
            squares[number] = square;
    }
    for (int i = 0; i < TASKS && r == 0; i++)
        printf("%d %s is %d\n", i, what, squares[i]);
    mp_message_clear(&answer);
    return r;
}

static int run(mp_queue *tasks, mp_queue *answers)
{
    mp_process *producers[PRODUCERS] = { NULL }, *consumers[CONSUMERS] = { NULL };
    int r = 0;

    for (int i = 0; i < CONSUMERS && r == 0; i++)
        r = start(&consumers[i], consume, MP_ARGS(tasks, answers));
    for (int i = 0; i < PRODUCERS && r == 0; i++)
        r = start(&producers[i], produce, MP_ARGS(tasks, i));
    for (int i = 0; i < PRODUCERS; i++)
        (void)join(producers[i]); /* what they put is in the queue now */
    if (r == 0)
        r = mp_queue_join(tasks, MP_FOREVER); /* until it is worked off */
    for (int i = 0; i < CONSUMERS; i++)
        (void)mp_queue_put(tasks, mp_none(), MP_FOREVER); /* one for each */
    for (int i = 0; i < CONSUMERS; i++)
        (void)join(consumers[i]);
    if (r == 0)
        r = print_answers(answers);
    return r;
}

int main(void)
{
    MP_MAIN () {
        mp_queue *tasks = mp_joinable_queue_new(.maxsize = 4);
        mp_queue *answers = mp_queue_new();
        int r = tasks && answers ? run(tasks, answers) : mp_last_error()->code;

        if (r < 0)
            mp_perror("queues");
        mp_queue_free(tasks);
        mp_queue_free(answers);
        return r < 0;
    }
    return 0;
}
