/* SPDX-License-Identifier: MIT
 *
 * guard_constructor.c - a program that starts a process before main(), and one
 * in main(). With GUARD_THERE in the environment the early one has a guard.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int target(mp_call *call)
{
    (void)call;
    (void)dprintf(STDOUT_FILENO, "target\n");
    return 0;
}

static int try(const char *where)
{
    mp_process *process = mp_process_new(.target = target);
    int code = 1;

    if (!process || mp_process_start(process) < 0) {
        fprintf(stderr, "%s: ", where);
        mp_perror(mp_error_name(mp_last_error()->code));
    } else {
        (void)mp_process_join(process, MP_FOREVER);
        code = mp_process_exitcode(process);
    }
    mp_process_free(process);
    return code;
}

__attribute__((constructor)) static void begin(void)
{
    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    if (!getenv("GUARD_THERE")) {
        (void)try("constructor");
        return;
    }
    MP_MAIN () {
        (void)try("constructor");
    }
}

int main(void)
{
    MP_MAIN () {
        return try("main");
    }
    return 0;
}
