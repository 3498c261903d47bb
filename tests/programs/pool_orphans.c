/* SPDX-License-Identifier: MIT
 *
 * pool_orphans.c - kills itself when its pool is in the state that the argument
 * names: idle, busy, writing (a big answer that nobody reads), or nested (tasks have
 * busy pools of their own). Nothing of it may live on.
 */
#include <multiprocessing.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int loop(mp_call *call)
{
    mp_connection *line;
    volatile int one = 1;

    if (mp_unpack(call, &line) || mp_connection_send(line, 1))
        return 1;
    while (one)
        continue;
    return 0;
}

static int write_much(mp_call *call)
{
    mp_connection *line;
    size_t size = (size_t)64 << 20;
    void *much = calloc(1, size);

    if (!much || mp_unpack(call, &line) || mp_connection_send(line, 1))
        return 1;
    return mp_return(call, mp_bytes(much, size));
}

static int nest(mp_call *call)
{
    mp_connection *line;
    mp_pool *pool = mp_pool_new(.processes = 2);

    if (!pool || mp_unpack(call, &line))
        return 1;
    for (int i = 0; i < 2; i++)
        if (!mp_pool_apply_async(pool, loop, MP_ARGS(line)))
            return 2;
    for (;;)
        (void)pause();
    return 0;
}

/* Stops the thread that would read the answers. */
static void stop_reading(mp_result *result, void *unused)
{
    (void)result;
    (void)unused;
    for (;;)
        (void)pause();
}

static int nothing(mp_call *call)
{
    (void)call;
    return 0;
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        const char *how = argc > 1 ? argv[1] : "idle";
        bool nested = strcmp(how, "nested") == 0, writing = strcmp(how, "writing") == 0;
        mp_pool *pool = mp_pool_new(.processes = 2);
        mp_message message = MP_MESSAGE_INIT;
        mp_connection *here, *there;

        if (!pool || mp_pipe(&here, &there) || mp_pool_apply(pool, nothing, MP_ARGS(), NULL))
            return mp_perror("pool"), 1;
        if (writing && !mp_pool_apply_async(pool, nothing, MP_ARGS(), .callback = stop_reading))
            return mp_perror("apply_async"), 1;
        for (int i = 0; strcmp(how, "idle") != 0 && i < 2; i++)
            if (!mp_pool_apply_async(pool,
                    nested    ? nest
                    : writing ? write_much
                              : loop,
                    MP_ARGS(there)))
                return mp_perror("apply_async"), 1;
        /* While the callback lasts nobody hands out tasks to workers that come late. */
        for (int i = strcmp(how, "idle") == 0 ? 0 : nested ? 4 : writing ? 1 : 2; i > 0; i--)
            if (mp_connection_recv(here, &message))
                return mp_perror("recv"), 1;
        (void)kill(getpid(), SIGKILL);
    }
    return 0;
}
