/* SPDX-License-Identifier: MIT
 *
 * main_preload.c - a preload hook, and two children that say what they see of
 * it: main_preload works|strict|pipe|default|ignore|warn|fail [more arguments].
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <string.h>

static int count;
static char **arguments;
static int preloaded;

/* How many arguments, their bytes, and the last one. */
static void describe(const char *who)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += strlen(arguments[i]) + 1;
    printf("%s: %d arguments, %zu bytes, the last is %s, preloaded %d\n", who, count, bytes,
        arguments[count - 1], preloaded);
}

static int works(void)
{
    preloaded++;
    describe("hook");
    return 0;
}

static int fails(void)
{
    preloaded++;
    describe("hook");
    return 1;
}

/* What a hook opens stays the server's. */
static int makes_a_pipe(void)
{
    static mp_connection *here, *there;

    preloaded++;
    return mp_pipe(&here, &there) || mp_connection_send(there, "unread");
}

static int choose_hook(const char *mode)
{
    if (strcmp(mode, "works") == 0)
        return mp_set_forkserver_preload(works);
    if (strcmp(mode, "strict") == 0)
        return mp_set_forkserver_preload(works, .on_error = MP_ON_ERROR_FAIL);
    if (strcmp(mode, "pipe") == 0)
        return mp_set_forkserver_preload(makes_a_pipe, .on_error = MP_ON_ERROR_FAIL);
    if (strcmp(mode, "ignore") == 0)
        return mp_set_forkserver_preload(fails, .on_error = MP_ON_ERROR_IGNORE);
    if (strcmp(mode, "warn") == 0)
        return mp_set_forkserver_preload(fails, .on_error = MP_ON_ERROR_WARN);
    if (strcmp(mode, "fail") == 0)
        return mp_set_forkserver_preload(fails, .on_error = MP_ON_ERROR_FAIL);
    return mp_set_forkserver_preload(fails);
}

static int target(mp_call *call)
{
    (void)call;
    describe("child");
    return 0;
}

static int start(void)
{
    mp_process *process = mp_process_new(.target = target);
    int code = 1;

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
    count = argc;
    arguments = argv;
    MP_MAIN () {
        if (choose_hook(argc > 1 ? argv[1] : "") < 0)
            return 2;
        return start() | start();
    }
    return 0;
}
