/* SPDX-License-Identifier: MIT
 *
 * main_arguments.c - says how many arguments main() got, and a checksum of
 * them; then spoils them, as getopt and strtok do, and starts children.
 */
#include <multiprocessing.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int count;
static uint32_t checksum;

/* Every byte with its NUL, and the order. */
static void examine(int argc, char **argv)
{
    count = argc;
    checksum = 5381;
    for (int i = 0; i < argc; i++)
        for (size_t k = 0; k <= strlen(argv[i]); k++)
            checksum = checksum * 33 + (unsigned char)argv[i][k];
}

static void spoil(int argc, char **argv)
{
    char *first = argc > 1 ? argv[1] : NULL;

    for (int i = 1; i < argc; i++)
        (void)strtok(argv[i], ",");
    for (int i = 1; i + 1 < argc; i++)
        argv[i] = argv[i + 1];
    if (first)
        argv[argc - 1] = first;
}

static int target(mp_call *call)
{
    (void)call;
    printf("%d arguments, checksum %lu\n", count, (unsigned long)checksum);
    return 0;
}

static int start(void)
{
    mp_process *process = mp_process_new(.target = target);
    int code;

    if (!process || mp_process_start(process) < 0)
        return mp_perror("start"), 1;
    (void)mp_process_join(process, MP_FOREVER);
    code = mp_process_exitcode(process);
    mp_process_free(process);
    return code;
}

int main(int argc, char **argv)
{
    examine(argc, argv);
    MP_MAIN () {
        printf("%d arguments, checksum %lu\n", count, (unsigned long)checksum);
        spoil(argc, argv);
        return start() | start();
    }
    return 0;
}
