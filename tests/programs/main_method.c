/* SPDX-License-Identifier: MIT
 *
 * main_method.c - says which start method is in force, and the names of a child
 * and of two grandchildren: main_method [context].
 */
#include <multiprocessing.h>
#include <stdio.h>

static int fail(void)
{
    printf("%s: %s\n", mp_error_name(mp_last_error()->code), mp_last_error()->text);
    return 1;
}

static int start(mp_function target, const mp_context *context)
{
    mp_process *process = mp_process_new(.target = target, .context = context);
    int code;

    if (!process || mp_process_start(process) < 0) {
        mp_process_free(process);
        return fail();
    }
    (void)mp_process_join(process, MP_FOREVER);
    code = mp_process_exitcode(process);
    mp_process_free(process);
    return code;
}

static int grandchild(mp_call *call)
{
    (void)call;
    printf("grandchild %s\n", mp_process_name(mp_current_process()));
    return 0;
}

static int child(mp_call *call)
{
    (void)call;
    printf("child %s by %s\n", mp_process_name(mp_current_process()), mp_get_start_method(false));
    return start(grandchild, NULL) || start(grandchild, NULL);
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        const char *method;

        if (argc > 1)
            return start(child, mp_get_context(argv[1]));
        method = mp_get_start_method(false);
        if (!method)
            return fail() | start(child, NULL);
        printf("method %s\n", method);
        return start(child, NULL);
    }
    return 0;
}
