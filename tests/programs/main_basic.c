/* SPDX-License-Identifier: MIT
 *
 * main_basic.c - asks a child for an answer, however it was started itself.
 */
#include <multiprocessing.h>
#include <stdio.h>

static int target(mp_call *call)
{
    mp_connection *answers;
    int number;

    if (mp_unpack(call, &number, &answers))
        return 1;
    return mp_connection_send(answers, number * number) != 0;
}

int main(void)
{
    MP_MAIN () {
        mp_connection *here, *there;
        mp_message message = MP_MESSAGE_INIT;
        mp_process *process;
        int number = 0;

        if (mp_pipe(&here, &there) < 0)
            return 2;
        process = mp_process_new(.target = target, .args = MP_ARGS(7, there));
        if (!process || mp_process_start(process) < 0)
            return mp_perror("start"), 3;
        mp_connection_free(there);
        if (mp_connection_recv(here, &message) == 0 && mp_unpack(&message, &number) == 0)
            printf("answer %d\n", number);
        (void)mp_process_join(process, MP_FOREVER);
        mp_process_free(process);
        mp_message_clear(&message);
        mp_connection_free(here);
    }
    return 0;
}
