/* SPDX-License-Identifier: MIT
 *
 * queues_ring.c - the body of a queue. What the bytes in it are, and who waits for
 * them, is queues.c's business.
 */
#include "queues_ring_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "clock_internal.h"
#include "error_internal.h"
#include "fd_internal.h"
#include "shm_internal.h"

#define MAGIC UINT64_C(0x31657565755170f1) /* also says how the head is laid out */
#define LOG2_MIN 16
#define LOG2_MAX 45
#define LOG2_KEPT 22              /* 4 MiB: so much memory stays, to be used again */
#define STEP ((uint64_t)64 << 10) /* memory is taken in steps of this */
#define LOOK INT64_C(5000000000)  /* ns that who only looks waits for who is at work */
#define LEAST INT64_C(100000000)  /* ns that others do, however short their time is */

/* ---- life ---- */

static int make_head(mp__queue_ring *ring)
{
    mp__queue_shared *s = ring->shared;
    int r = mp__shm_reserve_part(ring->fd, 0, MP__QUEUE_HEAD);

    if (r == 0)
        r = mp__mutex_init(&s->put_lock);
    if (r == 0)
        r = mp__mutex_init(&s->get_lock);
    s->shapes[0].log2 = LOG2_MIN;
    s->magic = MAGIC;
    return r;
}

int mp__queue_ring_new(mp__queue_ring *ring)
{
    void *memory = NULL;
    int r = 0;

    *ring = (mp__queue_ring){ .fd = mp__shm_open((size_t)2 << LOG2_MIN) };
    if (ring->fd < 0)
        r = ring->fd;
    if (r == 0)
        r = mp__shm_map(ring->fd, MP__QUEUE_HEAD, &memory);
    ring->shared = memory;
    if (r == 0)
        r = make_head(ring);
    if (r < 0)
        mp__queue_ring_done(ring);
    return r;
}

int mp__queue_ring_adopt(mp__queue_ring *ring, int *fd)
{
    void *memory = NULL;
    struct stat status;
    int r;

    *ring = (mp__queue_ring){ .fd = -1 };
    if (fstat(*fd, &status) < 0)
        return mp__fail_errno("cannot look at the memory of a queue");
    if (!S_ISREG(status.st_mode) || status.st_size < (off_t)2 << LOG2_MIN)
        return mp__fail(MP_EPROTOCOL, "this descriptor is not the memory of a queue");
    r = mp__shm_map(*fd, MP__QUEUE_HEAD, &memory);
    if (r < 0)
        return r;
    ring->shared = memory;
    ring->fd = *fd;
    *fd = -1;
    if (ring->shared->magic == MAGIC)
        return 0;
    mp__queue_ring_done(ring);
    return mp__fail(MP_EPROTOCOL, "this memory is not that of a queue, or of another version");
}

void mp__queue_ring_done(mp__queue_ring *ring)
{
    mp__shm_unmap(ring->put.memory, ring->put.size);
    mp__shm_unmap(ring->get.memory, ring->get.size);
    mp__shm_unmap(ring->shared, MP__QUEUE_HEAD);
    mp__fd_close(ring->fd);
    *ring = (mp__queue_ring){ .fd = -1 };
}

int mp__queue_lock(mp__queue_ring *ring, mp__mutex *lock, int64_t deadline)
{
    int r = mp__mutex_lock(lock, 0);

    if (r == MP_ETIMEDOUT) {
        int64_t least = mp__clock_now() + (deadline ? LEAST : LOOK);

        r = mp__mutex_lock(lock, deadline > least ? deadline : least);
        if (r == MP_ETIMEDOUT)
            r = -EBUSY;
    }
    if (r != MP_EOWNERDEAD)
        return r;
    atomic_store(&ring->shared->inherited, 1);
    return 0;
}

bool mp__queue_try(mp__queue_ring *ring, mp__mutex *lock)
{
    int r = mp__mutex_lock(lock, 0);

    if (r == MP_EOWNERDEAD)
        atomic_store(&ring->shared->inherited, 1);
    return r == 0 || r == MP_EOWNERDEAD;
}

void mp__queue_unlock(mp__mutex *lock)
{
    (void)mp__mutex_unlock(lock); /* this thread holds it */
}

/* ---- looking ---- */

/*
 * Another thread may fork at any moment of these two: its child finds no view, or
 * memory of the right size that it unmaps when it looks for itself.
 */
static void show(
    mp__queue_view *view, void *memory, uint64_t size, uint64_t base, uint64_t generation)
{
    view->size = (size_t)size;
    view->base = base;
    atomic_signal_fence(memory_order_seq_cst);
    view->memory = memory;
    atomic_store(&view->known, generation + 1);
}

static void forget(mp__queue_view *view)
{
    char *memory = view->memory;

    atomic_store(&view->known, 0);
    view->memory = NULL;
    atomic_signal_fence(memory_order_seq_cst);
    mp__shm_unmap(memory, view->size);
}

static int damaged(void)
{
    return mp__fail(
        MP_EPROTOCOL, "the memory of a queue was overwritten by a process that uses it");
}

/* Whether the file is as long as the shape says: behind its end nobody may look. */
static int check_shape(const mp__queue_ring *ring, uint64_t log2)
{
    struct stat status;

    if (log2 < LOG2_MIN || log2 > LOG2_MAX || log2 >= sizeof(size_t) * 8 - 1)
        return damaged();
    if (fstat(ring->fd, &status) < 0)
        return mp__fail_errno("cannot look at the memory of a queue");
    return status.st_size < (off_t)2 << log2 ? damaged() : 0;
}

static int map(mp__queue_ring *ring, mp__queue_view *view, uint64_t generation)
{
    const mp__queue_shape *shape = &ring->shared->shapes[generation & 1];
    uint64_t log2 = shape->log2;
    void *memory = NULL;
    int r = check_shape(ring, log2);

    forget(view);
    if (r == 0)
        r = mp__shm_map_part(ring->fd, (off_t)1 << log2, (size_t)1 << log2, &memory);
    if (r < 0)
        return r;
    show(view, memory, UINT64_C(1) << log2, shape->base, generation);
    return 0;
}

int mp__queue_ring_look(mp__queue_ring *ring, mp__queue_view *view)
{
    uint64_t generation = atomic_load_explicit(&ring->shared->generation, memory_order_acquire);

    if (atomic_load_explicit(&view->known, memory_order_relaxed) == generation + 1)
        return 0;
    return map(ring, view, generation);
}

/* What lies at a position, and how much of size bytes comes before the end of the ring. */
static char *locate(const mp__queue_view *view, uint64_t at, size_t size, size_t *first)
{
    size_t offset = (size_t)(at - view->base) & (view->size - 1), left = view->size - offset;

    *first = size < left ? size : left;
    return view->memory + offset;
}

void mp__queue_view_write(const mp__queue_view *view, uint64_t at, const void *data, size_t size)
{
    size_t first;
    char *to = locate(view, at, size, &first);

    if (first)
        memcpy(to, data, first);
    if (size > first)
        memcpy(view->memory, (const char *)data + first, size - first);
}

void mp__queue_view_read(const mp__queue_view *view, uint64_t at, void *data, size_t size)
{
    size_t first;
    const char *from = locate(view, at, size, &first);

    if (first)
        memcpy(data, from, first);
    if (size > first)
        memcpy((char *)data + first, view->memory, size - first);
}

/* Of heads[] the one that does not hold is overwritten: then gets has moved on, too. */
uint64_t mp__queue_ring_head(const mp__queue_shared *s, uint64_t *gets)
{
    uint64_t head, before;

    do {
        before = atomic_load_explicit(&s->gets, memory_order_acquire);
        head = atomic_load_explicit(&s->heads[before & 1], memory_order_acquire);
    } while (atomic_load_explicit(&s->gets, memory_order_acquire) != before);
    *gets = before;
    return head;
}

/* ---- another size ---- */

static uint64_t tail_of(const mp__queue_shared *s)
{
    return s->tails[s->puts & 1];
}

static uint64_t head_of(const mp__queue_shared *s)
{
    return s->heads[s->gets & 1];
}

/* Everything between the head of the file and the ring, and behind the ring, goes back. */
static void release_others(const mp__queue_ring *ring, uint64_t log2)
{
    off_t begin = (off_t)1 << log2;

    mp__shm_release_part(ring->fd, 2 * begin, (off_t)2 << LOG2_MAX);
    mp__shm_release_part(ring->fd, (off_t)MP__QUEUE_HEAD, begin);
}

static uint64_t round_up(uint64_t size, uint64_t step)
{
    return (size + step - 1) / step * step;
}

/* Another ring in the file, with memory for the first bytes of it. 0 or a code. */
static int make_ring(const mp__queue_ring *ring, uint64_t log2, uint64_t committed, void **memory)
{
    off_t size = (off_t)1 << log2;
    int r = mp__shm_lengthen(ring->fd, (size_t)(2 * size));

    if (r == 0 && committed)
        r = mp__shm_reserve_part(ring->fd, size, (off_t)committed);
    if (r == 0)
        r = mp__shm_map_part(ring->fd, size, (size_t)size, memory);
    return r;
}

/*
 * With both locks held: what is in the ring moves into one of 2^log2 bytes, another
 * size than it has, with memory for need bytes. It begins there with the first item.
 */
static int resize(mp__queue_ring *ring, uint64_t log2, uint64_t need)
{
    mp__queue_shared *s = ring->shared;
    uint64_t generation = s->generation, head = head_of(s);
    mp__queue_shape *shape = &s->shapes[(generation + 1) & 1];
    uint64_t committed = round_up(need, STEP);
    void *memory = NULL;
    int r = make_ring(ring, log2, committed, &memory);

    if (!memory) {
        release_others(ring, s->shapes[generation & 1].log2);
        return r;
    }
    mp__queue_view_read(&ring->put, head, memory, (size_t)(tail_of(s) - head));
    shape->base = head;
    shape->log2 = log2;
    atomic_store(&shape->committed, committed);
    atomic_store(&s->generation, generation + 1); /* now it holds */
    forget(&ring->put);
    show(&ring->put, memory, UINT64_C(1) << log2, head, generation + 1);
    release_others(ring, log2);
    return 0;
}

static uint64_t log2_for(uint64_t size)
{
    uint64_t log2 = LOG2_MIN;

    while (log2 <= LOG2_MAX && UINT64_C(1) << log2 < size)
        log2++;
    return log2;
}

/* With put_lock held. Takes get_lock, too, for as long as the ring is copied. */
static int grow(mp__queue_ring *ring, size_t size, int64_t deadline)
{
    mp__queue_shared *s = ring->shared;
    uint64_t used, log2;
    int r = mp__queue_lock(ring, &s->get_lock, deadline);

    if (r < 0)
        return r;
    s->head_seen = head_of(s);
    used = tail_of(s) - s->head_seen;
    if (used > ring->put.size) {
        r = damaged();
    } else if (size > ring->put.size - used) {
        log2 = log2_for(used + size);
        if (log2 > LOG2_MAX || log2 >= sizeof(size_t) * 8 - 1)
            r = mp__fail(MP_ENOMEM, "a queue cannot hold %zu bytes more", size);
        else
            r = resize(ring, log2, used + size);
    }
    mp__queue_unlock(&s->get_lock);
    return r;
}

/* With put_lock held: there is memory up to the end of the next size bytes. */
static int commit(mp__queue_ring *ring, uint64_t tail, size_t size)
{
    mp__queue_shape *shape = &ring->shared->shapes[ring->shared->generation & 1];
    uint64_t end = tail - shape->base + size, committed = shape->committed;
    int r;

    if (end > ring->put.size)
        end = ring->put.size; /* it has been all around, or will be now */
    if (end <= committed)
        return 0;
    end = round_up(end + (end >> 3), STEP);
    if (end > ring->put.size)
        end = ring->put.size;
    r = mp__shm_reserve_part(
        ring->fd, (off_t)(ring->put.size + committed), (off_t)(end - committed));
    if (r == 0)
        atomic_store(&shape->committed, end);
    return r;
}

int mp__queue_ring_room(mp__queue_ring *ring, size_t size, int64_t deadline)
{
    mp__queue_shared *s = ring->shared;
    uint64_t tail = tail_of(s);
    int r = mp__queue_ring_look(ring, &ring->put);

    if (r == 0 && tail + size - s->head_seen > ring->put.size)
        s->head_seen = mp__queue_ring_head(s, &s->gets_seen);
    if (r == 0 && tail + size - s->head_seen > ring->put.size)
        r = grow(ring, size, deadline);
    return r < 0 ? r : commit(ring, tail, size);
}

/*
 * Without put_lock the tail may be an older or a newer one. That is good enough for
 * a hint: mp__queue_ring_shrink looks again.
 */
bool mp__queue_ring_roomy(const mp__queue_ring *ring)
{
    const mp__queue_shared *s = ring->shared;
    uint64_t used = tail_of(s) - head_of(s), committed;

    if (ring->get.size <= (size_t)1 << LOG2_KEPT)
        return false;
    committed = s->shapes[s->generation & 1].committed;
    return used < committed / 8;
}

void mp__queue_ring_shrink(mp__queue_ring *ring)
{
    mp__queue_shared *s = ring->shared;
    uint64_t used = tail_of(s) - head_of(s), log2 = log2_for(4 * used);

    if (mp__queue_ring_look(ring, &ring->put) < 0 || used > ring->put.size)
        return;
    s->head_seen = head_of(s);
    if (log2 < LOG2_KEPT && used)
        log2 = LOG2_KEPT;
    if (UINT64_C(1) << log2 < ring->put.size)
        (void)resize(ring, log2, used); /* without memory for it: next time */
}

void mp__queue_ring_release(mp__queue_ring *ring)
{
    if (mp__queue_ring_look(ring, &ring->put) == 0)
        release_others(ring, ring->shared->shapes[ring->shared->generation & 1].log2);
}
