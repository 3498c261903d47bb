/* SPDX-License-Identifier: MIT
 *
 * synchronize_barrier.c - Barrier: seats for the parties, guarded by a mutex, and
 * a word on which all of them sleep.
 *
 * A round ends in one way, which is written down before the first seat is told.
 * So whoever finds that the guard's last holder died can finish what that began;
 * if it had not come so far, the barrier breaks. Each party looks now and then
 * whether the next one lives: whoever dies waiting has somebody before it.
 */
#include "synchronize_internal.h"

#include <limits.h>
#include <string.h>

#include "buffer_internal.h"
#include "clock_internal.h"
#include "error_internal.h"
#include "function_internal.h"
#include "futex_internal.h"

#define ACTION_MAX 4400 /* bytes of a function on its way */

enum ending { NONE, PASS, BREAK, RESET };

typedef struct body {
    mp__shared_head head;
    uint32_t parties, seat_count;
    double timeout;
    uint32_t action_size; /* 0: none */
    uint8_t action[ACTION_MAX];
    mp__mutex guard;
    _Alignas(64) atomic_uint turn; /* changes when a round ends */
    atomic_uint arrived;           /* seats that wait */
    atomic_uint ending;            /* of the round, while the seats are told */
    atomic_bool broken;
    mp__seat seats[];
} body;

struct mp_barrier {
    mp__shared shared;
    unsigned parties, seat_count; /* what the body said when it was checked */
    double timeout;
    mp_barrier_action action;
    void *argument;
};

static body *body_of(const mp_barrier *b)
{
    return b->shared.block.memory;
}

/* ---- life ---- */

/* Those of the last round may still be leaving when the next one comes. */
static unsigned seats_for(unsigned parties)
{
    return 2 * parties + 16;
}

static size_t size_for(unsigned seat_count)
{
    return sizeof(body) + seat_count * sizeof(mp__seat);
}

static int write_action(body *b, mp_barrier_action action)
{
    mp__function description;
    mp__buffer bytes = { 0 };
    int r = action ? mp__function_describe((void (*)(void))action, &description) : 0;

    if (r == 0 && action)
        r = mp__function_encode(&description, &bytes);
    if (r == 0 && bytes.size > ACTION_MAX)
        r = mp__fail(MP_EFUNCTION, "the path of the action's module is too long");
    if (r == 0 && action) {
        memcpy(b->action, bytes.data, bytes.size);
        b->action_size = (uint32_t)bytes.size;
    }
    mp__buffer_done(&bytes);
    return r;
}

static int check_options(const mp_barrier_options *o)
{
    if (o->parties < 1 || o->parties > MP_BARRIER_PARTIES_MAX)
        return mp__fail(MP_EINVAL, "a barrier of %d parties; 1 to %d are possible", o->parties,
            MP_BARRIER_PARTIES_MAX);
    if (!(o->timeout >= 0))
        return mp__fail(MP_EINVAL, "the timeout of a barrier is not negative; 0 means none");
    return 0;
}

mp_barrier *mp_barrier_create(const mp_barrier_options *o)
{
    unsigned seat_count;
    mp_barrier *b;

    if (check_options(o) < 0)
        return NULL;
    seat_count = seats_for((unsigned)o->parties);
    b = mp__shared_new(&mp__barrier_kind, sizeof(*b), size_for(seat_count));
    if (!b)
        return NULL;
    b->parties = body_of(b)->parties = (unsigned)o->parties;
    b->seat_count = body_of(b)->seat_count = seat_count;
    b->timeout = body_of(b)->timeout = o->timeout > 0 ? o->timeout : MP_FOREVER;
    b->action = o->action;
    b->argument = o->argument;
    if (write_action(body_of(b), o->action) < 0 || mp__mutex_init(&body_of(b)->guard) < 0) {
        mp_barrier_free(b);
        return NULL;
    }
    return b;
}

void mp_barrier_free(mp_barrier *b)
{
    mp__shared_free(b);
}

mp_barrier *mp_barrier_keep(mp_barrier *b)
{
    if (b)
        mp__handle_keep(&b->shared.handle);
    return b;
}

void mp_barrier_set_argument(mp_barrier *b, void *argument)
{
    if (b)
        b->argument = argument;
}

/* ---- rounds; all with the guard held ---- */

/*
 * Ends the round; they are woken when the guard is left, and find out themselves
 * if that comes to nothing. Begun by one who died, it is done again from the beginning.
 */
static void end_round(mp_barrier *barrier, unsigned ending)
{
    body *b = body_of(barrier);

    atomic_store(&b->ending, ending);
    for (unsigned i = 0; i < barrier->seat_count; i++)
        if (atomic_load(&b->seats[i].state) == MP__SEAT_WAITING)
            atomic_store(&b->seats[i].state, ending == PASS ? MP__SEAT_CALLED : MP__SEAT_BROKEN);
    if (ending != PASS)
        atomic_store(&b->broken, ending == BREAK);
    atomic_store(&b->arrived, 0);
    (void)atomic_fetch_add(&b->turn, 1);
    atomic_store(&b->ending, NONE);
}

static void wake_all(mp_barrier *b)
{
    mp__futex_wake(&body_of(b)->turn, INT_MAX);
}

static int enter(mp_barrier *b)
{
    unsigned ending;
    int r = mp__mutex_enter(&body_of(b)->guard);

    if (r != MP_EOWNERDEAD)
        return r;
    ending = atomic_load(&body_of(b)->ending);
    end_round(b, ending == NONE ? BREAK : ending);
    wake_all(b);
    return 0;
}

static void leave(mp_barrier *b)
{
    (void)mp__mutex_unlock(&body_of(b)->guard);
}

/* Leaves it to those that wait, too: woken earlier, they would only meet at the guard. */
static void end_and_leave(mp_barrier *b, unsigned ending)
{
    end_round(b, ending);
    leave(b);
    wake_all(b);
}

static bool waits(const mp__seat *seat)
{
    return atomic_load(&seat->state) == MP__SEAT_WAITING;
}

/* The next one that waits after mine, in a circle; or mine. */
static mp__seat *neighbour(mp_barrier *b, mp__seat *mine)
{
    unsigned i = (unsigned)(mine - body_of(b)->seats);

    do
        i = i + 1 < b->seat_count ? i + 1 : 0;
    while (!waits(&body_of(b)->seats[i]) && &body_of(b)->seats[i] != mine);
    return &body_of(b)->seats[i];
}

static bool all_live(mp_barrier *b, mp__seat *mine)
{
    mp__seat *seat = mine;

    while ((seat = neighbour(b, seat)) != mine)
        if (!mp__seat_lives(seat))
            return false;
    return true;
}

static mp__seat *take_seat(mp_barrier *b)
{
    for (unsigned i = 0; i < b->seat_count; i++)
        if (!waits(&body_of(b)->seats[i]) && mp__seat_take(&body_of(b)->seats[i]))
            return &body_of(b)->seats[i];
    return NULL;
}

/* ---- waiting ---- */

static int broken_error(void)
{
    return mp__fail(MP_EBROKENBARRIER, "the barrier is broken: a party died, gave up or called "
                                       "mp_barrier_abort, or its action failed");
}

/* Breaks the round this seat waits in, if it still does. */
static void break_round(mp_barrier *b, const mp__seat *seat)
{
    if (enter(b) < 0)
        return;
    if (waits(seat))
        end_and_leave(b, BREAK);
    else
        leave(b);
}

/* Breaks the round if the one this party looks after died. */
static void look_after_the_next(mp_barrier *b, mp__seat *mine)
{
    mp__seat *next;

    if (enter(b) < 0)
        return;
    next = neighbour(b, mine);
    if (waits(mine) && next != mine && !mp__seat_lives(next))
        end_and_leave(b, BREAK);
    else
        leave(b);
}

/* With the guard held: a seat if there is room. 0, MP_EAGAIN or MP_EBROKENBARRIER. */
static int sit_down(mp_barrier *b, mp__seat **seat, unsigned *number)
{
    body *at = body_of(b);

    if (atomic_load(&at->broken))
        return broken_error();
    *number = atomic_load(&at->arrived);
    *seat = *number < b->parties ? take_seat(b) : NULL;
    if (!*seat)
        return MP_EAGAIN; /* an action runs, or those of the last round are leaving */
    atomic_store(&(*seat)->state, MP__SEAT_WAITING);
    atomic_store(&at->arrived, *number + 1);
    return 0;
}

/* Whoever comes while a round ends is none of its parties: it waits for that, and harms nobody. */
static int arrive(mp_barrier *b, mp__seat **seat, unsigned *number)
{
    unsigned turn;
    int r;

    for (;;) {
        r = enter(b);
        if (r < 0)
            return r;
        turn = atomic_load(&body_of(b)->turn);
        r = sit_down(b, seat, number);
        leave(b);
        if (r != MP_EAGAIN)
            return r;
        r = mp__futex_watch(&body_of(b)->turn, turn, mp__clock_slice(MP__NEVER));
        if (r == MP_EINTR)
            return r;
    }
}

/* Until the round is over. 0, or MP_EINTR, which broke it. */
static int sit(mp_barrier *b, mp__seat *seat, int64_t deadline)
{
    int r = 0;

    while (waits(seat) && r != MP_EINTR) {
        unsigned turn = atomic_load(&body_of(b)->turn);

        if (!waits(seat))
            break;
        r = mp__futex_watch(&body_of(b)->turn, turn, mp__clock_slice(deadline));
        if (r == MP_EINTR || (r == MP_ETIMEDOUT && mp__clock_over(deadline)))
            break_round(b, seat);
        else if (r == MP_ETIMEDOUT)
            look_after_the_next(b, seat);
    }
    return r == MP_EINTR ? r : 0;
}

/* The last to come: runs the action and ends the round. 0, or what the action came to. */
static int lead(mp_barrier *b, mp__seat *seat)
{
    int r = b->action ? b->action(b->argument) : 0;
    int e = enter(b);

    if (r > 0)
        r = mp__fail(MP_ERAISED, "the action of the barrier returned %d", r);
    if (e < 0)
        return e;
    if (waits(seat))
        end_and_leave(b, r == 0 && all_live(b, seat) ? PASS : BREAK);
    else
        leave(b);
    return r;
}

static int conclude(mp__seat *seat, int r)
{
    bool called = atomic_load(&seat->state) == MP__SEAT_CALLED;

    mp__seat_leave(seat);
    if (r == MP_EINTR && called) {
        mp_interrupt(); /* for the next call: this one has succeeded */
        return 0;
    }
    return r < 0 || called ? r : broken_error();
}

int mp_barrier_wait(mp_barrier *b, double timeout)
{
    mp__seat *seat = NULL;
    unsigned number = 0;
    int64_t deadline;
    int r;

    if (!b)
        return mp__fail(MP_EINVAL, "no barrier: NULL");
    r = arrive(b, &seat, &number);
    if (r < 0)
        return r;
    deadline = mp__clock_deadline(timeout == MP_FOREVER ? b->timeout : timeout);
    r = number + 1 == b->parties ? lead(b, seat) : sit(b, seat, deadline);
    r = conclude(seat, r);
    return r < 0 ? r : (int)number;
}

/* ---- the rest ---- */

static int end_by_hand(mp_barrier *b, unsigned ending)
{
    int r = b ? enter(b) : mp__fail(MP_EINVAL, "no barrier: NULL");

    if (r < 0)
        return r;
    end_and_leave(b, ending);
    return 0;
}

int mp_barrier_reset(mp_barrier *b)
{
    return end_by_hand(b, RESET);
}

int mp_barrier_abort(mp_barrier *b)
{
    return end_by_hand(b, BREAK);
}

int mp_barrier_parties(const mp_barrier *b)
{
    return b ? (int)b->parties : 0;
}

int mp_barrier_n_waiting(const mp_barrier *b)
{
    return b ? (int)atomic_load(&body_of(b)->arrived) : 0;
}

bool mp_barrier_broken(const mp_barrier *b)
{
    return !b || atomic_load(&body_of(b)->broken);
}

/* ---- travelling ---- */

static int read_action(const body *b, mp_barrier_action *action)
{
    void (*function)(void) = NULL;
    mp__function description;
    uint32_t size = b->action_size;
    int r;

    if (size == 0)
        return 0;
    if (size > ACTION_MAX)
        return mp__fail(MP_EPROTOCOL, "malformed barrier in a message");
    r = mp__function_decode(b->action, size, &description);
    if (r == 0)
        r = mp__function_find(&description, &function);
    if (r == 0)
        *action = (mp_barrier_action)function;
    return r;
}

/* Copies what is used later, so that it cannot change any more, and checks it. */
static int read_body(mp_barrier *b)
{
    const body *at = body_of(b);

    b->parties = at->parties;
    b->seat_count = at->seat_count;
    b->timeout = at->timeout;
    if (b->parties < 1 || b->parties > MP_BARRIER_PARTIES_MAX || !(b->timeout > 0) ||
        b->seat_count != seats_for(b->parties) || b->shared.block.size < size_for(b->seat_count))
        return mp__fail(MP_EPROTOCOL, "malformed barrier in a message");
    return read_action(at, &b->action);
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    void *made = NULL;
    int r;

    (void)state;
    if (size != 0 || count != 1)
        return mp__fail(MP_EPROTOCOL, "malformed barrier in a message");
    r = mp__shared_rebuild(&mp__barrier_kind, sizeof(mp_barrier), sizeof(body), &fds[0], &made);
    if (r == 0)
        r = read_body(made);
    if (r == 0)
        *object = made;
    else
        mp_barrier_free(made);
    return r;
}

const mp__kind mp__barrier_kind = { "a barrier", 14, mp__shared_reduce, rebuild, mp__shared_free };
