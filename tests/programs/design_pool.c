/* SPDX-License-Identifier: MIT
 *
 * design_pool.c - the first program of the documents, as it stands.
 */
/* clang-format off */
#include <multiprocessing.h>
#include <stdio.h>

static int square(mp_call *call)
{
    long x;
    if (mp_unpack(call, &x))
        return -1;
    return mp_return(call, x * x);
}

int main(void)
{
    MP_MAIN() {
        long in[] = {1, 2, 3, 4, 5}, out[5];
        mp_pool *pool = mp_pool_new(.processes = 4);
        if (!pool || mp_pool_map(pool, square, MP_ITEMS(in, 5), MP_ITEMS(out, 5)))
            return mp_perror("pool"), 1;
        for (int i = 0; i < 5; i++)
            printf("%ld\n", out[i]);
        mp_pool_free(pool);
    }
    return 0;
}
