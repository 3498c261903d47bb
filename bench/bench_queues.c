/* SPDX-License-Identifier: MIT
 *
 * bench_queues.c - what an item costs on its way through a queue, with one producer
 * and one consumer and with two of each, against what one would do without the
 * library (a pipe of 8-byte writes; a ring under a mutex and two conditions; a socket
 * of packets) and against CPython.
 *
 *     bench_queues [--rounds N] [--quick]
 *
 * The children are forked once and have all channels; before each turn they are told
 * which one.
 */
#include <multiprocessing.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#include "bench.h"

#define SLOTS 1024
#define SIDE 2 /* producers, and consumers, at most */
#define LARGE ((size_t)1 << 20)

enum channel { PIPE, RING, PACKETS, STREAM, QUEUE, QUEUE_LARGE };

/* The ring that one would write: robust against nothing. */
typedef struct ring {
    pthread_mutex_t mutex;
    pthread_cond_t items, room;
    uint64_t head, tail, slots[SLOTS];
} ring;

static int pipe_ends[2], packet_ends[2], stream_ends[2];
static ring *the_ring;
static mp_queue *the_queue, *small_queue; /* without a bound, and for two items */
static char *buffer;

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    mp_perror(what);
    exit(1);
}

static void make_ring(void)
{
    pthread_mutexattr_t mutex;
    pthread_condattr_t condition;

    the_ring = mmap(NULL, sizeof(ring), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bench_check(the_ring != MAP_FAILED, "mmap");
    (void)pthread_mutexattr_init(&mutex);
    (void)pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    (void)pthread_condattr_init(&condition);
    (void)pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    (void)pthread_mutex_init(&the_ring->mutex, &mutex);
    (void)pthread_cond_init(&the_ring->items, &condition);
    (void)pthread_cond_init(&the_ring->room, &condition);
}

static void make_channels(void)
{
    buffer = calloc(1, LARGE);
    bench_check(buffer && pipe2(pipe_ends, O_CLOEXEC) == 0, "pipe2");
    bench_check(
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, packet_ends) == 0, "socketpair");
    bench_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream_ends) == 0, "socketpair");
    make_ring();
    the_queue = mp_queue_new();
    small_queue = mp_queue_new(.maxsize = 2);
    check(the_queue && small_queue ? 0 : -1, "mp_queue_new");
}

/* ---- one item ---- */

static void ring_put(uint64_t number)
{
    (void)pthread_mutex_lock(&the_ring->mutex);
    while (the_ring->head - the_ring->tail == SLOTS)
        (void)pthread_cond_wait(&the_ring->room, &the_ring->mutex);
    the_ring->slots[the_ring->head++ % SLOTS] = number;
    (void)pthread_cond_signal(&the_ring->items);
    (void)pthread_mutex_unlock(&the_ring->mutex);
}

static uint64_t ring_get(void)
{
    uint64_t number;

    (void)pthread_mutex_lock(&the_ring->mutex);
    while (the_ring->head == the_ring->tail)
        (void)pthread_cond_wait(&the_ring->items, &the_ring->mutex);
    number = the_ring->slots[the_ring->tail++ % SLOTS];
    (void)pthread_cond_signal(&the_ring->room);
    (void)pthread_mutex_unlock(&the_ring->mutex);
    return number;
}

static void put(enum channel channel, uint64_t number)
{
    switch (channel) {
    case PIPE:
        bench_write(pipe_ends[1], &number, sizeof(number));
        break;
    case RING:
        ring_put(number);
        break;
    case PACKETS:
        bench_write(packet_ends[1], &number, sizeof(number));
        break;
    case STREAM:
        bench_write(stream_ends[1], buffer, LARGE);
        break;
    case QUEUE:
        check(mp_queue_put(the_queue, number, MP_FOREVER), "put");
        break;
    case QUEUE_LARGE:
        check(mp_queue_put(small_queue, mp_bytes(buffer, LARGE), MP_FOREVER), "put");
        break;
    }
}

static void get(enum channel channel)
{
    static mp_message message = MP_MESSAGE_INIT;
    uint64_t number;

    switch (channel) {
    case PIPE:
        bench_check(bench_read(pipe_ends[0], &number, sizeof(number)), "read");
        break;
    case RING:
        (void)ring_get();
        break;
    case PACKETS:
        bench_check(bench_read(packet_ends[0], &number, sizeof(number)), "read");
        break;
    case STREAM:
        bench_check(bench_read(stream_ends[0], buffer, LARGE), "read");
        break;
    case QUEUE:
        check(mp_queue_get(the_queue, &message, MP_FOREVER), "get");
        check(mp_unpack(&message, &number), "number");
        break;
    case QUEUE_LARGE:
        check(mp_queue_get(small_queue, &message, MP_FOREVER), "get");
        break;
    }
}

/* ---- the children ---- */

static int serve(mp_call *call)
{
    mp_connection *orders;
    mp_message order = MP_MESSAGE_INIT;
    bool produces;
    int channel, count, r = mp_unpack(call, &orders, &produces);

    while (r == 0 && (r = mp_connection_recv(orders, &order)) == 0) {
        r = mp_unpack(&order, &channel, &count);
        for (int i = 0; i < count && r == 0; i++)
            if (produces)
                put((enum channel)channel, (uint64_t)i);
            else
                get((enum channel)channel);
        if (r == 0)
            r = mp_connection_send(orders, mp_none());
    }
    mp_message_clear(&order);
    return r == MP_EEOF ? 0 : (mp_perror("child"), 1);
}

/* ---- the parent ---- */

static struct {
    mp_process *process;
    mp_connection *orders;
} children[2 * SIDE]; /* producer, consumer, producer, consumer */

static void start_children(void)
{
    for (int i = 0; i < 2 * SIDE; i++) {
        mp_connection *theirs;

        check(mp_pipe(&children[i].orders, &theirs), "mp_pipe");
        children[i].process = mp_process_new(.target = serve, .daemon = true,
            .context = mp_get_context("fork"), .args = MP_ARGS(theirs, (bool)(i % 2 == 0)));
        check(children[i].process ? mp_process_start(children[i].process) : -1, "start");
        mp_connection_free(theirs);
    }
}

static void end_children(void)
{
    for (int i = 0; i < 2 * SIDE; i++) {
        mp_connection_free(children[i].orders);
        check(mp_process_join(children[i].process, MP_FOREVER), "join");
        mp_process_free(children[i].process);
    }
}

/* What is measured by turns. */
typedef struct work {
    bench_row row;
    enum channel floor, library;
    int side, count, peer_count;
} work;

static double turn(const work *w, enum channel channel)
{
    mp_message done = MP_MESSAGE_INIT;
    double begin = bench_now(), time;

    for (int i = 0; i < 2 * w->side; i++)
        check(mp_connection_send(children[i].orders, mp_list((int)channel, w->count)), "order");
    for (int i = 0; i < 2 * w->side; i++)
        check(mp_connection_recv(children[i].orders, &done), "done");
    time = bench_now() - begin;
    mp_message_clear(&done);
    return time / w->count / w->side;
}

static double floor_turn(void *argument)
{
    const work *w = argument;

    return turn(w, w->floor);
}

static double library_turn(void *argument)
{
    const work *w = argument;

    return turn(w, w->library);
}

/* clang-format off */
#define SMALL(name_, floor_, side_, goal_, peer_goal_, peer_count_)                                \
    { { .name = name_, .bytes = 1, .unit = "M/s", .goal = goal_, .peer_goal = peer_goal_ },        \
      floor_, QUEUE, .side = side_, .count = 50000 / side_, .peer_count = peer_count_ }

static work works[] = {
    SMALL("1:1, a pipe", PIPE, 1, 1.5, 20, 10000),
    SMALL("2:2, a pipe", PIPE, 2, 1.5, 20, 5000),
    SMALL("1:1, a mutex ring", RING, 1, 1, 0, 0),
    SMALL("2:2, a mutex ring", RING, 2, 1, 0, 0),
    SMALL("1:1, packets", PACKETS, 1, 0, 0, 0),
    { { .name = "1:1, 1 MiB, a socket", .bytes = LARGE }, STREAM, QUEUE_LARGE,
      .side = 1, .count = 30 },
};
/* clang-format on */
#define WORKS ((int)(sizeof(works) / sizeof(works[0])))

static void measure(const bench_options *options, bench_peer *peer)
{
    for (int i = 0; i < WORKS; i++) {
        (void)turn(&works[i], works[i].floor); /* warms up */
        (void)turn(&works[i], works[i].library);
    }
    for (int r = 0; r < options->rounds; r++)
        for (int i = 0; i < WORKS; i++)
            bench_round(&works[i].row, options->turns, floor_turn, library_turn, &works[i],
                works[i].peer_count
                    ? bench_ask(peer, "queue %d %d", works[i].side, works[i].peer_count)
                    : 0);
    bench_print_header("producers:consumers");
    for (int i = 0; i < WORKS; i++)
        bench_print(&works[i].row);
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        bench_options options = bench_parse(argc, argv);
        bench_peer peer;

        make_channels();
        start_children();
        peer = bench_peer_open();
        measure(&options, &peer);
        bench_peer_close(&peer);
        end_children();
        mp_queue_free(the_queue);
        mp_queue_free(small_queue);
        printf(
            "\nfloor: a number of 8 bytes a write, or under the mutex, in a ring of %d; the queue "
            "packs it, and has no bound, but for two items of 1 MiB\n",
            SLOTS);
    }
    return 0;
}
