/* SPDX-License-Identifier: MIT
 *
 * guard_late.c - a program that starts a process before the guard and another
 * one inside: guard_late always|child|child-fork.
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

static int try(const char *where, const mp_context *context)
{
    mp_process *process = mp_process_new(.target = target, .context = context);
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

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "always";
    const char *method = strcmp(mode, "child-fork") == 0 ? "fork" : NULL;

    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    if (strcmp(mode, "always") == 0 || getenv("GUARD_CHILD"))
        (void)try("early", mp_get_context(method));
    MP_MAIN () {
        (void)setenv("GUARD_CHILD", "1", 1);
        return try("inside", NULL);
    }
    return 0;
}
