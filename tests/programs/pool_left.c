/* SPDX-License-Identifier: MIT
 *
 * pool_left.c - ends without having closed or freed its pool: by returning from
 * main, or with "busy" while its workers have tasks that never end, or with
 * "exit" by exit() in a callback of it.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int square(mp_call *call)
{
    long x;

    return mp_unpack(call, &x) ? 1 : mp_return(call, x * x);
}

static int say_and_block(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || mp_connection_send(line, "running"))
        return 1;
    for (;;)
        (void)pause();
    return 0;
}

static int keep_busy(mp_pool *pool)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;

    if (mp_pipe(&here, &there) < 0)
        return 1;
    for (int i = 0; i < 2; i++)
        if (!mp_pool_apply_async(pool, say_and_block, MP_ARGS(there)) ||
            mp_connection_recv(here, &message) < 0)
            return 1;
    mp_message_clear(&message);
    return 0;
}

static void leave(mp_result *result, void *user)
{
    (void)result;
    (void)user;
    exit(0);
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        const char *how = argc > 1 ? argv[1] : "";
        mp_pool *pool = mp_pool_new(.processes = 2);
        long in[] = { 2, 3 }, out[2];

        if (!pool || mp_pool_map(pool, square, MP_ITEMS(in, 2), MP_ITEMS(out, 2)) < 0)
            return mp_perror("pool"), 1;
        printf("%ld %ld\n", out[0], out[1]);
        if (strcmp(how, "busy") == 0)
            return keep_busy(pool);
        if (strcmp(how, "exit") == 0) {
            (void)mp_pool_apply_async(pool, square, MP_ARGS(1), .callback = leave);
            for (;;)
                (void)pause();
        }
    }
    return 0;
}
