/* SPDX-License-Identifier: MIT
 *
 * design.c - the second program of the documents, as it stands.
 */
/* clang-format off */
#include <multiprocessing.h>
#include <stdio.h>

static int greet(mp_call *call)
{
    const char *name;
    mp_connection *answers;
    if (mp_unpack(call, &name, &answers))
        return 1;
    printf("hello %s from %s\n", name, mp_process_name(mp_current_process()));
    return mp_connection_send(answers, mp_list(42, 2.5, "done", mp_none())) != 0;
}

int main(void)
{
    MP_MAIN() {
        mp_connection *here, *there;
        mp_message answer = MP_MESSAGE_INIT;
        long number; double real; const char *word;

        mp_pipe(&here, &there);
        mp_process *p = mp_process_new(.target = greet, .args = MP_ARGS("bob", there));
        if (!p || mp_process_start(p))
            return mp_perror("start"), 1;
        if (mp_connection_recv(here, &answer) == 0 &&
            mp_unpack(&answer, &number, &real, &word, NULL) == 0)
            printf("%ld %g %s\n", number, real, word);
        mp_process_join(p, MP_FOREVER);
        printf("exit code %d\n", mp_process_exitcode(p));
        mp_message_clear(&answer);
        mp_process_free(p);
        mp_connection_free(here);
        mp_connection_free(there);
    }
    return 0;
}
