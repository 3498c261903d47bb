/* SPDX-License-Identifier: MIT
 *
 * start_methods.c - what the start methods differ in: a variable is set before
 * the guard, to the time of this execution. Who has which value?
 *
 *     start_methods          compares them
 *     start_methods values   prints them too
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <time.h>

#define CHILDREN 2

static const char why[] =
    "Why: num is set before MP_MAIN(). A forked child is a copy of its parent: the code before\n"
    "the guard has run once, and everybody has the value of that time. A spawned child is a new\n"
    "execution of the program: it runs that code again, up to the guard, and gets a value of its\n"
    "own. The fork server is a new execution too, but only one, and its children are copies of\n"
    "it: they have one value, the server's. So pass a child what it shall know as arguments:\n"
    "they arrive alike under all three.\n";

static unsigned long long num;

/* Runs in the child: sends the value that it finds. */
static int tell(mp_call *call)
{
    mp_connection *answers;

    if (mp_unpack(call, &answers) < 0 || mp_connection_send(answers, num) < 0)
        return mp_perror("tell"), 1;
    return 0;
}

/* Starts a child and receives its value. Returns 0, or -1 after it has said why. */
static int ask_child(const mp_context *context, unsigned long long *value)
{
    mp_connection *here = NULL, *there = NULL;
    mp_message answer = MP_MESSAGE_INIT;
    mp_process *child = NULL;
    int r = mp_pipe(&here, &there, .oneway = true);

    if (r == 0) {
        child = mp_process_new(.target = tell, .args = MP_ARGS(there), .context = context);
        r = child ? mp_process_start(child) : -1;
    }
    mp_connection_free(there); /* the child has it: if the child ends, so does the pipe */
    if (r == 0)
        r = mp_connection_recv(here, &answer);
    if (r == 0)
        r = mp_unpack(&answer, value);
    if (r == 0)
        r = mp_process_join(child, MP_FOREVER);
    if (r < 0)
        mp_perror(mp_context_get_start_method(context));
    mp_message_clear(&answer);
    mp_process_free(child);
    mp_connection_free(here);
    return r < 0 ? -1 : 0;
}

static void compare(const char *method, const unsigned long long child[CHILDREN])
{
    printf("%s: ", method);
    if (child[0] == num || child[1] == num)
        printf("child 1 %s the parent, child 2 %s\n", child[0] == num ? "equal to" : "differs from",
            child[1] == num ? "equal" : "differs");
    else if (child[0] == child[1])
        printf("differs from the parent, equal among the children\n");
    else
        printf("each child has its own\n");
}

int main(int argc, char **argv)
{
    static const char *const methods[] = { "fork", "spawn", "forkserver" };
    struct timespec now;

    (void)argv;
    (void)timespec_get(&now, TIME_UTC);
    num = (unsigned long long)now.tv_sec * 1000000000 + (unsigned long long)now.tv_nsec;
    MP_MAIN () {
        unsigned long long child[CHILDREN];

        for (int m = 0; m < 3; m++) {
            for (int i = 0; i < CHILDREN; i++)
                if (ask_child(mp_get_context(methods[m]), &child[i]) < 0)
                    return 1;
            compare(methods[m], child);
            if (argc > 1)
                printf("    parent %llu, child 1 %llu, child 2 %llu\n", num, child[0], child[1]);
        }
        printf("\n%s", why);
    }
    return 0;
}
