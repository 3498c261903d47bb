/* SPDX-License-Identifier: MIT
 *
 * shared_unguarded.c - a program without MP_MAIN() that makes memory with a name
 * and does not free it. Nothing may be started in it, not even a resource tracker.
 */
#include <multiprocessing.h>

#include <stdio.h>
#include <sys/wait.h>

int main(void)
{
    static mp_shared_memory *memory; /* no leak to a sanitizer */

    memory = mp_shared_memory_new(.create = true, .size = 1);
    if (!memory)
        return mp_perror("shared memory"), 1;
    printf("%s%s", mp_shared_memory_name(memory), waitpid(-1, NULL, WNOHANG) < 0 ? "" : " a child");
    return 0;
}
