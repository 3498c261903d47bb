/* SPDX-License-Identifier: MIT
 *
 * guard_nested.c - children that start children, and call the guard again:
 * guard_nested LEVELS.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int descend(mp_call *call);

static int start(int level, int levels)
{
    mp_process *process = mp_process_new(.target = descend, .args = MP_ARGS(level, levels));
    int code = 0;

    if (!process || mp_process_start(process) < 0) {
        mp_perror(mp_error_name(mp_last_error()->code));
        code = 7;
    } else {
        (void)mp_process_join(process, MP_FOREVER);
        code = mp_process_exitcode(process);
    }
    mp_process_free(process);
    return code;
}

static int descend(mp_call *call)
{
    int level, levels;

    if (mp_unpack(call, &level, &levels))
        return 2;
    (void)dprintf(STDOUT_FILENO, "level %d\n", level);
    MP_MAIN () {
        (void)dprintf(STDOUT_FILENO, "the guard let a child in\n");
    }
    return level < levels ? start(level + 1, levels) : 0;
}

int main(int argc, char **argv)
{
    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    MP_MAIN () {
        MP_MAIN () {
            return start(1, argc > 1 ? atoi(argv[1]) : 2);
        }
    }
    return 0;
}
