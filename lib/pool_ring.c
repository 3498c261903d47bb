/* SPDX-License-Identifier: MIT
 *
 * pool_ring.c - the worker's end of the ring: answers are put, and are there for
 * the pool from that moment on. There is room: see pool_wire_internal.h.
 */
#include "pool_ring_internal.h"

#include <string.h>

/* A place for size bytes in one piece. */
static uint8_t *place(mp__ring *ring, size_t size)
{
    size_t at = ring->head % MP__RING_SIZE;
    mp__ring_head pad = { 0, 0, MP__WIRE_PAD, 0 };

    if (at + size > MP__RING_SIZE) {
        memcpy(ring->shared->ring + at, &pad, sizeof(pad));
        ring->head += MP__RING_SIZE - at;
        at = 0;
    }
    return ring->shared->ring + at;
}

static void publish(mp__ring *ring)
{
    atomic_store_explicit(&ring->shared->head, ring->head, memory_order_release);
}

/* What comes next is no part of the run. */
static void end_run(mp__ring *ring)
{
    if (!ring->run_left)
        return;
    ring->run_left = 0;
    ring->cut = ring->head;
    atomic_store_explicit(&ring->shared->cut, ring->cut, memory_order_release);
    ring->head = mp__ring_align(ring->head);
}

void mp__ring_put(
    mp__ring *ring, enum mp__wire_kind kind, uint64_t item, const void *data, size_t size)
{
    mp__ring_head head = { (uint32_t)item, (uint16_t)size, (uint8_t)kind, 0 };
    uint8_t *at;

    end_run(ring);
    at = place(ring, mp__ring_room(size));
    memcpy(at, &head, sizeof(head));
    if (size)
        memcpy(at + sizeof(head), data, size);
    ring->head += mp__ring_room(size);
    publish(ring);
}

/* Begins a run for what is left of the task, or as much as there is place for. */
static void begin_run(mp__ring *ring, uint64_t item, uint64_t end, size_t size)
{
    mp__run_head run = { { (uint32_t)item, (uint16_t)size, MP__WIRE_RAW, 0 }, 0 };
    uint8_t *at = place(ring, sizeof(run) + size);
    size_t fit = (MP__RING_SIZE - (size_t)(ring->head % MP__RING_SIZE) - sizeof(run)) / size;

    run.count = end - item;
    if (run.count > fit)
        run.count = fit;
    if (atomic_load_explicit(&ring->shared->cut_seen, memory_order_acquire) != ring->cut)
        run.count = 1;
    memcpy(at, &run, sizeof(run));
    ring->head += sizeof(run);
    ring->run_item = item;
    ring->run_left = run.count;
}

void mp__ring_put_raw(mp__ring *ring, uint64_t item, uint64_t end, const void *data, size_t size)
{
    uint8_t *at;

    if (ring->run_left && ring->run_item != item)
        end_run(ring);
    if (!ring->run_left)
        begin_run(ring, item, end, size);
    at = ring->shared->ring + ring->head % MP__RING_SIZE;
    if (size == 8)
        memcpy(at, data, 8);
    else
        memcpy(at, data, size);
    ring->head += size;
    ring->run_item++;
    if (!--ring->run_left)
        ring->head = mp__ring_align(ring->head);
    publish(ring);
}
