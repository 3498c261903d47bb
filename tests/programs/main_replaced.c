/* SPDX-License-Identifier: MIT
 *
 * main_replaced.c - a program whose file on disk goes away before and between
 * its starts: main_replaced early|late delete|PATH of what to put there instead.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int target(mp_call *call)
{
    int number;

    if (mp_unpack(call, &number))
        return 1;
    (void)dprintf(STDOUT_FILENO, "child %d\n", number);
    return 0;
}

static int start(int number)
{
    mp_process *process = mp_process_new(.target = target, .args = MP_ARGS(number));
    int code = 1;

    if (!process || mp_process_start(process) < 0) {
        mp_perror("start");
    } else {
        (void)mp_process_join(process, MP_FOREVER);
        code = mp_process_exitcode(process);
    }
    mp_process_free(process);
    return code;
}

static int replace(const char *self, const char *other)
{
    return strcmp(other, "delete") == 0 ? unlink(self) : rename(other, self);
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        if (argc < 3)
            return 2;
        if (strcmp(argv[1], "late") == 0 && start(0))
            return 3;
        if (replace(argv[0], argv[2]) < 0)
            return 4;
        return start(1) || start(2);
    }
    return 0;
}
