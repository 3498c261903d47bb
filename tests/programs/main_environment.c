/* SPDX-License-Identifier: MIT
 *
 * main_environment.c - looks everywhere for the variable that tells a child
 * what it is: none of the program's code shall see it. Past the guard nothing
 * of the library's is there at all.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int found_in(char **environment, const char *prefix)
{
    int found = 0;

    for (char **at = environment; at && *at; at++)
        found += strncmp(*at, prefix, strlen(prefix)) == 0;
    return found;
}

static void look(const char *where, char **environment)
{
    const char *prefix = strcmp(where, "target") == 0 ? "_MP" : "_MP_CHILD";

    (void)dprintf(STDOUT_FILENO, "%s: %d\n", where,
        found_in(environment, prefix) + found_in(environ, prefix) + (getenv("_MP_CHILD") != NULL));
}

/* What ps shows. */
static void look_from_outside(void)
{
    static char text[65536];
    FILE *file = fopen("/proc/self/environ", "r");
    size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
    int found = 0;

    for (size_t i = 0; i < n; i++)
        found += strncmp(text + i, "_MP", 3) == 0;
    if (file)
        (void)fclose(file);
    (void)dprintf(STDOUT_FILENO, "/proc: %d\n", found);
}

__attribute__((constructor)) static void begin(void)
{
    look("constructor", environ);
}

static int target(mp_call *call)
{
    (void)call;
    look("target", environ);
    look_from_outside();
    return system("env | grep -q '^_MP'") != 0 ? 0 : 1;
}

int main(int argc, char **argv, char **environment)
{
    (void)argc;
    (void)argv;
    look("main", environment);
    MP_MAIN () {
        mp_process *process = mp_process_new(.target = target);
        int code;

        if (!process || mp_process_start(process) < 0)
            return mp_perror("start"), 1;
        (void)mp_process_join(process, MP_FOREVER);
        code = mp_process_exitcode(process);
        mp_process_free(process);
        return code;
    }
    return 0;
}
