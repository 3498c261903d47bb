/* SPDX-License-Identifier: MIT
 *
 * bench_connection.c - what messages between two processes cost: there and back
 * with 64 bytes, and one way with up to 16 MiB, against bare descriptors and
 * against CPython.
 *
 *     bench_connection [--rounds N] [--quick]
 *
 * One child serves all channels; before each turn it is told which one.
 */
#include <multiprocessing.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/uio.h>

#include "bench.h"

#define SMALL 64
#define LARGE ((size_t)16 << 20)
#define WARM_UP 10

/* The two ends of what is measured: raw descriptors are connections that nobody uses as such. */
struct channels {
    mp_connection *orders;
    mp_connection *raw_in, *raw_out, *raw_socket; /* pipes, and a socket for both ways */
    mp_connection *in, *out, *both;               /* the library's */
};

static char *buffer; /* LARGE bytes, kept; each process has its own */

/* What the child shall do with one channel. */
enum task {
    RAW_PIPE,
    RAW_SOCKET,
    FRAMED_PIPE,
    FRAMED_SOCKET,
    PIPE,
    SOCKET,
    VALUES,
    RAW_STREAM,
    STREAM
};

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    mp_perror(what);
    exit(1);
}

/* ---- raw ---- */

/* Framed: the length first, in the same call. */
static void write_frame(int fd, const void *data, size_t size)
{
    uint32_t length = (uint32_t)size;
    struct iovec parts[2] = { { &length, sizeof(length) }, { (void *)data, size } };
    ssize_t n = writev(fd, parts, 2);

    bench_check(n >= (ssize_t)sizeof(length), "writev");
    bench_write(fd, (const char *)data + n - sizeof(length), size + sizeof(length) - (size_t)n);
}

static void read_frame(int fd, void *data)
{
    uint32_t length;

    bench_check(bench_read(fd, &length, sizeof(length)), "read");
    bench_check(bench_read(fd, data, length), "read");
}

/* ---- messages ---- */

static void send_value(mp_connection *c)
{
    check(mp_connection_send(
              c, mp_list(42, "a small value of about 64 bytes, all told, packed", 2.5)),
        "send");
}

static void receive_value(mp_connection *c)
{
    static mp_message message = MP_MESSAGE_INIT;
    int number;

    check(mp_connection_recv(c, &message), "recv");
    check(mp_unpack(&message, &number, NULL, NULL), "value");
}

static void put(const struct channels *c, enum task task, size_t size)
{
    switch (task) {
    case RAW_PIPE:
        bench_write(mp_connection_fileno(c->raw_out), buffer, size);
        break;
    case RAW_SOCKET:
        bench_write(mp_connection_fileno(c->raw_socket), buffer, size);
        break;
    case FRAMED_PIPE:
        write_frame(mp_connection_fileno(c->raw_out), buffer, size);
        break;
    case FRAMED_SOCKET:
    case RAW_STREAM:
        write_frame(mp_connection_fileno(c->raw_socket), buffer, size);
        break;
    case PIPE:
        check(mp_connection_send_bytes(c->out, buffer, size), "send_bytes");
        break;
    case SOCKET:
    case STREAM:
        check(mp_connection_send_bytes(c->both, buffer, size), "send_bytes");
        break;
    case VALUES:
        send_value(c->both);
        break;
    }
}

static void get(const struct channels *c, enum task task, size_t size)
{
    switch (task) {
    case RAW_PIPE:
        bench_check(bench_read(mp_connection_fileno(c->raw_in), buffer, size), "read");
        break;
    case RAW_SOCKET:
        bench_check(bench_read(mp_connection_fileno(c->raw_socket), buffer, size), "read");
        break;
    case FRAMED_PIPE:
        read_frame(mp_connection_fileno(c->raw_in), buffer);
        break;
    case FRAMED_SOCKET:
    case RAW_STREAM:
        read_frame(mp_connection_fileno(c->raw_socket), buffer);
        break;
    case PIPE:
        check(mp_connection_recv_bytes_into(c->in, buffer, LARGE, &size), "recv_bytes_into");
        break;
    case SOCKET:
    case STREAM:
        check(mp_connection_recv_bytes_into(c->both, buffer, LARGE, &size), "recv_bytes_into");
        break;
    case VALUES:
        receive_value(c->both);
        break;
    }
}

/* ---- the child ---- */

/* Stays on one CPU; -1: on any it may use. */
static void pin(int cpu)
{
    static cpu_set_t all;
    cpu_set_t one;

    if (CPU_COUNT(&all) == 0)
        (void)sched_getaffinity(0, sizeof(all), &all);
    CPU_ZERO(&one);
    if (cpu >= 0)
        CPU_SET((size_t)cpu, &one);
    (void)sched_setaffinity(0, sizeof(one), cpu >= 0 ? &one : &all);
}

/* Carries out an order: messages are echoed, a stream is acknowledged at its end. */
static void obey(const struct channels *c, enum task task, int count, size_t size, int cpu)
{
    bool echo = task != RAW_STREAM && task != STREAM;

    pin(cpu);
    for (int i = 0; i < count; i++) {
        get(c, task, size);
        if (echo)
            put(c, task, size);
    }
    if (!echo)
        put(c, task, 1);
}

static int serve(mp_call *call)
{
    mp_message order = MP_MESSAGE_INIT;
    int task, count, cpu;
    size_t size;
    struct channels c;
    int r =
        mp_unpack(call, &c.orders, &c.raw_in, &c.raw_out, &c.raw_socket, &c.in, &c.out, &c.both);

    while (r == 0 && (r = mp_connection_recv(c.orders, &order)) == 0) {
        r = mp_unpack(&order, &task, &count, &size, &cpu);
        if (r == 0)
            obey(&c, (enum task)task, count, size, cpu);
    }
    mp_message_clear(&order);
    return r == MP_EEOF ? 0 : (mp_perror("child"), 1);
}

/* ---- the parent ---- */

static mp_connection *wrap(int fd)
{
    mp_connection *c = mp_connection_new(&fd);

    check(c ? 0 : -1, "mp_connection_new");
    return c;
}

static void open_pipe(mp_connection **in, mp_connection **out)
{
    int ends[2];

    bench_check(pipe2(ends, O_CLOEXEC) == 0, "pipe2");
    *in = wrap(ends[0]);
    *out = wrap(ends[1]);
}

static void open_channels(struct channels *a, struct channels *b)
{
    int ends[2];

    bench_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    a->raw_socket = wrap(ends[0]);
    b->raw_socket = wrap(ends[1]);
    open_pipe(&a->raw_in, &b->raw_out);
    open_pipe(&b->raw_in, &a->raw_out);
    check(mp_pipe(&a->orders, &b->orders), "mp_pipe");
    check(mp_pipe(&a->both, &b->both), "mp_pipe");
    check(mp_pipe(&a->in, &b->out, .oneway = true), "mp_pipe");
    check(mp_pipe(&b->in, &a->out, .oneway = true), "mp_pipe");
}

static void free_channels(struct channels *c)
{
    mp_connection_free(c->orders);
    mp_connection_free(c->raw_in);
    mp_connection_free(c->raw_out);
    mp_connection_free(c->raw_socket);
    mp_connection_free(c->in);
    mp_connection_free(c->out);
    mp_connection_free(c->both);
}

static mp_process *start_child(struct channels *a)
{
    struct channels b = { .orders = NULL };
    mp_process *p;

    open_channels(a, &b);
    p = mp_process_new(.target = serve, .daemon = true,
        .args = MP_ARGS(b.orders, b.raw_in, b.raw_out, b.raw_socket, b.in, b.out, b.both));
    check(p ? mp_process_start(p) : -1, "start");
    free_channels(&b);
    return p;
}

/* What is measured by turns. cpu: of the parent, of the child. */
typedef struct work {
    bench_row row;
    const char *peer; /* the question to CPython; CPUs and count follow */
    enum task floor, library;
    size_t size;
    int count, cpu[2];
    const struct channels *channels;
} work;

static double turn(const work *w, enum task task)
{
    bool echo = task != RAW_STREAM && task != STREAM;
    int first = echo ? WARM_UP : 0;
    double begin = 0;

    check(mp_connection_send(
              w->channels->orders, mp_list((int)task, first + w->count, w->size, w->cpu[1])),
        "order");
    pin(w->cpu[0]);
    for (int i = 0; i < first + w->count; i++) {
        if (i == first)
            begin = bench_now();
        put(w->channels, task, w->size);
        if (echo)
            get(w->channels, task, w->size);
    }
    if (!echo)
        get(w->channels, task, 1);
    return (bench_now() - begin) / w->count;
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
#define THERE_AND_BACK(where)                                                                      \
    { { .name = "pipes, bytes, " where, .goal = 1.05 }, "roundtrip pipe bytes",                    \
      RAW_PIPE, PIPE, .size = SMALL, .count = 200 },                                               \
    { { .name = "socket, bytes, " where, .goal = 1.05 }, "roundtrip socket bytes",                 \
      RAW_SOCKET, SOCKET, .size = SMALL, .count = 200 },                                           \
    { { .name = "socket, values, " where, .goal = 1.05 }, "roundtrip socket values",               \
      RAW_SOCKET, VALUES, .size = SMALL, .count = 200 }
#define BY_HAND(name_, floor, library)                                                             \
    { { .name = name_ ", by hand" }, NULL, floor, library, .size = SMALL, .count = 200 }
#define ONE_WAY(name_, size_, count_, times)                                                       \
    { { .name = name_, .bytes = size_, .goal = 0.95, .peer_goal = times }, "stream " #size_,       \
      RAW_STREAM, STREAM, .size = size_, .count = count_ }

static work works[] = {
    THERE_AND_BACK("2 CPUs"),
    THERE_AND_BACK("1 CPU"),
    BY_HAND("pipes, 1 CPU", FRAMED_PIPE, PIPE),
    BY_HAND("socket, 1 CPU", FRAMED_SOCKET, SOCKET),
    ONE_WAY("socket, 64 KiB", 65536, 256, 0),
    ONE_WAY("socket, 1 MiB", 1048576, 16, 5),
    ONE_WAY("socket, 16 MiB", 16777216, 2, 5),
};
/* clang-format on */
#define WORKS ((int)(sizeof(works) / sizeof(works[0])))
#define ROUND_TRIPS 8

/* The first three stay on two CPUs, the other round trips on one. False if there are no two. */
static bool choose_cpus(void)
{
    cpu_set_t all;
    int found[2] = { 0, 0 }, count = 0;

    CPU_ZERO(&all);
    bench_check(sched_getaffinity(0, sizeof(all), &all) == 0, "sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE && count < 2; cpu++)
        if (CPU_ISSET((size_t)cpu, &all))
            found[count++] = cpu;
    for (int i = 0; i < WORKS; i++) {
        works[i].cpu[0] = i < ROUND_TRIPS ? found[0] : -1;
        works[i].cpu[1] = i < ROUND_TRIPS ? found[i < 3 && count > 1] : -1;
    }
    return count > 1;
}

static double ask_peer(bench_peer *peer, const work *w)
{
    if (!w->peer)
        return 0;
    if (w->size == SMALL)
        return bench_ask(peer, "%s %d %d %d", w->peer, w->cpu[0], w->cpu[1], w->count);
    return bench_ask(peer, "%s %d", w->peer, w->count);
}

static void measure(const bench_options *options, bench_peer *peer, const struct channels *channels)
{
    int first = choose_cpus() ? 0 : 3;

    for (int i = first; i < WORKS; i++) {
        works[i].channels = channels;
        (void)turn(&works[i], works[i].floor); /* warms up */
        (void)turn(&works[i], works[i].library);
    }
    for (int r = 0; r < options->rounds; r++)
        for (int i = first; i < WORKS; i++)
            bench_round(&works[i].row, options->turns, floor_turn, library_turn, &works[i],
                ask_peer(peer, &works[i]));
    bench_print_header("there and back, 64 bytes");
    for (int i = first; i < ROUND_TRIPS; i++)
        bench_print(&works[i].row);
    bench_print_header("one way");
    for (int i = ROUND_TRIPS; i < WORKS; i++)
        bench_print(&works[i].row);
}

int main(int argc, char **argv)
{
    buffer = malloc(LARGE); /* in every process: before the guard */
    bench_check(buffer != NULL, "memory");
    memset(buffer, 1, LARGE);
    MP_MAIN () {
        bench_options options = bench_parse(argc, argv);
        struct channels channels = { .orders = NULL };
        mp_process *child = start_child(&channels);
        bench_peer peer = bench_peer_open();

        measure(&options, &peer, &channels);
        bench_peer_close(&peer);
        free_channels(&channels); /* the end of its orders ends the child */
        check(mp_process_join(child, MP_FOREVER), "join");
        mp_process_free(child);
        printf("\nfloor: bare pipes and a bare socket pair; one way, and by hand, with the length "
               "before each message, read first\n");
    }
    free(buffer);
    return 0;
}
