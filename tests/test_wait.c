/* SPDX-License-Identifier: MIT
 *
 * test_wait.c - waiting for several things at once: connections, the ends of
 * processes, descriptors. Signals during a wait are test_interrupt.c's business.
 */
#include "support.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <unistd.h>

enum { WRITERS = 4, EACH = 10 };

/* ---- writers ---- */

static int write_all(int fd, const void *data, size_t size, size_t step)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done < step ? size - done : step);

        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

/* A message of two small numbers, one byte a write: a reader wakes up in the middle of it. */
static int send_in_pieces(mp_connection *line, int writer, int number)
{
    unsigned char frame[] = { 0, 0, 0, 3, 0x92, (unsigned char)writer, (unsigned char)number };

    return write_all(mp_connection_fileno(line), frame, sizeof(frame), 1);
}

static int send_numbers(mp_connection *line, int writer, bool slow)
{
    int r = 0;

    for (int i = 0; i < EACH && r == 0; i++)
        r = slow ? send_in_pieces(line, writer, i) : mp_connection_send(line, mp_list(writer, i));
    return r < 0;
}

static int write_to_pipe(mp_call *call)
{
    mp_connection *line;
    int writer;
    bool slow;

    return mp_unpack(call, &line, &writer, &slow) ? 99 : send_numbers(line, writer, slow);
}

static int write_to_socket(mp_call *call)
{
    struct sockaddr_in address;
    mp_connection *line;
    int writer, r;
    bool slow;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || mp_unpack(call, &address, &writer, &slow))
        return 99;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return 98;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    line = mp_connection_new(&fd);
    r = send_numbers(line, writer, slow);
    mp_connection_free(line);
    return r;
}

/* ---- readers ---- */

typedef struct readers {
    mp_connection *open[WRITERS];
    size_t count;
    int seen[WRITERS][EACH];
} readers;

/* Receives one message, or closes a reader that is at its end. */
static void receive_one(readers *all, size_t at)
{
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_connection_recv(all->open[at], &message);
    int writer = -1, number = -1;

    if (r == MP_EEOF) {
        mp_connection_free(all->open[at]);
        all->open[at] = all->open[--all->count];
    } else {
        assert_int_equal(r, 0);
        assert_int_equal(mp_unpack(&message, &writer, &number), 0);
        assert_in_range(writer, 0, WRITERS - 1);
        assert_in_range(number, 0, EACH - 1);
        all->seen[writer][number]++;
    }
    mp_message_clear(&message);
}

/* Until all are at their ends. From the back: what is closed is replaced by one that was served. */
static void receive_all(readers *all)
{
    while (all->count) {
        mp_wait_item items[WRITERS];
        size_t count = all->count;

        for (size_t i = 0; i < count; i++)
            items[i] = MP_WAIT(all->open[i]);
        assert_true(mp_wait(items, count, MP_FOREVER) > 0);
        for (size_t i = count; i-- > 0;)
            if (items[i].ready)
                receive_one(all, i);
    }
    for (int i = 0; i < WRITERS * EACH; i++)
        assert_int_equal(all->seen[i / EACH][i % EACH], 1);
}

static void check_pipes(bool slow)
{
    readers all = { .count = 0 };
    mp_process *writers[WRITERS];

    for (int i = 0; i < WRITERS; i++) {
        mp_connection *sender;

        assert_int_equal(mp_pipe(&all.open[all.count++], &sender, .oneway = true), 0);
        writers[i] = start_process(.target = write_to_pipe, .args = MP_ARGS(sender, i, slow));
        mp_connection_free(sender);
    }
    receive_all(&all);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(finish(writers[i]), 0);
}

static void four_writers_are_read_to_their_ends(void **state)
{
    (void)state;
    check_pipes(false);
}

static void four_writers_of_small_pieces_are_read_to_their_ends(void **state)
{
    (void)state;
    check_pipes(true);
}

static int listen_somewhere(struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof(*address);

    memset(address, 0, sizeof(*address));
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)address, sizeof(*address)), 0);
    assert_int_equal(listen(fd, WRITERS), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)address, &size), 0);
    return fd;
}

static mp_connection *accept_one(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    mp_connection *connection = mp_connection_new(&fd);

    assert_non_null(connection);
    assert_int_equal(fd, -1);
    return connection;
}

static void check_sockets(bool slow)
{
    struct sockaddr_in address;
    readers all = { .count = 0 };
    mp_process *writers[WRITERS];
    int listener = listen_somewhere(&address);

    for (int i = 0; i < WRITERS; i++)
        writers[i] =
            start_process(.target = write_to_socket, .args = MP_ARGS(mp_struct(&address), i, slow));
    while (all.count < WRITERS)
        all.open[all.count++] = accept_one(listener);
    (void)close(listener);
    receive_all(&all);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(finish(writers[i]), 0);
}

static void four_writers_to_tcp_sockets_are_read_to_their_ends(void **state)
{
    (void)state;
    check_sockets(false);
}

static void four_writers_of_small_pieces_to_tcp_sockets_are_read_to_their_ends(void **state)
{
    (void)state;
    check_sockets(true);
}

/* ---- the time ---- */

static void nothing_is_ready_when_the_time_is_over_and_later_what_got_data(void **state)
{
    mp_connection *a, *b;
    mp_wait_item items[2];

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    items[0] = MP_WAIT(a);
    items[1] = MP_WAIT(b);
    items[0].ready = items[1].ready = true;
    assert_int_equal(mp_wait(items, 2, 0.01), 0);
    assert_false(items[0].ready);
    assert_false(items[1].ready);
    assert_int_equal(mp_connection_send(b, mp_none()), 0);
    assert_int_equal(mp_wait(items, 2, PATIENCE), 1);
    assert_true(items[0].ready);
    assert_false(items[1].ready);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void no_and_negative_time_only_look(void **state)
{
    static const double times[] = { 0, -1, -1e300, -HUGE_VAL, NAN };
    mp_connection *a, *b;
    mp_wait_item item;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    item = MP_WAIT(a);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(mp_wait(&item, 1, times[i]), 0);
    assert_int_equal(mp_connection_send(b, 1), 0);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(mp_wait(&item, 1, times[i]), 1);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* ---- the ends of processes ---- */

static int wait_for_the_end(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r = mp_unpack(call, &line) ? 99 : mp_connection_recv(line, &message);

    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 1;
}

static mp_process *start_until_closed(mp_connection **line)
{
    mp_connection *theirs;
    mp_process *p;

    assert_int_equal(mp_pipe(line, &theirs), 0);
    p = start_process(.target = wait_for_the_end, .args = MP_ARGS(theirs));
    mp_connection_free(theirs);
    return p;
}

static void check_ready(mp_wait_item *items, bool first, bool second, bool third)
{
    assert_int_equal(mp_wait(items, 3, 0), first + second + third);
    assert_int_equal(items[0].ready, first);
    assert_int_equal(items[1].ready, second);
    assert_int_equal(items[2].ready, third);
}

static void the_end_of_a_process_is_waited_for_with_connections(void **state)
{
    mp_connection *line, *a, *b;
    mp_process *p = start_until_closed(&line);
    mp_wait_item items[3];

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    items[0] = MP_WAIT(a);
    items[1] = MP_WAIT(mp_process_sentinel(p));
    items[2] = MP_WAIT(b);
    check_ready(items, false, false, false);
    mp_connection_free(line);
    assert_int_equal(mp_wait(items, 3, PATIENCE), 1);
    check_ready(items, false, true, false);
    assert_int_equal(mp_connection_send(b, 1), 0);
    check_ready(items, true, true, false);
    assert_int_equal(mp_connection_send(a, 2), 0);
    check_ready(items, true, true, true);
    assert_int_equal(finish(p), 0);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void the_end_of_the_stream_counts_as_ready(void **state)
{
    mp_connection *a, *b;
    mp_wait_item item;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    item = MP_WAIT(a);
    assert_int_equal(mp_wait(&item, 1, 0), 0);
    mp_connection_free(b);
    assert_int_equal(mp_wait(&item, 1, MP_FOREVER), 1);
    assert_true(item.ready);
    mp_connection_free(a);
}

/* ---- what can be waited for ---- */

static void each_type_makes_an_item(void **state)
{
    mp_connection *line, *a, *b;
    mp_process *p = start_until_closed(&line);
    mp_wait_item items[3];
    int fd;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    fd = mp_connection_fileno(b);
    items[0] = MP_WAIT(a);
    items[1] = MP_WAIT(p);
    items[2] = MP_WAIT(fd);
    assert_ptr_equal(items[0].connection, a);
    assert_ptr_equal(items[1].process, p);
    assert_int_equal(items[2].fd, fd);
    check_ready(items, false, false, false);
    assert_int_equal(mp_connection_send(a, 1), 0);
    check_ready(items, false, false, true);
    mp_connection_free(line);
    assert_int_equal(mp_wait(&items[1], 1, PATIENCE), 1);
    check_ready(items, false, true, true);
    assert_int_equal(finish(p), 0);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* A struct's other members are zero then, and 0 is a descriptor too. */
static void an_item_may_be_written_without_the_macro(void **state)
{
    mp_connection *line, *a, *b;
    mp_process *p = start_until_closed(&line);
    mp_wait_item items[3];
    int early, late;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    items[0] = (mp_wait_item){ .connection = a };
    items[1] = (mp_wait_item){ .process = p };
    items[2] = (mp_wait_item){ .fd = mp_connection_fileno(b) };
    early = mp_wait(items, 3, 0);
    mp_connection_free(line);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    late = mp_wait(items, 3, 0);
    assert_int_equal(finish(p), 0);
    mp_connection_free(a);
    mp_connection_free(b);
    assert_int_equal(early, 0);
    assert_int_equal(late, 1);
    assert_true(items[1].ready);
}

static void an_item_may_be_there_twice(void **state)
{
    mp_connection *a, *b;
    mp_wait_item items[4];

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    items[0] = items[1] = items[2] = MP_WAIT(a);
    items[3] = MP_WAIT(mp_connection_fileno(a));
    assert_int_equal(mp_wait(items, 4, 0), 0);
    assert_int_equal(mp_connection_send(b, 1), 0);
    assert_int_equal(mp_wait(items, 4, MP_FOREVER), 4);
    for (int i = 0; i < 4; i++)
        assert_true(items[i].ready);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void many_items_are_waited_for(void **state)
{
    enum { PAIRS = 100 };
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *ends[2 * PAIRS];
    mp_wait_item items[PAIRS];

    (void)state;
    for (int i = 0; i < PAIRS; i++) {
        assert_int_equal(mp_pipe(&ends[2 * i], &ends[2 * i + 1]), 0);
        items[i] = MP_WAIT(ends[2 * i]);
    }
    for (int count = 30; count <= PAIRS; count++) {
        assert_int_equal(mp_wait(items, (size_t)count, 0), 0);
        assert_int_equal(mp_connection_send(ends[2 * count - 1], 1), 0);
        assert_int_equal(mp_wait(items, (size_t)count, MP_FOREVER), 1);
        assert_true(items[count - 1].ready);
        assert_int_equal(mp_connection_recv(ends[2 * count - 2], &message), 0);
    }
    mp_message_clear(&message);
    for (int i = 0; i < 2 * PAIRS; i++)
        mp_connection_free(ends[i]);
}

/* Only the length has come; it was read by a receive that found it too long. */
static void a_pending_message_counts_as_ready(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    mp_wait_item items[2];

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    items[0] = MP_WAIT(b);
    items[1] = MP_WAIT(a);
    assert_int_equal(write(mp_connection_fileno(a), "\0\0\0\3", 4), 4);
    assert_int_equal(mp_connection_recv_bytes(b, &message, 2), MP_ETOOLONG);
    assert_int_equal(mp_wait(items, 2, MP_FOREVER), 1);
    assert_true(items[0].ready);
    assert_false(items[1].ready);
    assert_int_equal(mp_connection_poll(b, MP_FOREVER), 1);
    assert_int_equal(write(mp_connection_fileno(a), "abc", 3), 3);
    assert_int_equal(mp_connection_recv_bytes(b, &message, 3), 0);
    assert_int_equal(mp_wait(items, 2, 0), 0);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* ---- what cannot ---- */

static void nothing_for_ever_is_refused(void **state)
{
    mp_wait_item item = { .fd = -1 };

    (void)state;
    assert_int_equal(mp_wait(NULL, 0, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_wait(NULL, 2, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_wait(&item, 0, MP_FOREVER), MP_EINVAL);
    assert_int_equal(mp_wait(NULL, 0, 0), 0);
    assert_int_equal(mp_wait(NULL, 0, 0.01), 0);
}

static int closed_number(void)
{
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 700);

    assert_true(fd >= 700);
    assert_int_equal(close(fd), 0);
    return fd;
}

static void descriptors_that_are_not_open_are_errors(void **state)
{
    mp_connection *a, *b;
    mp_wait_item items[2];

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    items[0] = MP_WAIT(a);
    items[1] = MP_WAIT(-1);
    assert_int_equal(mp_wait(items, 2, MP_FOREVER), MP_EBADF);
    items[1] = MP_WAIT(closed_number());
    assert_int_equal(mp_wait(items, 2, MP_FOREVER), MP_EBADF);
    assert_int_equal(mp_last_error()->code, MP_EBADF);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void ends_that_cannot_be_received_from_are_errors(void **state)
{
    mp_connection *receiver, *sender;
    mp_wait_item items[2];

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    items[0] = MP_WAIT(receiver);
    items[1] = MP_WAIT(sender);
    assert_int_equal(mp_wait(items, 2, MP_FOREVER), MP_EDIRECTION);
    mp_connection_close(sender);
    assert_int_equal(mp_wait(items, 2, MP_FOREVER), MP_ECLOSED);
    mp_connection_free(receiver);
    mp_connection_free(sender);
}

static void processes_that_do_not_run_are_errors(void **state)
{
    mp_connection *here, *there;
    mp_process *p;
    mp_wait_item item;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = mp_process_new(.target = wait_for_the_end, .args = MP_ARGS(there));
    assert_non_null(p);
    item = MP_WAIT(p);
    assert_int_equal(mp_wait(&item, 1, MP_FOREVER), MP_ENOTSTARTED);
    assert_int_equal(mp_process_close(p), 0);
    item = MP_WAIT(p);
    assert_int_equal(mp_wait(&item, 1, MP_FOREVER), MP_ECLOSED);
    mp_process_free(p);
    mp_connection_free(here);
    mp_connection_free(there);
}

/* ---- TestInvalidHandle ---- */

static void a_connection_needs_an_open_descriptor(void **state)
{
    int none = -1, closed = closed_number(), number = closed;

    (void)state;
    assert_null(mp_connection_new(NULL));
    assert_null(mp_connection_new(&none));
    assert_int_equal(mp_last_error()->code, MP_EBADF);
    mp_clear_error();
    assert_null(mp_connection_new(&closed));
    assert_int_equal(mp_last_error()->code, MP_EBADF);
    assert_int_equal(none, -1);
    assert_int_equal(closed, number);
}

/* Somebody closed the number behind its back: an error, neither a crash nor a wait. */
static void a_descriptor_closed_behind_a_connection_is_an_error(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(close(mp_connection_fileno(a)), 0);
    assert_int_equal(mp_connection_poll(a, MP_FOREVER), MP_EBADF);
    assert_int_equal(mp_connection_recv(a, &message), MP_EBADF);
    assert_int_equal(mp_connection_send(a, 1), MP_EBADF);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_message_clear(&message);
}

static void more_items_than_descriptors_are_an_error(void **state)
{
    enum { ITEMS = 100 };
    mp_wait_item items[ITEMS];
    struct rlimit limit, small;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    for (int i = 0; i < ITEMS; i++)
        items[i] = MP_WAIT(a);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    small = limit;
    small.rlim_cur = ITEMS - 36;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    assert_int_equal(mp_wait(items, ITEMS, 0), MP_EINVAL);
    assert_non_null(strstr(mp_last_error()->text, "ulimit -n"));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(mp_wait(items, ITEMS, 0), 0); /* one may be there often */
    mp_connection_free(a);
    mp_connection_free(b);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(four_writers_are_read_to_their_ends),
    UNDER_EACH(four_writers_of_small_pieces_are_read_to_their_ends),
    UNDER_EACH(four_writers_to_tcp_sockets_are_read_to_their_ends),
    UNDER_EACH(four_writers_of_small_pieces_to_tcp_sockets_are_read_to_their_ends),
    ONCE(nothing_is_ready_when_the_time_is_over_and_later_what_got_data),
    ONCE(no_and_negative_time_only_look),
    UNDER_EACH(the_end_of_a_process_is_waited_for_with_connections),
    ONCE(the_end_of_the_stream_counts_as_ready),
    UNDER_EACH(each_type_makes_an_item),
    UNDER_EACH(an_item_may_be_written_without_the_macro),
    ONCE(an_item_may_be_there_twice),
    ONCE(many_items_are_waited_for),
    ONCE(a_pending_message_counts_as_ready),
    ONCE(nothing_for_ever_is_refused),
    ONCE(descriptors_that_are_not_open_are_errors),
    ONCE(ends_that_cannot_be_received_from_are_errors),
    UNDER_EACH(processes_that_do_not_run_are_errors),
    ONCE(a_connection_needs_an_open_descriptor),
    ONCE(a_descriptor_closed_behind_a_connection_is_an_error),
    ONCE(more_items_than_descriptors_are_an_error),
};

TESTS_MAIN(tests)
