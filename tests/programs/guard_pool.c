/* SPDX-License-Identifier: MIT
 *
 * guard_pool.c - a program that makes a pool without or before the guard, and one inside:
 * guard_pool none|late.
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int target(mp_call *call)
{
    (void)call;
    (void)dprintf(STDOUT_FILENO, "target\n");
    return 0;
}

static int try(const char *where)
{
    mp_pool *pool = mp_pool_new(.processes = 1);
    int r = pool ? mp_pool_apply(pool, target, MP_ARGS(), NULL) : -1;

    if (r < 0) {
        fprintf(stderr, "%s: ", where);
        mp_perror(mp_error_name(mp_last_error()->code));
    }
    mp_pool_free(pool);
    return r < 0;
}

int main(int argc, char **argv)
{
    int code;

    (void)dprintf(STDOUT_FILENO, "main %ld\n", (long)getpid());
    code = try("early");
    if (argc > 1 && strcmp(argv[1], "none") == 0)
        return code;
    MP_MAIN () {
        return try("inside");
    }
    return 0;
}
