/* SPDX-License-Identifier: MIT
 *
 * test_handles.c - connections that travel, as arguments and in messages: that
 * they arrive usable, who closes them, and that nobody holds one it was not
 * given. What a connection does is test_connection.c's business.
 */
#include "support.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- helpers ---- */

static int send_text(mp_connection *line, const char *text)
{
    return mp_connection_send_bytes(line, text, strlen(text));
}

/* Whether the next message is this text. */
static bool brings(mp_connection *line, const char *text)
{
    mp_message message = MP_MESSAGE_INIT;
    bool equal = mp_connection_recv_bytes(line, &message, MP_ANY_LENGTH) == 0 &&
                 message.size == strlen(text) && memcmp(message.data, text, message.size) == 0;

    mp_message_clear(&message);
    return equal;
}

static void check_end(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;

    assert_int_equal(mp_connection_recv_bytes(line, &message, MP_ANY_LENGTH), MP_EEOF);
    mp_message_clear(&message);
}

static msgpack_object value_of(mp_connection *connection)
{
    return mp_list(connection).via.array.ptr[0];
}

/* The end of a two-way pipe goes to the child; the other is returned. */
static mp_connection *give_end(mp_connection *line)
{
    mp_connection *here, *there;

    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(line, there), 0);
    mp_connection_free(there);
    return here;
}

static int wait_for_the_end(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r = mp_unpack(call, &line) ? 99 : mp_connection_recv(line, &message);

    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 1;
}

/* ---- as arguments ---- */

static int pass_on(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *both, *from, *to;
    int r;

    if (mp_unpack(call, &both, &from, &to))
        return 99;
    if (!mp_connection_readable(both) || !mp_connection_writable(both) ||
        !mp_connection_readable(from) || mp_connection_writable(from) ||
        mp_connection_readable(to) || !mp_connection_writable(to))
        return 98;
    r = mp_connection_recv_bytes(from, &message, MP_ANY_LENGTH);
    if (r == 0)
        r = mp_connection_send_bytes(to, message.data, message.size);
    if (r == 0)
        r = mp_connection_send_bytes(both, message.data, message.size);
    mp_message_clear(&message);
    return r < 0;
}

static void arguments_bring_connections_of_each_kind(void **state)
{
    mp_connection *ends[6];
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&ends[0], &ends[1]), 0);
    assert_int_equal(mp_pipe(&ends[2], &ends[3], .oneway = true), 0);
    assert_int_equal(mp_pipe(&ends[4], &ends[5], .oneway = true), 0);
    p = start_process(.target = pass_on, .args = MP_ARGS(ends[1], ends[2], ends[5]));
    assert_int_equal(send_text(ends[3], "on its way"), 0);
    assert_true(brings(ends[4], "on its way"));
    assert_true(brings(ends[0], "on its way"));
    assert_int_equal(finish(p), 0);
    for (int i = 0; i < 6; i++)
        mp_connection_free(ends[i]);
}

static int say_hello(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) ? 99 : send_text(line, "hello") < 0;
}

static void connections_may_be_freed_between_describing_and_starting(void **state)
{
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = mp_process_new(.target = say_hello, .args = MP_ARGS(there));
    mp_connection_free(there);
    p = support_start(p);
    assert_true(brings(here, "hello"));
    assert_int_equal(finish(p), 0);
    check_end(here);
    mp_connection_free(here);
}

static int use_nested(mp_call *call)
{
    msgpack_object dict, list, inner;
    mp_connection *ends[3];

    if (mp_unpack(call, &dict, &list) || mp_unpack(&list, NULL, &ends[0], &inner) ||
        mp_unpack(&inner, &ends[1]) || dict.type != MSGPACK_OBJECT_MAP ||
        mp_unpack(&dict.via.map.ptr[1].val, &ends[2]))
        return 99;
    return send_text(ends[0], "list") || send_text(ends[1], "inner") || send_text(ends[2], "dict");
}

static void handles_are_found_inside_lists_and_dicts(void **state)
{
    static const char *const words[] = { "list", "inner", "dict" };
    mp_connection *ends[6];
    mp_process *p;

    (void)state;
    for (int i = 0; i < 6; i += 2)
        assert_int_equal(mp_pipe(&ends[i], &ends[i + 1], .oneway = true), 0);
    p = start_process(.target = use_nested,
        .args = MP_ARGS(mp_dict("number", 1, "end", ends[5]),
            mp_list("word", ends[1], mp_list(ends[3]).via.array.ptr[0])));
    for (int i = 0; i < 6; i += 2)
        assert_true(brings(ends[i], words[i / 2]));
    assert_int_equal(finish(p), 0);
    for (int i = 0; i < 6; i++)
        mp_connection_free(ends[i]);
}

/* Each has a descriptor of its own: closing one leaves the other. */
static int use_two_of_the_same(mp_call *call)
{
    mp_connection *one, *other;
    int r;

    if (mp_unpack(call, &one, &other))
        return 99;
    if (one == other || mp_connection_fileno(one) == mp_connection_fileno(other))
        return 98;
    r = send_text(one, "one");
    mp_connection_close(one);
    return r < 0 || send_text(other, "other") < 0;
}

static void the_same_handle_twice_arrives_as_two(void **state)
{
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = use_two_of_the_same, .args = MP_ARGS(there, there));
    mp_connection_free(there);
    assert_true(brings(here, "one"));
    assert_true(brings(here, "other"));
    check_end(here);
    assert_int_equal(finish(p), 0);
    mp_connection_free(here);
}

/* ---- _TestPicklingConnections ---- */

/* Answers on each connection that comes. */
static int answer_each(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *given;
    int r;

    if (mp_unpack(call, &line))
        return 99;
    while ((r = mp_connection_recv(line, &message)) == 0)
        if (mp_unpack(&message, &given) || send_text(given, "hello from the child"))
            break;
    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 1;
}

static void connections_travel_through_connections(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(answer_each, &line);

    (void)state;
    for (int i = 0; i < 20; i++) {
        mp_connection *here = give_end(line);

        assert_true(brings(here, "hello from the child"));
        if (i % 2)
            mp_connection_free(here);
        else
            mp_connection_close(here);
        if (i % 2 == 0)
            mp_connection_free(here);
    }
    mp_connection_free(line);
    assert_int_equal(finish(p), 0);
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&address, size), 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fds[1] >= 0);
    (void)close(listener);
}

static void plain_sockets_travel_through_connections(void **state)
{
    mp_connection *line, *wrapped;
    mp_process *p = start_with_line(answer_each, &line);
    char got[24];
    int fds[2];

    (void)state;
    tcp_pair(fds);
    wrapped = mp_connection_new(&fds[1]);
    assert_non_null(wrapped);
    assert_int_equal(mp_connection_send(line, wrapped), 0);
    mp_connection_free(wrapped);
    assert_int_equal(recv(fds[0], got, sizeof(got), MSG_WAITALL), 24);
    assert_memory_equal(got, "\0\0\0\x14hello from the child", 24);
    (void)close(fds[0]);
    mp_connection_free(line);
    assert_int_equal(finish(p), 0);
}

/* A child makes the pipe, sends one end and speaks on the other. */
static int send_new_pipe(mp_call *call)
{
    mp_connection *line, *kept, *given;
    int r;

    if (mp_unpack(call, &line) || mp_pipe(&kept, &given))
        return 99;
    r = mp_connection_send(line, mp_list(7, given));
    mp_connection_free(given);
    if (r == 0)
        r = brings(kept, "ping") ? send_text(kept, "pong") : -1;
    mp_connection_free(kept);
    return r < 0;
}

static void a_child_sends_a_connection_to_its_parent(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *given;
    mp_process *p = start_with_line(send_new_pipe, &line);
    int number;

    (void)state;
    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &number, &given), 0);
    assert_int_equal(number, 7);
    assert_int_equal(send_text(given, "ping"), 0);
    assert_true(brings(given, "pong"));
    check_end(given);
    mp_message_clear(&message);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

static bool only_sends(const mp_connection *c)
{
    return mp_connection_writable(c) && !mp_connection_readable(c);
}

static bool only_receives(const mp_connection *c)
{
    return mp_connection_readable(c) && !mp_connection_writable(c);
}

/* First an end to send to comes, then one to receive from. */
static int use_one_way_ends(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *end;
    int r = 0;

    if (mp_unpack(call, &line))
        return 99;
    if (mp_connection_recv(line, &message) || mp_unpack(&message, &end) || !only_sends(end) ||
        mp_connection_recv(end, &message) != MP_EDIRECTION || send_text(end, "all is well"))
        r = 1;
    if (mp_connection_recv(line, &message) || mp_unpack(&message, &end) || !only_receives(end) ||
        send_text(end, "") != MP_EDIRECTION || !brings(end, "foobar"))
        r = 2;
    mp_message_clear(&message);
    return r;
}

static void one_way_ends_keep_their_direction_when_sent(void **state)
{
    mp_connection *line, *receiver, *sender;
    mp_process *p = start_with_line(use_one_way_ends, &line);

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    assert_int_equal(mp_connection_send(line, sender), 0);
    mp_connection_free(sender);
    assert_true(brings(receiver, "all is well"));
    mp_connection_free(receiver);
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    assert_int_equal(mp_connection_send(line, receiver), 0);
    mp_connection_free(receiver);
    assert_int_equal(send_text(sender, "foobar"), 0);
    assert_int_equal(finish(p), 0);
    mp_connection_free(sender);
    mp_connection_free(line);
}

/* Sends what came back at once: as it was lent, and as the whole value. */
static int forward(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *given;
    int r;

    if (mp_unpack(call, &line))
        return 99;
    r = mp_connection_recv(line, &message);
    if (r == 0)
        r = mp_unpack(&message, &given);
    if (r == 0)
        r = mp_connection_send(line, mp_list("lent", given));
    if (r == 0)
        r = mp_connection_recv(line, &message);
    if (r == 0)
        r = mp_connection_send(line, mp_list("value", message.value));
    mp_message_clear(&message);
    return r < 0;
}

static void use_forwarded(mp_connection *line, const char *wanted)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *there, *here = give_end(line);
    const char *word;

    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &word, &there), 0);
    assert_string_equal(word, wanted);
    assert_int_equal(send_text(there, "through two"), 0);
    assert_true(brings(here, "through two"));
    mp_message_clear(&message);
    mp_connection_free(here);
}

static void a_received_handle_can_be_sent_on(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(forward, &line);

    (void)state;
    use_forwarded(line, "lent");
    use_forwarded(line, "value");
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

/* ---- descriptors of files ---- */

static int open_file(void)
{
    char path[] = "/tmp/test_handles_XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    return fd;
}

static void check_file(int fd, const char *wanted)
{
    char text[64] = "";

    assert_int_equal(pread(fd, text, sizeof(text) - 1, 0), strlen(wanted));
    assert_string_equal(text, wanted);
    (void)close(fd);
}

/* A connection over a duplicate with a number from lowest on; fd stays. */
static mp_connection *wrap_copy(int fd, int lowest)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
    mp_connection *connection = mp_connection_new(&copy);

    assert_non_null(connection);
    assert_true(mp_connection_fileno(connection) >= lowest);
    return connection;
}

static int write_to_argument(mp_call *call)
{
    mp_connection *file;

    if (mp_unpack(call, &file))
        return 99;
    return write(mp_connection_fileno(file), "foo", 3) != 3;
}

static void a_file_is_written_through_a_descriptor_in_the_arguments(void **state)
{
    int fd = open_file();
    mp_connection *file = wrap_copy(fd, 3);
    mp_process *p = start_process(.target = write_to_argument, .args = MP_ARGS(file));

    (void)state;
    mp_connection_free(file);
    assert_int_equal(finish(p), 0);
    check_file(fd, "foo");
}

/* With every number below lowest taken; answers with the number it got. */
static int write_to_received(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *file;
    int lowest, r;

    if (mp_unpack(call, &line, &lowest))
        return 99;
    for (int fd = 3; fd < lowest; fd++)
        if (fcntl(fd, F_GETFD) < 0 && dup2(0, fd) < 0)
            return 98;
    r = mp_connection_recv(line, &message) || mp_unpack(&message, &file) ||
        write(mp_connection_fileno(file), "bar", 3) != 3 ||
        mp_connection_send(line, mp_connection_fileno(file));
    mp_message_clear(&message);
    return r;
}

static void check_transfer(int lowest)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there, *file;
    int fd = open_file(), number = -1;
    mp_process *p;

    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = write_to_received, .args = MP_ARGS(there, lowest));
    file = wrap_copy(fd, lowest);
    assert_int_equal(mp_connection_send(here, file), 0);
    mp_connection_free(file);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &number), 0);
    assert_true(number >= lowest);
    assert_int_equal(finish(p), 0);
    check_file(fd, "bar");
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

static void a_file_is_written_through_a_descriptor_in_a_message(void **state)
{
    (void)state;
    check_transfer(3);
}

static void descriptors_with_large_numbers_travel(void **state)
{
    (void)state;
    check_transfer(300);
}

/* The bytes of a message with a handle, sent anew without its descriptor. */
static int send_without_descriptor(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *a, *b;
    int r;

    if (mp_unpack(call, &line) || mp_pipe(&a, &b))
        return 99;
    r = mp_connection_send(a, mp_list(1, a));
    if (r == 0)
        r = mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH);
    if (r == 0)
        r = mp_connection_send_bytes(line, message.data, message.size);
    if (r == 0)
        r = send_text(line, "in step");
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
    return r < 0;
}

static void a_handle_without_its_descriptor_is_an_error(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    mp_process *p = start_with_line(send_without_descriptor, &line);

    (void)state;
    assert_int_equal(mp_connection_recv(line, &message), MP_EPROTOCOL);
    assert_true(brings(line, "in step"));
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(line);
}

/* ---- how many ---- */

/* A list of handles, all of one connection. */
static msgpack_object handles(mp_connection *connection, msgpack_object *items, uint32_t count)
{
    msgpack_object list = { .type = MSGPACK_OBJECT_ARRAY };

    for (uint32_t i = 0; i < count; i++)
        items[i] = value_of(connection);
    list.via.array.size = count;
    list.via.array.ptr = items;
    return list;
}

/* Speaks on the last of the handles. */
static int use_many(mp_call *call)
{
    mp_connection *last;
    msgpack_object list;

    if (mp_unpack(call, &list) || list.type != MSGPACK_OBJECT_ARRAY || list.via.array.size != 252)
        return 99;
    for (uint32_t i = 0; i < 252; i++)
        if (mp_unpack(&list.via.array.ptr[i], &last))
            return 98;
    return send_text(last, "the 252nd") < 0;
}

static void arguments_hold_up_to_252_handles(void **state)
{
    msgpack_object items[253];
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_null(mp_process_new(.target = use_many, .args = MP_ARGS(handles(there, items, 253))));
    assert_int_equal(mp_last_error()->code, MP_ETOOLONG);
    p = start_process(.target = use_many, .args = MP_ARGS(handles(there, items, 252)));
    mp_connection_free(there);
    assert_true(brings(here, "the 252nd"));
    check_end(here);
    assert_int_equal(finish(p), 0);
    mp_connection_free(here);
}

static int use_many_received(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *last;
    int r = mp_unpack(call, &line) || mp_connection_recv(line, &message) ||
            message.value.type != MSGPACK_OBJECT_ARRAY || message.value.via.array.size != 252 ||
            mp_unpack(&message.value.via.array.ptr[251], &last) || send_text(last, "the 252nd");

    mp_message_clear(&message);
    return r;
}

static void a_message_holds_up_to_252_handles(void **state)
{
    msgpack_object items[253];
    mp_connection *line, *here, *there;
    mp_process *p = start_with_line(use_many_received, &line);

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(line, handles(there, items, 253)), MP_ETOOLONG);
    assert_int_equal(mp_connection_send(line, handles(there, items, 252)), 0);
    mp_connection_free(there);
    assert_true(brings(here, "the 252nd"));
    check_end(here);
    assert_int_equal(finish(p), 0);
    mp_connection_free(here);
    mp_connection_free(line);
}

/* ---- what cannot travel ---- */

static void handles_over_a_one_way_pipe_are_refused(void **state)
{
    mp_connection *receiver, *sender, *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(sender, mp_list(1, a)), MP_EHANDLE);
    assert_int_equal(mp_connection_poll(receiver, 0), 0);
    assert_int_equal(send_text(sender, "in step"), 0);
    assert_true(brings(receiver, "in step"));
    mp_connection_free(receiver);
    mp_connection_free(sender);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void handles_over_a_tcp_socket_are_refused(void **state)
{
    mp_connection *ends[2], *a, *b;
    int fds[2], sent, waiting;

    (void)state;
    tcp_pair(fds);
    for (int i = 0; i < 2; i++)
        ends[i] = mp_connection_new(&fds[i]);
    assert_int_equal(mp_pipe(&a, &b), 0);
    sent = mp_connection_send(ends[0], mp_list(1, a));
    waiting = mp_connection_poll(ends[1], 0);
    mp_connection_free(ends[0]);
    mp_connection_free(ends[1]);
    mp_connection_free(a);
    mp_connection_free(b);
    assert_int_equal(sent, MP_EHANDLE);
    assert_int_equal(waiting, 0);
}

static void a_connection_with_a_message_half_received_does_not_travel(void **state)
{
    mp_connection *a, *b, *line, *other;
    char buffer[2];
    size_t size;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_pipe(&line, &other), 0);
    assert_int_equal(send_text(a, "three"), 0);
    assert_int_equal(mp_connection_recv_bytes_into(b, buffer, 2, &size), MP_ETOOSHORT);
    assert_int_equal(mp_connection_send(line, b), MP_EHANDLE);
    assert_null(mp_process_new(.target = wait_for_the_end, .args = MP_ARGS(b)));
    assert_int_equal(mp_last_error()->code, MP_EHANDLE);
    assert_true(brings(b, "three"));
    assert_int_equal(mp_connection_send(line, b), 0);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_connection_free(line);
    mp_connection_free(other);
}

/* ---- who closes what came ---- */

static void send_three_handles(mp_connection *line)
{
    mp_connection *a, *b;

    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(line, mp_list(a, b, a)), 0);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void clearing_a_message_closes_what_nobody_took(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b, *one;
    int before;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    before = count_descriptors();
    send_three_handles(a);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(count_descriptors(), before + 3);
    assert_int_equal(mp_unpack(&message, NULL, &one, NULL), 0);
    assert_int_equal(count_descriptors(), before + 3);
    mp_message_clear(&message);
    assert_int_equal(count_descriptors(), before);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void the_next_receive_closes_what_nobody_took(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    int before;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    before = count_descriptors();
    send_three_handles(a);
    send_three_handles(a);
    assert_int_equal(send_text(a, "plain"), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_connection_recv(b, &message), 0);
        assert_int_equal(count_descriptors(), before + 3);
    }
    assert_int_equal(mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(count_descriptors(), before);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void receiving_bytes_closes_what_came_with_them(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    char buffer[64];
    size_t size;
    int before;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    before = count_descriptors();
    send_three_handles(a);
    assert_int_equal(mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(count_descriptors(), before);
    send_three_handles(a);
    assert_int_equal(mp_connection_recv_bytes_into(b, buffer, sizeof(buffer), &size), 0);
    assert_int_equal(count_descriptors(), before);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* The descriptors came with the length that was read. */
static void closing_a_connection_closes_what_came_with_a_pending_message(void **state)
{
    mp_connection *a, *b;
    int before = count_descriptors();
    char buffer[1];
    size_t size;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    send_three_handles(a);
    assert_int_equal(mp_connection_recv_bytes_into(b, buffer, 1, &size), MP_ETOOSHORT);
    assert_int_equal(count_descriptors(), before + 5);
    mp_connection_free(b);
    assert_int_equal(count_descriptors(), before + 1);
    mp_connection_free(a);
}

/* A message with one end of a pipe whose other end is returned. */
static mp_connection *receive_end(mp_message *message)
{
    mp_connection *a, *b, *here;

    assert_int_equal(mp_pipe(&a, &b), 0);
    here = give_end(a);
    assert_int_equal(mp_connection_recv(b, message), 0);
    mp_connection_free(a);
    mp_connection_free(b);
    return here;
}

static void a_kept_connection_outlives_its_message(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here = receive_end(&message), *kept;

    (void)state;
    assert_int_equal(mp_unpack(&message, &kept), 0);
    assert_ptr_equal(mp_connection_keep(kept), kept);
    assert_ptr_equal(mp_connection_keep(kept), kept);
    mp_message_clear(&message);
    assert_int_equal(send_text(kept, "still here"), 0);
    assert_true(brings(here, "still here"));
    mp_connection_free(kept);
    check_end(here);
    mp_connection_free(here);
    assert_null(mp_connection_keep(NULL));
}

static void a_kept_connection_may_be_freed_before_its_message(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here = receive_end(&message), *kept;

    (void)state;
    assert_int_equal(mp_unpack(&message, &kept), 0);
    mp_connection_free(mp_connection_keep(kept));
    check_end(here);
    assert_int_equal(mp_unpack(&message, &kept), MP_EHANDLE);
    mp_message_clear(&message);
    mp_connection_free(here);
}

static void freeing_a_lent_connection_only_closes_it(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here = receive_end(&message), *lent, *again;

    (void)state;
    assert_int_equal(mp_unpack(&message, &lent), 0);
    mp_connection_free(lent);
    check_end(here);
    mp_connection_free(lent);
    assert_int_equal(mp_unpack(&message, &again), 0);
    assert_ptr_equal(again, lent);
    assert_true(mp_connection_closed(again));
    mp_message_clear(&message);
    mp_connection_free(here);
}

static void unpacking_twice_gives_the_same_connection(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here = receive_end(&message), *one, *other;
    int before = count_descriptors();

    (void)state;
    assert_int_equal(mp_unpack(&message, &one), 0);
    assert_int_equal(mp_unpack(&message, &other), 0);
    assert_ptr_equal(one, other);
    assert_int_equal(count_descriptors(), before);
    mp_message_clear(&message);
    check_end(here);
    mp_connection_free(here);
}

/* Keeps an argument, frees it before its call ends and leaves another to the call. */
static int keep_and_free(mp_call *call)
{
    mp_connection *kept, *lent;

    if (mp_unpack(call, &kept, &lent))
        return 99;
    mp_connection_keep(kept);
    if (send_text(kept, "kept") || send_text(lent, "lent"))
        return 1;
    mp_connection_free(kept);
    mp_connection_free(lent);
    return 0;
}

static void arguments_can_be_kept_and_freed(void **state)
{
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = keep_and_free, .args = MP_ARGS(there, there));
    mp_connection_free(there);
    assert_true(brings(here, "kept"));
    assert_true(brings(here, "lent"));
    check_end(here);
    assert_int_equal(finish(p), 0);
    mp_connection_free(here);
}

/* ---- no room for descriptors ---- */

/* Lets this process open exactly one descriptor more. */
static void leave_room_for_one(struct rlimit *old)
{
    struct rlimit tight;
    int lowest = fcntl(0, F_DUPFD_CLOEXEC, 0);

    assert_true(lowest >= 0);
    (void)close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, old), 0);
    tight = *old;
    tight.rlim_cur = (rlim_t)lowest + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
}

static void handles_that_are_lost_leave_the_next_message_alone(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b, *here, *given = NULL;
    struct rlimit old;
    int lost, next, unpacked;
    bool works;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    send_three_handles(a);
    here = give_end(a);
    leave_room_for_one(&old);
    lost = mp_connection_recv(b, &message);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    mp_connection_free(a); /* so that a receive that is out of step does not wait for ever */
    next = mp_connection_recv(b, &message);
    unpacked = mp_unpack(&message, &given);
    works = unpacked == 0 && send_text(given, "mine") == 0 && brings(here, "mine");
    mp_message_clear(&message);
    mp_connection_free(b);
    mp_connection_free(here);
    assert_int_equal(lost, MP_EMFILE);
    assert_int_equal(next, 0);
    assert_true(works);
}

/* ---- what a child does not get ---- */

static void no_child_holds_the_channel_of_one_started_before(void **state)
{
    mp_connection *line_a, *line_b, *here, *there;
    mp_process *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    a = start_process(.target = say_hello, .args = MP_ARGS(there));
    b = start_with_line(wait_for_the_end, &line_b);
    mp_connection_free(there);
    assert_true(brings(here, "hello"));
    check_end(here);
    assert_true(mp_process_is_alive(b));
    mp_connection_free(here);
    assert_int_equal(finish(a), 0);
    a = start_with_line(wait_for_the_end, &line_a);
    mp_connection_free(line_b); /* a, which was started later, must not hold it */
    assert_int_equal(finish(b), 0);
    mp_connection_free(line_a);
    assert_int_equal(finish(a), 0);
}

static void no_child_holds_the_arguments_of_one_described_before(void **state)
{
    mp_connection *line, *here, *there;
    mp_process *described, *other;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    described = mp_process_new(.target = say_hello, .args = MP_ARGS(there));
    assert_non_null(described);
    mp_connection_free(there);
    other = start_with_line(wait_for_the_end, &line);
    (void)support_start(described);
    assert_true(brings(here, "hello"));
    check_end(here);
    assert_true(mp_process_is_alive(other));
    mp_connection_free(line);
    assert_int_equal(finish(other), 0);
    assert_int_equal(finish(described), 0);
    mp_connection_free(here);
}

static void a_child_does_not_hold_the_other_end_of_its_own_channel(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(wait_for_the_end, &line);

    (void)state;
    mp_connection_free(line);
    assert_int_equal(finish(p), 0);
}

static mp_connection *not_passed; /* a fork child has a copy of the variable */

static int use_what_was_not_passed(mp_call *call)
{
    mp_wait_item item = MP_WAIT(not_passed);
    mp_message message = MP_MESSAGE_INIT;

    (void)call;
    if (mp_connection_send(not_passed, 1) != MP_ECLOSED || !mp_connection_closed(not_passed))
        return 1;
    if (!strstr(mp_last_error()->text, "was not passed to") ||
        !strstr(mp_last_error()->text, "arguments"))
        return 2;
    if (mp_connection_recv(not_passed, &message) != MP_ECLOSED ||
        mp_wait(&item, 1, 0) != MP_ECLOSED || mp_connection_fileno(not_passed) != MP_ECLOSED)
        return 3;
    mp_connection_free(not_passed);
    mp_message_clear(&message);
    return 0;
}

static void a_connection_not_passed_is_closed_in_a_fork_child(void **state)
{
    mp_connection *other;

    (void)state;
    assert_int_equal(mp_pipe(&not_passed, &other), 0);
    assert_int_equal(
        finish(start_process(.target = use_what_was_not_passed, .context = mp_get_context("fork"))),
        0);
    assert_int_equal(send_text(not_passed, "open here"), 0);
    assert_true(brings(other, "open here"));
    mp_connection_free(not_passed);
    mp_connection_free(other);
}

/* ---- test_child_fd_inflation, TestCloseFds ---- */

static int tell_descriptors(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line) || mp_connection_send(line, count_descriptors()))
        return 99;
    r = mp_connection_recv(line, &message);
    mp_message_clear(&message);
    return r != MP_EEOF;
}

static void siblings_have_the_same_number_of_descriptors(void **state)
{
    enum { SIBLINGS = 4 };
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *lines[SIBLINGS];
    mp_process *siblings[SIBLINGS];
    int counts[SIBLINGS];

    (void)state;
    for (int i = 0; i < SIBLINGS; i++)
        siblings[i] = start_with_line(tell_descriptors, &lines[i]);
    for (int i = 0; i < SIBLINGS; i++) {
        assert_int_equal(mp_connection_recv(lines[i], &message), 0);
        assert_int_equal(mp_unpack(&message, &counts[i]), 0);
    }
    for (int i = 0; i < SIBLINGS; i++) {
        mp_connection_free(lines[i]);
        assert_int_equal(finish(siblings[i]), 0);
    }
    mp_message_clear(&message);
    for (int i = 1; i < SIBLINGS; i++)
        assert_int_equal(counts[i], counts[0]);
}

static int is_open(mp_call *call)
{
    int fd;

    if (mp_unpack(call, &fd))
        return 99;
    return fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
}

static void a_stray_descriptor_reaches_fork_children_only(void **state)
{
    int stray = fcntl(0, F_DUPFD, 600);

    assert_true(stray >= 600);
    assert_int_equal(finish(start_process(.target = is_open, .args = MP_ARGS(stray))),
        strcmp(*state, "fork") == 0);
    assert_int_equal(close(stray), 0);
}

/* ---- a thread that receives while another one starts children ---- */

typedef struct traffic {
    mp_connection *a, *b, *stranger;
    mp_queue *queue;
    atomic_bool over;
    bool failed;
} traffic;

static void *carry_a_stranger(void *argument)
{
    traffic *t = argument;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *c;

    while (!atomic_load(&t->over) && !t->failed) {
        t->failed = mp_connection_send(t->a, t->stranger) || mp_connection_recv(t->b, &message) ||
                    mp_unpack(&message, &c) || mp_queue_put(t->queue, t->stranger, PATIENCE) ||
                    mp_queue_get(t->queue, &message, PATIENCE);
        mp_message_clear(&message);
    }
    return NULL;
}

static pthread_t begin_traffic(traffic *t, mp_connection **other)
{
    pthread_t thread;

    *t = (traffic){ .queue = mp_queue_new() };
    assert_non_null(t->queue);
    assert_int_equal(mp_pipe(&t->a, &t->b), 0);
    assert_int_equal(mp_pipe(&t->stranger, other), 0);
    assert_int_equal(pthread_create(&thread, NULL, carry_a_stranger, t), 0);
    return thread;
}

static void end_traffic(traffic *t, pthread_t thread, mp_connection *other)
{
    atomic_store(&t->over, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(t->failed);
    mp_queue_free(t->queue);
    mp_connection_free(t->a);
    mp_connection_free(t->b);
    mp_connection_free(t->stranger);
    mp_connection_free(other);
}

/* How many descriptors of that socket there are here. */
static int count_strangers(mp_call *call)
{
    unsigned long long inode;
    int count = 0;

    if (mp_unpack(call, &inode))
        return 99;
    for (int fd = 0; fd < 256; fd++) {
        struct stat status;

        count += fstat(fd, &status) == 0 && status.st_ino == inode;
    }
    return count;
}

static void no_child_has_what_is_just_being_received(void **state)
{
    mp_connection *other;
    traffic t;
    struct stat status;
    pthread_t thread;

    if (HAS_TSAN)
        skip(); /* it cannot follow a fork of a process with threads */
    (void)state;
    thread = begin_traffic(&t, &other);
    assert_int_equal(fstat(mp_connection_fileno(t.stranger), &status), 0);
    for (int i = 0; i < 50; i++)
        assert_int_equal(finish(start_process(.target = count_strangers,
                             .args = MP_ARGS((unsigned long long)status.st_ino))),
            0);
    end_traffic(&t, thread, other);
}

static int do_nothing(mp_call *call)
{
    (void)call;
    return 0;
}

static void *start_often(void *method)
{
    bool good = true;

    for (int i = 0; i < 20 && good; i++) {
        mp_process *p = mp_process_new(.target = do_nothing, .context = mp_get_context(method));

        good = p && mp_process_start(p) == 0 && mp_process_join(p, PATIENCE) == 0 &&
               mp_process_exitcode(p) == 0;
        mp_process_free(p);
    }
    return good ? method : NULL;
}

static void *fork_often(void *argument)
{
    int status = 0;

    for (int i = 0; i < 40 && status == 0; i++) {
        pid_t pid = fork();

        if (pid == 0)
            _exit(0);
        if (waitpid(pid, &status, 0) != pid)
            status = -1;
    }
    return status == 0 ? argument : NULL;
}

/* Forks wait for who receives, who receives for forks, and nobody for ever. */
static void threads_receive_start_and_fork_at_once(void **state)
{
    static char *methods[] = { (char *)"fork", (char *)"spawn", (char *)"forkserver", (char *)"" };
    mp_connection *other;
    traffic t;
    pthread_t receiver, threads[4];

    if (HAS_TSAN)
        skip(); /* it cannot follow a fork of a process with threads */
    (void)state;
    receiver = begin_traffic(&t, &other);
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, i < 3 ? start_often : fork_often, methods[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *seen;

        assert_int_equal(pthread_join(threads[i], &seen), 0);
        assert_ptr_equal(seen, methods[i]);
    }
    end_traffic(&t, receiver, other);
}

static mp_message waiting = MP_MESSAGE_INIT;

static int take_what_waits(mp_call *call)
{
    mp_connection *c;
    int r = mp_unpack(&waiting, &c);

    (void)call;
    return r == 0 ? 1 : mp_last_error()->code != MP_EHANDLE;
}

static void a_handle_not_yet_taken_stays_with_the_parent(void **state)
{
    mp_connection *a, *b, *c;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(a, b), 0);
    assert_int_equal(mp_connection_recv(b, &waiting), 0);
    assert_int_equal(
        finish(start_process(.target = take_what_waits, .context = mp_get_context("fork"))), 0);
    assert_int_equal(mp_unpack(&waiting, &c), 0);
    mp_message_clear(&waiting);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void the_message_that_lends_a_connection_is_not_received_into(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b, *here, *there, *lent;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(a, there), 0);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(mp_unpack(&message, &lent), 0);
    assert_int_equal(mp_connection_send(here, "hello"), 0);
    assert_int_equal(mp_connection_recv(lent, &message), MP_EINVAL);
    mp_connection_keep(lent);
    assert_int_equal(mp_connection_recv(lent, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(lent);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_connection_free(here);
    mp_connection_free(there);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(arguments_bring_connections_of_each_kind),
    UNDER_EACH(connections_may_be_freed_between_describing_and_starting),
    UNDER_EACH(handles_are_found_inside_lists_and_dicts),
    UNDER_EACH(the_same_handle_twice_arrives_as_two),
    UNDER_EACH(connections_travel_through_connections),
    UNDER_EACH(plain_sockets_travel_through_connections),
    UNDER_EACH(a_child_sends_a_connection_to_its_parent),
    UNDER_EACH(one_way_ends_keep_their_direction_when_sent),
    UNDER_EACH(a_received_handle_can_be_sent_on),
    UNDER_EACH(a_file_is_written_through_a_descriptor_in_the_arguments),
    UNDER_EACH(a_file_is_written_through_a_descriptor_in_a_message),
    UNDER_EACH(descriptors_with_large_numbers_travel),
    UNDER_EACH(a_handle_without_its_descriptor_is_an_error),
    UNDER_EACH(arguments_hold_up_to_252_handles),
    UNDER_EACH(a_message_holds_up_to_252_handles),
    ONCE(handles_over_a_one_way_pipe_are_refused),
    ONCE(handles_over_a_tcp_socket_are_refused),
    ONCE(a_connection_with_a_message_half_received_does_not_travel),
    ONCE(clearing_a_message_closes_what_nobody_took),
    ONCE(the_next_receive_closes_what_nobody_took),
    ONCE(receiving_bytes_closes_what_came_with_them),
    ONCE(closing_a_connection_closes_what_came_with_a_pending_message),
    ONCE(a_kept_connection_outlives_its_message),
    ONCE(a_kept_connection_may_be_freed_before_its_message),
    ONCE(freeing_a_lent_connection_only_closes_it),
    ONCE(unpacking_twice_gives_the_same_connection),
    ONCE(the_message_that_lends_a_connection_is_not_received_into),
    UNDER_EACH(arguments_can_be_kept_and_freed),
    ONCE(handles_that_are_lost_leave_the_next_message_alone),
    UNDER_EACH(no_child_holds_the_channel_of_one_started_before),
    UNDER_EACH(no_child_holds_the_arguments_of_one_described_before),
    UNDER_EACH(a_child_does_not_hold_the_other_end_of_its_own_channel),
    ONCE(a_connection_not_passed_is_closed_in_a_fork_child),
    UNDER_EACH(siblings_have_the_same_number_of_descriptors),
    UNDER_EACH(a_stray_descriptor_reaches_fork_children_only),
    UNDER_EACH(no_child_has_what_is_just_being_received),
    ONCE(threads_receive_start_and_fork_at_once),
    ONCE(a_handle_not_yet_taken_stays_with_the_parent),
};

TESTS_MAIN(tests)
