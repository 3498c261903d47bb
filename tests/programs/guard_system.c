/* SPDX-License-Identifier: MIT
 *
 * guard_system.c - a program that runs itself with system() in its children:
 * guard_system before|after (the guard). It gives up where it could go on for
 * ever, and says so.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LEVEL_MAX 20

static const char *self, *mode;

static int run_self(void)
{
    const char *text = getenv("GUARD_LEVEL");
    int level = text ? atoi(text) : 0;
    char command[4200], next[16];

    if (level >= LEVEL_MAX) {
        (void)dprintf(STDOUT_FILENO, "endless\n");
        return 1;
    }
    (void)snprintf(next, sizeof(next), "%d", level + 1);
    (void)setenv("GUARD_LEVEL", next, 1);
    (void)snprintf(command, sizeof(command), "'%s' %s", self, mode);
    return system(command) != 0;
}

static int target(mp_call *call)
{
    (void)call;
    (void)dprintf(STDOUT_FILENO, "target\n");
    return strcmp(mode, "after") == 0 ? run_self() : 0;
}

static int work(void)
{
    mp_process *process = mp_process_new(.target = target);
    int code = 3;

    if (!process || mp_process_start(process) < 0) {
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
    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    self = argv[0];
    mode = argc > 1 ? argv[1] : "before";
    if (strcmp(mode, "before") == 0 && getenv("GUARD_CHILD")) {
        (void)unsetenv("GUARD_CHILD");
        (void)run_self();
    }
    MP_MAIN () {
        (void)setenv("GUARD_CHILD", "1", 1);
        return work();
    }
    return 0;
}
