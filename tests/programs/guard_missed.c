/* SPDX-License-Identifier: MIT
 *
 * guard_missed.c - a program whose children leave main() before the guard:
 * guard_missed return|exit.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int target(mp_call *call)
{
    (void)call;
    (void)dprintf(STDOUT_FILENO, "target\n");
    return 0;
}

static int work(void)
{
    mp_process *process = mp_process_new(.target = target);
    int code = 3;

    if (!process || mp_process_start(process) < 0) {
        mp_perror(mp_error_name(mp_last_error()->code));
    } else {
        (void)mp_process_join(process, MP_FOREVER);
        printf("exit code %d\n", mp_process_exitcode(process));
        code = 0;
    }
    mp_process_free(process);
    return code;
}

int main(int argc, char **argv)
{
    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    if (getenv("GUARD_FIRST")) {
        printf("not the first run\n"); /* into a buffer: stdout is a pipe */
        if (argc > 1 && strcmp(argv[1], "exit") == 0)
            exit(0);
        return 0;
    }
    (void)setenv("GUARD_FIRST", "1", 1);
    MP_MAIN () {
        return work();
    }
    return 0;
}
