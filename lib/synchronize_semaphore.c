/* SPDX-License-Identifier: MIT
 *
 * synchronize_semaphore.c - Semaphore and BoundedSemaphore: a word that counts.
 *
 * Of those that find it at 0, one at a time sleeps on the word, the one that holds
 * the queue's mutex; the others wait for that mutex. So there is no waking that a
 * dying sleeper could take with it: the mutex goes on to the next, who looks at
 * the word itself.
 */
#include "synchronize_internal.h"

#include "clock_internal.h"
#include "error_internal.h"
#include "futex_internal.h"
#include "spin_internal.h"

#define SLEEPER 0x80000000U /* somebody may sleep on the word: who releases wakes him */
#define VALUE 0x7fffffffU
#define LOOKS 100 /* in a row, before others get the CPU */
#define STUCK \
    INT64_C(1000000000) /* ns after which the queue is not trusted: its first may be stopped */

typedef struct body {
    mp__shared_head head;
    atomic_uint word;
    uint32_t limit;
    mp__mutex queue;  /* of the one who sleeps */
    mp__mutex change; /* of a bounded one's word with SLEEPER: its value can only fall meanwhile */
} body;

struct mp_semaphore {
    mp__shared shared;
    unsigned limit;
};

static body *body_of(const mp_semaphore *s)
{
    return s->shared.block.memory;
}

/* ---- life ---- */

static mp_semaphore *make(int value, unsigned limit)
{
    mp_semaphore *s;

    if (value < 0) {
        (void)mp__fail(MP_EINVAL, "a semaphore cannot begin with %d; 0 is the least", value);
        return NULL;
    }
    s = mp__shared_new(&mp__semaphore_kind, sizeof(*s), sizeof(body));
    if (!s)
        return NULL;
    s->limit = body_of(s)->limit = limit;
    atomic_init(&body_of(s)->word, (unsigned)value);
    if (mp__mutex_init(&body_of(s)->queue) < 0 || mp__mutex_init(&body_of(s)->change) < 0) {
        mp_semaphore_free(s);
        return NULL;
    }
    return s;
}

mp_semaphore *mp_semaphore_new(int value)
{
    return make(value, MP_SEMAPHORE_MAX);
}

mp_semaphore *mp_bounded_semaphore_new(int value)
{
    return make(value, (unsigned)value);
}

void mp_semaphore_free(mp_semaphore *s)
{
    mp__shared_free(s);
}

mp_semaphore *mp_semaphore_keep(mp_semaphore *s)
{
    if (s)
        mp__handle_keep(&s->shared.handle);
    return s;
}

/* ---- acquiring ---- */

/* Takes one if there is one. remove: SLEEPER, when the word shall lose it by that. */
static bool take(atomic_uint *word, unsigned remove)
{
    unsigned seen = atomic_load_explicit(word, memory_order_relaxed);

    while (seen & VALUE)
        if (atomic_compare_exchange_weak(word, &seen, (seen - 1) & ~remove))
            return true;
    return false;
}

static bool has_one(void *word)
{
    return (atomic_load_explicit((atomic_uint *)word, memory_order_relaxed) & VALUE) != 0;
}

/* Who sleeps costs the one who releases a system call; what is held for a moment is worth a look. */
static bool take_soon(atomic_uint *word, double timeout)
{
    static _Thread_local mp__spin spin;

    for (int i = 0; i < LOOKS; i++)
        if (has_one(word) && take(word, 0))
            return true;
    return timeout > 0 && mp__spin_until(&spin, has_one, word) && take(word, 0);
}

static bool take_or_clear(atomic_uint *word)
{
    if (take(word, SLEEPER))
        return true;
    (void)atomic_fetch_and(word, VALUE);
    return false;
}

/* What the one who sleeps does last: from now on releasing costs no system call. */
static bool end_sleep(mp_semaphore *s)
{
    body *b = body_of(s);
    bool taken;
    int r;

    if (s->limit == MP_SEMAPHORE_MAX)
        return take_or_clear(&b->word);
    r = mp__mutex_enter(&b->change);
    if (r < 0 && r != MP_EOWNERDEAD)
        return false;
    taken = take_or_clear(&b->word);
    (void)mp__mutex_unlock(&b->change);
    return taken;
}

/* Until there is one to take, perhaps. With the queue's mutex held. */
static int sleep_once(body *b, int64_t deadline)
{
    int r = 0;

    while (r == 0 && !(atomic_load(&b->word) & VALUE)) {
        unsigned none = 0;

        if (atomic_compare_exchange_strong(&b->word, &none, SLEEPER) || none == SLEEPER)
            r = mp__futex_wait(&b->word, SLEEPER, deadline);
    }
    return r;
}

/* With the queue's mutex held. */
static int sleep_for_one(mp_semaphore *s, int64_t deadline)
{
    bool taken;
    int r;

    do {
        r = sleep_once(body_of(s), deadline);
        taken = end_sleep(s); /* also when r says no: there may be one by now */
    } while (!taken && r == 0);
    if (taken && r == MP_EINTR)
        mp_interrupt(); /* for the next call: this one has succeeded */
    return taken ? 0 : r;
}

/* One turn: 0, MP_EAGAIN for another one, or the end. */
static int queue_up(mp_semaphore *s, int64_t deadline)
{
    body *b = body_of(s);
    int64_t soon = mp__clock_now() + STUCK;
    int r = mp__mutex_lock(&b->queue, soon < deadline ? soon : deadline);

    if (r == MP_ETIMEDOUT && take(&b->word, 0))
        return 0;
    if (r == MP_ETIMEDOUT)
        return mp__clock_over(deadline) ? r : MP_EAGAIN;
    if (r < 0 && r != MP_EOWNERDEAD)
        return r;
    r = sleep_for_one(s, deadline);
    (void)mp__mutex_unlock(&b->queue);
    return r;
}

int mp_semaphore_acquire(mp_semaphore *s, double timeout)
{
    int64_t deadline;
    int r;

    if (!s)
        return mp__fail(MP_EINVAL, "no semaphore: NULL");
    if (take(&body_of(s)->word, 0) || take_soon(&body_of(s)->word, timeout))
        return 0;
    deadline = mp__clock_deadline(timeout);
    r = deadline == 0 ? MP_ETIMEDOUT : MP_EAGAIN;
    while (r == MP_EAGAIN)
        r = queue_up(s, deadline);
    return r == MP_ETIMEDOUT ? mp__fail(r, "nobody released the semaphore within the time") : r;
}

/* ---- releasing ---- */

static int too_much(const mp_semaphore *s)
{
    if (s->limit < MP_SEMAPHORE_MAX)
        return mp__fail(MP_ENOTHELD,
            "this semaphore was released more often than acquired: it has "
            "its first value, %u",
            s->limit);
    return mp__fail(MP_ERANGE, "a semaphore cannot count beyond %d", MP_SEMAPHORE_MAX);
}

/* One more, if nobody sleeps: 0; MP_EAGAIN if somebody may; or it is too much. */
static int give(mp_semaphore *s)
{
    atomic_uint *word = &body_of(s)->word;
    unsigned seen = atomic_load_explicit(word, memory_order_relaxed);

    do {
        if ((seen & VALUE) >= s->limit)
            return too_much(s);
        if (seen & SLEEPER)
            return MP_EAGAIN;
    } while (!atomic_compare_exchange_weak(word, &seen, seen + 1));
    return 0;
}

/* Somebody may sleep. The bound can be checked only while the value does not rise. */
static int give_and_wake(mp_semaphore *s)
{
    body *b = body_of(s);
    int r, e;

    if (s->limit == MP_SEMAPHORE_MAX) {
        mp__futex_add(&b->word, 1, 1);
        return 0;
    }
    e = mp__mutex_enter(&b->change);
    if (e < 0 && e != MP_EOWNERDEAD)
        return e;
    r = give(s);
    if (r == MP_EAGAIN) {
        mp__futex_add(&b->word, 1, 1);
        r = 0;
    }
    (void)mp__mutex_unlock(&b->change);
    return r;
}

int mp_semaphore_release(mp_semaphore *s)
{
    int r = s ? give(s) : mp__fail(MP_EINVAL, "no semaphore: NULL");

    return r == MP_EAGAIN ? give_and_wake(s) : r;
}

int mp_semaphore_get_value(const mp_semaphore *s)
{
    return s ? (int)(atomic_load(&body_of(s)->word) & VALUE) : 0;
}

bool mp_semaphore_locked(const mp_semaphore *s)
{
    return mp_semaphore_get_value(s) == 0;
}

/* ---- travelling ---- */

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    void *made = NULL;
    int r;

    (void)state;
    if (size != 0 || count != 1)
        return mp__fail(MP_EPROTOCOL, "malformed semaphore in a message");
    r = mp__shared_rebuild(&mp__semaphore_kind, sizeof(mp_semaphore), sizeof(body), &fds[0], &made);
    if (r < 0)
        return r;
    ((mp_semaphore *)made)->limit = body_of(made)->limit;
    *object = made;
    return 0;
}

const mp__kind mp__semaphore_kind = { "a semaphore", 11, mp__shared_reduce, rebuild,
    mp__shared_free };
