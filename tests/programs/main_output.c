/* SPDX-License-Identifier: MIT
 *
 * main_output.c - prints into buffers everywhere, with and without newlines,
 * around the starts of 8 children.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <unistd.h>

#define CHILDREN 8

static int hook(void)
{
    printf("<hook>");
    return 0;
}

static int target(mp_call *call)
{
    int number;

    if (mp_unpack(call, &number))
        return 1;
    printf("<child %d>", number);
    return 0;
}

int main(void)
{
    printf("<before the guard>");
    MP_MAIN () {
        mp_process *children[CHILDREN];

        (void)mp_set_forkserver_preload(hook);
        printf("<inside>");
        for (int i = 0; i < CHILDREN; i++) {
            printf("<start %d>", i);
            children[i] = mp_process_new(.target = target, .args = MP_ARGS(i));
            if (!children[i] || mp_process_start(children[i]) < 0)
                return mp_perror("start"), 1;
        }
        for (int i = 0; i < CHILDREN; i++) {
            (void)mp_process_join(children[i], MP_FOREVER);
            mp_process_free(children[i]);
        }
        printf("<end>");
    }
    return 0;
}
