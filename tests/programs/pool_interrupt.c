/* SPDX-License-Identifier: MIT
 *
 * pool_interrupt.c - is in the middle of a map when Ctrl-C comes: with no argument
 * it does nothing about it, with "handle" its handler ends the map, and it exits with 7.
 */
#include <multiprocessing.h>

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static int block(mp_call *call)
{
    (void)call;
    if (write(STDOUT_FILENO, "ready\n", 6) < 0)
        return 1;
    for (;;)
        (void)pause();
    return 0;
}

static void interrupt(int sig)
{
    (void)sig;
    mp_interrupt();
}

int main(int argc, char **argv)
{
    (void)argv;
    MP_MAIN () {
        struct sigaction action = { .sa_handler = interrupt };
        int in[2] = { 1, 2 };
        mp_pool *pool = mp_pool_new(.processes = 2);

        if (!pool || mp_allow_interrupt() < 0)
            return mp_perror("pool"), 1;
        if (argc > 1)
            (void)sigaction(SIGINT, &action, NULL);
        if (mp_pool_map(pool, block, MP_ITEMS(in, 2)) != MP_EINTR)
            return mp_perror("map"), 1;
        mp_pool_free(pool);
        return 7; /* text could be lost: who leads a session hangs the terminal up as it ends */
    }
    return 0;
}
