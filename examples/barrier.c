/* SPDX-License-Identifier: MIT
 *
 * barrier.c - processes that work in steps: none begins a step before all have
 * ended the one before. A semaphore is the barrier's opposite here: it lets two of
 * them at a time into the workshop. In the last step one gives up, and the others,
 * instead of waiting for it for ever, get an error.
 */
#include <multiprocessing.h>
#include <stdio.h>

enum { WORKERS = 3, STEPS = 3 };

/* Runs in whichever process is the last to come, before any goes on. */
static int announce(void *argument)
{
    int *step = argument;

    printf("step %d is done by all\n", *step);
    return fflush(stdout);
}

/* Runs in a child. */
static int work(mp_call *call)
{
    mp_semaphore *workshop;
    mp_barrier *barrier;
    bool gives_up;
    int step, r = 0;

    if (mp_unpack(call, &barrier, &workshop, &gives_up) < 0)
        return mp_perror("work"), 1;
    mp_barrier_set_argument(barrier, &step);
    for (step = 1; step <= STEPS && r >= 0; step++) {
        if (mp_semaphore_acquire(workshop, MP_FOREVER) < 0)
            return mp_perror("workshop"), 1;
        /* ... two at a time work here ... */
        if (mp_semaphore_release(workshop) < 0)
            return mp_perror("workshop"), 1;
        if (step == STEPS && gives_up)
            return mp_barrier_abort(barrier) < 0;
        r = mp_barrier_wait(barrier, MP_FOREVER);
    }
    return r == MP_EBROKENBARRIER ? 3 : 1;
}

int main(void)
{
    MP_MAIN () {
        mp_barrier *barrier = mp_barrier_new(WORKERS, .action = announce);
        mp_semaphore *workshop = mp_bounded_semaphore_new(2);
        mp_process *workers[WORKERS];

        if (!barrier || !workshop)
            return mp_perror("barrier"), 1;
        for (int i = 0; i < WORKERS; i++) {
            workers[i] =
                mp_process_new(.target = work, .args = MP_ARGS(barrier, workshop, (bool)(i == 0)));
            if (!workers[i] || mp_process_start(workers[i]) < 0)
                return mp_perror("start"), 1;
        }
        for (int i = 0; i < WORKERS; i++) {
            (void)mp_process_join(workers[i], MP_FOREVER);
            printf("worker %d: %s\n", i,
                mp_process_exitcode(workers[i]) == 3 ? "the barrier is broken" : "gave up");
            mp_process_free(workers[i]);
        }
        printf("broken: %s\n", mp_barrier_broken(barrier) ? "yes" : "no");
        mp_barrier_free(barrier);
        mp_semaphore_free(workshop);
    }
    return 0;
}
