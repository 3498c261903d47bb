/* SPDX-License-Identifier: MIT
 *
 * monte_carlo.c - pi by throwing darts, reproducibly: the same digits whatever
 * the number of workers and the start method, and whichever worker takes what.
 *
 * Workers must not share a generator of random numbers (a forked one would be the
 * same in all of them). Each item has a stream of its own, made from the seed and
 * the index of the item; so its numbers depend on nothing else.
 */
#include <multiprocessing.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BATCHES 400
#define DARTS 20000 /* in a batch */

/* SplitMix64: a counter through a mixer, so any start makes a good stream. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static double next_uniform(uint64_t *state)
{
    return (double)(next_random(state) >> 11) * 0x1.0p-53;
}

/* Counts the darts of a batch that hit the circle. */
static int throw_darts(mp_call *call)
{
    uint64_t seed, state, hits = 0;

    if (mp_unpack(call, &seed))
        return -1;
    state = seed;
    for (int i = 0; i < DARTS; i++) {
        double x = next_uniform(&state), y = next_uniform(&state);

        hits += x * x + y * y < 1;
    }
    return mp_return(call, hits);
}

static void make_seeds(uint64_t seed, uint64_t seeds[BATCHES])
{
    for (uint64_t i = 0; i < BATCHES; i++) {
        uint64_t state = seed + i * UINT64_C(0xd1342543de82ef95);

        seeds[i] = next_random(&state);
    }
}

static int estimate(int workers, const uint64_t seeds[BATCHES], uint64_t *total)
{
    mp_pool *pool = mp_pool_new(.processes = workers);
    uint64_t hits[BATCHES];
    int r = pool ? mp_pool_map(pool, throw_darts, MP_ITEMS(seeds, BATCHES), MP_ITEMS(hits, BATCHES))
                 : mp_last_error()->code;

    *total = 0;
    for (int i = 0; i < BATCHES && r == 0; i++)
        *total += hits[i];
    mp_pool_free(pool);
    return r;
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        uint64_t seeds[BATCHES], hits;

        make_seeds(argc > 1 ? strtoull(argv[1], NULL, 0) : 2026, seeds);
        for (int workers = 1; workers <= 4; workers *= 2) {
            if (estimate(workers, seeds, &hits) < 0)
                return mp_perror("monte_carlo"), 1;
            printf("%d worker%s %" PRIu64 " of %d darts hit: pi is about %.6f\n", workers,
                workers == 1 ? ": " : "s:", hits, BATCHES * DARTS,
                4.0 * (double)hits / (BATCHES * DARTS));
        }
    }
    return 0;
}
