/* SPDX-License-Identifier: MIT
 *
 * guard_none.c - a program that forgot MP_MAIN().
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <unistd.h>

static int target(mp_call *call)
{
    (void)call;
    (void)dprintf(STDOUT_FILENO, "target\n");
    return 0;
}

int main(void)
{
    mp_process *process;
    int code;

    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    process = mp_process_new(.target = target);
    if (!process || mp_process_start(process) < 0) {
        mp_perror(mp_error_name(mp_last_error()->code));
        mp_process_free(process);
        return 1;
    }
    (void)mp_process_join(process, MP_FOREVER);
    code = mp_process_exitcode(process);
    mp_process_free(process);
    return code;
}
