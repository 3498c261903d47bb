/* SPDX-License-Identifier: MIT
 *
 * test_connection.c - whole messages between processes: every size, the bytes on
 * the wire, wrong use, and peers that die. Handles are test_handles.c's business,
 * signals test_interrupt.c's.
 */
#include "support.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define GIB (UINT64_C(1) << 30)

/* ---- bytes ---- */

/* Bytes that differ at every offset and for every seed. */
static void fill(void *data, size_t size, uint32_t seed)
{
    unsigned char *bytes = data;
    uint32_t x = seed * UINT32_C(2654435761) + 1;

    for (size_t i = 0; i < size; i++) {
        x = x * UINT32_C(1664525) + UINT32_C(1013904223);
        bytes[i] = (unsigned char)(x >> 24);
    }
}

static unsigned char *new_filled(size_t size, uint32_t seed)
{
    unsigned char *data = malloc(size + 1);

    assert_non_null(data);
    fill(data, size, seed);
    return data;
}

static int write_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);

        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

/* Reads size bytes, at most step at a time. */
static int read_all(int fd, void *data, size_t size, size_t step)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, (char *)data + done, size - done < step ? size - done : step);

        if (n <= 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

/* A connection whose other end is a bare descriptor, of a socket or pipe. */
static mp_connection *open_to_raw(bool socket, bool sends, int *raw)
{
    mp_connection *connection;
    int fds[2];

    if (socket)
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    else
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    connection = mp_connection_new(&fds[sends ? 1 : 0]);
    assert_non_null(connection);
    *raw = fds[sends ? 0 : 1];
    return connection;
}

/* ---- a child that sends back what it receives ---- */

static int echo(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *in, *out;
    int r;

    if (mp_unpack(call, &in, &out))
        return 99;
    do {
        r = mp_connection_recv_bytes(in, &message, MP_ANY_LENGTH);
        if (r == 0)
            r = mp_connection_send_bytes(out, message.data, message.size);
    } while (r == 0);
    mp_message_clear(&message);
    return r == MP_EEOF ? 0 : 1;
}

typedef struct peer {
    mp_process *process;
    mp_connection *in, *out; /* the same if both directions go through one pipe */
} peer;

static peer start_echo(bool oneway)
{
    mp_connection *theirs_in, *theirs_out;
    peer p;

    if (oneway) {
        assert_int_equal(mp_pipe(&theirs_in, &p.out, .oneway = true), 0);
        assert_int_equal(mp_pipe(&p.in, &theirs_out, .oneway = true), 0);
    } else {
        assert_int_equal(mp_pipe(&p.out, &theirs_in), 0);
        p.in = p.out;
        theirs_out = theirs_in;
    }
    p.process = start_process(.target = echo, .args = MP_ARGS(theirs_in, theirs_out));
    mp_connection_free(theirs_in);
    if (oneway)
        mp_connection_free(theirs_out);
    return p;
}

static void stop_echo(peer *p)
{
    mp_connection_free(p->out);
    if (p->in != p->out)
        mp_connection_free(p->in);
    assert_int_equal(finish(p->process), 0);
}

/* Sends and has it come back unchanged. */
static void there_and_back(const peer *p, const void *data, size_t size, mp_message *message)
{
    assert_int_equal(mp_connection_send_bytes(p->out, data, size), 0);
    assert_int_equal(mp_connection_recv_bytes(p->in, message, MP_ANY_LENGTH), 0);
    assert_int_equal(message->size, size);
    assert_true(size == 0 || memcmp(message->data, data, size) == 0);
}

/* ---- _TestConnection.test_connection ---- */

static void values_come_back_from_a_child(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    peer p = start_echo(false);
    msgpack_object none;
    double real;
    int number;

    (void)state;
    assert_int_equal(mp_connection_send(p.out, mp_list(1, 2.25, mp_none())), 0);
    assert_int_equal(mp_connection_recv(p.in, &message), 0);
    assert_int_equal(mp_unpack(&message, &number, &real, &none), 0);
    assert_int_equal(number, 1);
    assert_true(real == 2.25);
    assert_int_equal(none.type, MSGPACK_OBJECT_NIL);
    mp_message_clear(&message);
    stop_echo(&p);
}

static void bytes_come_back_from_a_child(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    peer p = start_echo(false);

    (void)state;
    there_and_back(&p, "hello", 5, &message);
    there_and_back(&p, "\0\0with NUL\0", 11, &message);
    mp_message_clear(&message);
    stop_echo(&p);
}

static void bytes_are_received_into_a_buffer_of_the_caller(void **state)
{
    int sent[10] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 }, exact[10], roomy[12] = { 0 };
    peer p = start_echo(false);
    size_t size = 0;

    (void)state;
    roomy[10] = roomy[11] = -1;
    assert_int_equal(mp_connection_send_bytes(p.out, sent, sizeof(sent)), 0);
    assert_int_equal(mp_connection_send_bytes(p.out, sent, sizeof(sent)), 0);
    assert_int_equal(mp_connection_recv_bytes_into(p.in, exact, sizeof(exact), &size), 0);
    assert_int_equal(size, sizeof(sent));
    assert_memory_equal(exact, sent, sizeof(sent));
    assert_int_equal(mp_connection_recv_bytes_into(p.in, roomy, sizeof(roomy), &size), 0);
    assert_int_equal(size, sizeof(sent));
    assert_memory_equal(roomy, sent, sizeof(sent));
    assert_int_equal(roomy[10], -1);
    assert_int_equal(roomy[11], -1);
    stop_echo(&p);
}

static void what_does_not_fit_into_the_buffer_stays_pending(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    peer p = start_echo(false);
    char buffer[39] = "untouched";
    size_t size = 0;

    (void)state;
    assert_int_equal(
        mp_connection_send_bytes(p.out, "forty bytes, which are one more than 39.", 40), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_connection_recv_bytes_into(p.in, buffer, 39, &size), MP_ETOOSHORT);
        assert_int_equal(size, 40);
        assert_string_equal(buffer, "untouched");
        assert_int_equal(mp_connection_poll(p.in, 0), 1);
        size = 0;
    }
    assert_int_equal(mp_connection_recv_bytes(p.in, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, 40);
    assert_memory_equal(message.data, "forty bytes, which are one more than 39.", 40);
    there_and_back(&p, "in step", 7, &message);
    mp_message_clear(&message);
    stop_echo(&p);
}

static void poll_waits_for_a_message_and_leaves_it_there(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    peer p = start_echo(false);

    (void)state;
    assert_int_equal(mp_connection_poll(p.in, 0), 0);
    assert_int_equal(mp_connection_poll(p.in, -1), 0);
    assert_int_equal(mp_connection_poll(p.in, NAN), 0);
    assert_int_equal(mp_connection_poll(p.in, 0.01), 0);
    assert_int_equal(mp_connection_send(p.out, mp_none()), 0);
    assert_int_equal(mp_connection_poll(p.in, PATIENCE), 1);
    assert_int_equal(mp_connection_poll(p.in, MP_FOREVER), 1);
    assert_int_equal(mp_connection_poll(p.in, -1), 1);
    assert_int_equal(mp_connection_recv(p.in, &message), 0);
    assert_int_equal(mp_connection_poll(p.in, 0), 0);
    mp_message_clear(&message);
    stop_echo(&p);
}

static void sixteen_mebibytes_come_back_from_a_child(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    peer p = start_echo(false);
    char *data = malloc(16 * MIB);

    (void)state;
    assert_non_null(data);
    memset(data, 'X', 16 * MIB);
    there_and_back(&p, data, 16 * MIB, &message);
    free(data);
    mp_message_clear(&message);
    stop_echo(&p);
}

static int say_bye(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) || mp_connection_send(line, "bye");
}

static void the_end_of_the_child_is_the_end_of_the_stream(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = say_bye, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mp_connection_recv(here, &message), MP_EEOF);
        assert_int_equal(mp_connection_poll(here, MP_FOREVER), 1);
    }
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
}

/* ---- the other tests of _TestConnection ---- */

static void one_way_pipes_know_their_direction(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *receiver, *sender;
    char buffer[4];
    size_t size;

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    assert_true(mp_connection_readable(receiver));
    assert_false(mp_connection_writable(receiver));
    assert_false(mp_connection_readable(sender));
    assert_true(mp_connection_writable(sender));
    assert_int_equal(mp_connection_send(receiver, 1), MP_EDIRECTION);
    assert_int_equal(mp_connection_send_bytes(receiver, "x", 1), MP_EDIRECTION);
    assert_int_equal(mp_connection_recv(sender, &message), MP_EDIRECTION);
    assert_int_equal(mp_connection_recv_bytes(sender, &message, 9), MP_EDIRECTION);
    assert_int_equal(mp_connection_recv_bytes_into(sender, buffer, 4, &size), MP_EDIRECTION);
    assert_int_equal(mp_connection_poll(sender, 0), MP_EDIRECTION);
    assert_int_equal(mp_connection_send(sender, 1), 0);
    assert_int_equal(mp_connection_recv(receiver, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(receiver);
    mp_connection_free(sender);
}

static void both_ends_of_a_two_way_pipe_send_and_receive(void **state)
{
    mp_connection *ends[2];
    mp_message message = MP_MESSAGE_INIT;
    int number;

    (void)state;
    assert_int_equal(mp_pipe(&ends[0], &ends[1]), 0);
    for (int i = 0; i < 2; i++) {
        assert_true(mp_connection_readable(ends[i]));
        assert_true(mp_connection_writable(ends[i]));
        assert_int_equal(mp_connection_send(ends[i], i + 10), 0);
        assert_int_equal(mp_connection_recv(ends[1 - i], &message), 0);
        assert_int_equal(mp_unpack(&message, &number), 0);
        assert_int_equal(number, i + 10);
    }
    mp_message_clear(&message);
    mp_connection_free(ends[0]);
    mp_connection_free(ends[1]);
}

static int send_back_one(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line))
        return 99;
    r = mp_connection_recv(line, &message);
    if (r == 0)
        r = mp_connection_send(line, message.value);
    mp_message_clear(&message);
    return r < 0;
}

static void the_parent_may_close_the_end_of_its_child_right_after_start(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    const char *word;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = send_back_one, .args = MP_ARGS(there));
    mp_connection_close(there);
    assert_int_equal(mp_connection_send(here, "hello"), 0);
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &word), 0);
    assert_string_equal(word, "hello");
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

static void receive_text(mp_connection *connection, const char *wanted)
{
    mp_message message = MP_MESSAGE_INIT;

    assert_int_equal(mp_connection_recv_bytes(connection, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, strlen(wanted));
    assert_memory_equal(message.data, wanted, strlen(wanted));
    mp_message_clear(&message);
}

static void any_slice_of_bytes_is_a_message(void **state)
{
    const char *alphabet = "abcdefghijklmnopqrstuvwxyz";
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send_bytes(a, alphabet, 26), 0);
    receive_text(b, alphabet);
    assert_int_equal(mp_connection_send_bytes(a, alphabet + 5, 21), 0);
    receive_text(b, alphabet + 5);
    assert_int_equal(mp_connection_send_bytes(a, alphabet + 7, 8), 0);
    receive_text(b, "hijklmno");
    assert_int_equal(mp_connection_send_bytes(a, alphabet + 26, 0), 0);
    receive_text(b, "");
    assert_int_equal(mp_connection_send_bytes(a, NULL, 0), 0);
    receive_text(b, "");
    assert_int_equal(mp_connection_send_bytes(a, NULL, 1), MP_EINVAL);
    assert_int_equal(mp_connection_poll(b, 0), 0);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void use_after_close_is_an_error(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    char buffer[4];
    size_t size;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_false(mp_connection_closed(a));
    mp_connection_close(a);
    mp_connection_close(a);
    assert_true(mp_connection_closed(a));
    assert_int_equal(mp_connection_send(a, 2), MP_ECLOSED);
    assert_int_equal(mp_connection_send_bytes(a, "", 0), MP_ECLOSED);
    assert_int_equal(mp_connection_recv(a, &message), MP_ECLOSED);
    assert_int_equal(mp_connection_recv_bytes(a, &message, 1), MP_ECLOSED);
    assert_int_equal(mp_connection_recv_bytes_into(a, buffer, 4, &size), MP_ECLOSED);
    assert_int_equal(mp_connection_poll(a, MP_FOREVER), MP_ECLOSED);
    assert_int_equal(mp_connection_fileno(a), MP_ECLOSED);
    assert_int_equal(mp_connection_send(b, mp_list(a)), MP_ECLOSED);
    assert_int_equal(mp_connection_recv(b, &message), MP_EEOF);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_message_clear(&message);
}

static void null_is_an_error_and_may_be_freed(void **state)
{
    mp_connection *a = NULL;
    mp_message message = MP_MESSAGE_INIT;

    (void)state;
    assert_int_equal(mp_pipe(&a, NULL), MP_EINVAL);
    assert_null(a);
    assert_int_equal(mp_connection_send(a, 1), MP_EINVAL);
    assert_int_equal(mp_connection_recv(a, &message), MP_EINVAL);
    assert_int_equal(mp_connection_poll(a, 0), MP_EINVAL);
    assert_int_equal(mp_connection_fileno(a), MP_EINVAL);
    mp_connection_close(a);
    mp_connection_free(a);
    mp_message_clear(&message);
}

static void a_length_above_the_bound_leaves_the_message_pending(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send_bytes(a, "earlier", 7), 0);
    assert_int_equal(mp_connection_recv_bytes(b, &message, 7), 0);
    assert_int_equal(mp_connection_send_bytes(a, "12345678", 8), 0);
    assert_int_equal(mp_connection_recv_bytes(b, &message, 7), MP_ETOOLONG);
    assert_int_equal(mp_connection_recv_bytes(b, &message, 0), MP_ETOOLONG);
    assert_int_equal(message.size, 7);
    assert_memory_equal(message.data, "earlier", 7);
    assert_int_equal(mp_connection_recv_bytes(b, &message, 8), 0);
    assert_memory_equal(message.data, "12345678", 8);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void a_message_above_the_limit_stays_pending_until_the_limit_allows_it(void **state)
{
    char buffer[100];
    size_t size = 0;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(a, mp_bytes(buffer, sizeof(buffer) - 2)), 0);
    assert_int_equal(mp_set_limits(&(mp_limits){ .message_bytes = 99 }), 0);
    assert_int_equal(mp_connection_recv(b, &message), MP_ETOOLONG);
    assert_int_equal(mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH), MP_ETOOLONG);
    assert_int_equal(mp_connection_recv_bytes_into(b, buffer, 100, &size), MP_ETOOLONG);
    assert_int_equal(mp_set_limits(&(mp_limits){ .message_bytes = 16 * GIB }), 0);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* ---- _TestPoll ---- */

static void an_empty_message_is_seen_by_poll(void **state)
{
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_poll(a, 0), 0);
    assert_int_equal(mp_connection_send_bytes(b, "", 0), 0);
    assert_int_equal(mp_connection_poll(a, 0), 1);
    assert_int_equal(mp_connection_poll(a, 0), 1);
    receive_text(a, "");
    assert_int_equal(mp_connection_poll(a, 0), 0);
    mp_connection_free(a);
    mp_connection_free(b);
}

static const char *const words[] = { "hello", "", "a", "b", "", "bye", "", "lop" };
#define WORDS (sizeof(words) / sizeof(*words))

static int send_words(mp_call *call)
{
    mp_connection *line;
    int r = mp_unpack(call, &line) ? 99 : 0;

    for (size_t i = 0; i < WORDS && r == 0; i++)
        r = mp_connection_send_bytes(line, words[i], strlen(words[i])) < 0;
    return r;
}

static void empty_and_other_messages_keep_their_order(void **state)
{
    mp_connection *receiver, *sender;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender), 0);
    p = start_process(.target = send_words, .args = MP_ARGS(sender));
    for (size_t i = 0; i < WORDS; i++) {
        assert_int_equal(mp_connection_poll(receiver, PATIENCE), 1);
        receive_text(receiver, words[i]);
    }
    assert_int_equal(finish(p), 0);
    mp_connection_free(receiver);
    mp_connection_free(sender);
}

static int only_poll(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) || mp_connection_poll(line, MP_FOREVER) != 1;
}

static void polling_consumes_nothing(void **state)
{
    mp_connection *receiver, *sender;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    p = start_process(.target = only_poll, .args = MP_ARGS(receiver));
    assert_int_equal(mp_connection_send_bytes(sender, "first", 5), 0);
    assert_int_equal(mp_connection_send_bytes(sender, "second", 6), 0);
    assert_int_equal(finish(p), 0);
    receive_text(receiver, "first");
    receive_text(receiver, "second");
    mp_connection_free(receiver);
    mp_connection_free(sender);
}

static int send_three(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line))
        return 99;
    return mp_connection_send_bytes(line, "a", 1) || mp_connection_send_bytes(line, "b", 1) ||
           mp_connection_send_bytes(line, "cd", 2);
}

static void adjacent_messages_are_not_merged(void **state)
{
    static const char *const wanted[] = { "a", "b", "cd" };
    mp_connection *receiver, *sender;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    p = start_process(.target = send_three, .args = MP_ARGS(sender));
    assert_int_equal(finish(p), 0);
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k <= i; k++)
            assert_int_equal(mp_connection_poll(receiver, 0), 1);
        receive_text(receiver, wanted[i]);
    }
    assert_int_equal(mp_connection_poll(receiver, 0), 0);
    mp_connection_free(receiver);
    mp_connection_free(sender);
}

/* ---- the bytes on the wire ---- */

static void check_sent(bool socket, const char *payload, const char *frame, size_t size)
{
    char got[64];
    int raw;
    mp_connection *c = open_to_raw(socket, true, &raw);

    assert_int_equal(mp_connection_send_bytes(c, payload, size - 4), 0);
    mp_connection_free(c);
    assert_int_equal(read(raw, got, sizeof(got)), size);
    assert_memory_equal(got, frame, size);
    (void)close(raw);
}

static void a_frame_is_a_big_endian_length_and_the_bytes(void **state)
{
    char buffer[300] = { 0 }, got[305];
    int raw;
    mp_connection *c = open_to_raw(true, true, &raw);

    (void)state;
    for (int socket = 0; socket < 2; socket++) {
        check_sent(socket, "", "\0\0\0\0", 4);
        check_sent(socket, "abc", "\0\0\0\3abc", 7);
    }
    assert_int_equal(mp_connection_send_bytes(c, buffer, 300), 0);
    assert_int_equal(read(raw, got, sizeof(got)), 304);
    assert_memory_equal(got, "\0\0\1\x2c", 4);
    mp_connection_free(c);
    (void)close(raw);
}

static void the_long_form_is_accepted_for_small_messages(void **state)
{
    (void)state;
    for (int socket = 0; socket < 2; socket++) {
        int raw;
        mp_connection *c = open_to_raw(socket, false, &raw);

        assert_int_equal(write_all(raw, "\xff\xff\xff\xff\0\0\0\0\0\0\0\3abc", 15), 0);
        assert_int_equal(write_all(raw, "\xff\xff\xff\xff\0\0\0\0\0\0\0\0", 12), 0);
        assert_int_equal(write_all(raw, "\0\0\0\1x", 5), 0);
        receive_text(c, "abc");
        receive_text(c, "");
        receive_text(c, "x");
        mp_connection_free(c);
        (void)close(raw);
    }
}

/* Sends zeros that were never touched: that takes no memory. The parent reads only the header. */
static int send_zeros(mp_call *call)
{
    mp_connection *line;
    size_t size;
    void *zeros;

    if (mp_unpack(call, &line, &size))
        return 99;
    zeros = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zeros == MAP_FAILED)
        return 98;
    return mp_connection_send_bytes(line, zeros, size) != MP_EPIPE;
}

static void check_header(size_t size, const char *header, size_t header_size)
{
    mp_connection *receiver, *sender;
    char got[12];
    mp_process *p;

    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = true), 0);
    p = start_process(.target = send_zeros, .args = MP_ARGS(sender, size));
    mp_connection_free(sender);
    assert_int_equal(read_all(mp_connection_fileno(receiver), got, header_size, header_size), 0);
    assert_memory_equal(got, header, header_size);
    mp_connection_free(receiver);
    assert_int_equal(finish(p), 0);
}

static void the_long_form_is_sent_from_two_gibibytes_on(void **state)
{
    (void)state;
    if (!HAS_64_BITS)
        skip(); /* no memory is that long */
    check_header(0x7fffffff, "\x7f\xff\xff\xff\0\0\0\0", 8);
    check_header(0x80000000, "\xff\xff\xff\xff\0\0\0\0\x80\0\0\0", 12);
    check_header((size_t)UINT64_C(0x123456789), "\xff\xff\xff\xff\0\0\0\1\x23\x45\x67\x89", 12);
}

struct stream {
    const char *bytes;
    size_t size;
    int code;
};

static void check_stream(bool socket, const struct stream *s)
{
    mp_message message = MP_MESSAGE_INIT;
    char buffer[16];
    size_t size;
    int raw;
    mp_connection *c = open_to_raw(socket, false, &raw);

    assert_int_equal(write_all(raw, s->bytes, s->size), 0);
    (void)close(raw);
    assert_int_equal(mp_connection_recv_bytes(c, &message, MP_ANY_LENGTH), s->code);
    assert_int_equal(mp_connection_recv_bytes(c, &message, MP_ANY_LENGTH), s->code);
    assert_int_equal(mp_connection_recv_bytes_into(c, buffer, sizeof(buffer), &size), s->code);
    assert_int_equal(mp_connection_recv(c, &message), s->code);
    mp_connection_free(c);
    mp_message_clear(&message);
}

static void a_stream_that_ends_or_errs_inside_a_message_is_broken_for_good(void **state)
{
    static const struct stream streams[] = {
        { "", 0, MP_EEOF },
        { "\0", 1, MP_ETRUNCATED },
        { "\0\0\0", 3, MP_ETRUNCATED },
        { "\0\0\0\3", 4, MP_ETRUNCATED },
        { "\0\0\0\3ab", 6, MP_ETRUNCATED },
        { "\xff\xff\xff\xff", 4, MP_ETRUNCATED },
        { "\xff\xff\xff\xff\0\0\0\0\0\0\0", 11, MP_ETRUNCATED },
        { "\xff\xff\xff\xff\0\0\0\0\0\0\0\3ab", 14, MP_ETRUNCATED },
        { "\x80\0\0\0\0\0\0\0", 8, MP_EPROTOCOL },
        { "\xff\xff\xff\xfe\0\0\0\0", 8, MP_EPROTOCOL },
    };

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(streams) / sizeof(*streams); i++)
        check_stream(i % 2, &streams[i / 2]);
}

static void bytes_that_are_no_value_end_one_message_only(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    int number = 0;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send_bytes(a, "\xc1", 1), 0);
    assert_int_equal(mp_connection_send_bytes(a, "", 0), 0);
    assert_int_equal(mp_connection_send(a, 42), 0);
    assert_int_equal(mp_connection_recv(b, &message), MP_EPROTOCOL);
    assert_int_equal(mp_connection_recv(b, &message), MP_EPROTOCOL);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(mp_unpack(&message, &number), 0);
    assert_int_equal(number, 42);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* ---- sizes ---- */

static void check_sizes(bool oneway)
{
    static const size_t sizes[] = { 0, 1, 2, 255, 256, PIPE_BUF - 5, PIPE_BUF - 4, PIPE_BUF - 3,
        PIPE_BUF, PIPE_BUF + 1, 16 * KIB, 16 * KIB + 1, 64 * KIB - 5, 64 * KIB - 4, 64 * KIB - 3,
        64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7 };
    mp_message message = MP_MESSAGE_INIT;
    peer p = start_echo(oneway);

    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        unsigned char *data = new_filled(sizes[i], (uint32_t)i);

        there_and_back(&p, data, sizes[i], &message);
        free(data);
    }
    mp_message_clear(&message);
    stop_echo(&p);
}

static void messages_of_all_sizes_pass_both_ways(void **state)
{
    (void)state;
    check_sizes(false);
    check_sizes(true);
}

static void a_hundred_mebibytes_pass_both_kinds_of_pipe(void **state)
{
    unsigned char *data = new_filled(100 * MIB, 1);

    (void)state;
    for (int oneway = 0; oneway < 2; oneway++) {
        mp_message message = MP_MESSAGE_INIT;
        peer p = start_echo(oneway);

        there_and_back(&p, data, 100 * MIB, &message);
        mp_message_clear(&message);
        stop_echo(&p);
    }
    free(data);
}

/* Counts words that are wrong, so that no offset can be mixed up with another. */
static size_t count_wrong(const uint64_t *data, size_t count)
{
    size_t wrong = 0;

    for (size_t i = 0; i < count; i++)
        wrong += data[i] != i * UINT64_C(0x9e3779b97f4a7c15);
    return wrong;
}

static int check_giant(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line))
        return 99;
    r = mp_connection_recv_bytes(line, &message, MP_ANY_LENGTH);
    if (r == 0)
        r = mp_connection_send(
            line, mp_list(message.size, count_wrong(message.data, message.size / 8)));
    mp_message_clear(&message);
    return r < 0;
}

static uint64_t available_memory(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[256];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (file)
        (void)fclose(file);
    return kib * 1024;
}

static void skip_unless_there_is_room_for(size_t size)
{
    const char *wanted = getenv("MP_TEST_BIG");
    const char *reason = NULL;

    if (!wanted || strcmp(wanted, "1") != 0)
        reason = "MP_TEST_BIG=1 is not set";
    else if (HAS_ASAN || HAS_TSAN)
        reason = "a sanitizer takes a multiple of the memory";
    else if (available_memory() < 3 * size)
        reason = "less than three times the memory is available";
    if (!reason)
        return;
    print_message("skipped: a message of %zu bytes, because %s\n", size, reason);
    skip();
}

static mp_process *send_giant(mp_connection *here, mp_connection *there, size_t size)
{
    uint64_t *data = malloc(size);
    mp_process *p = start_process(.target = check_giant, .args = MP_ARGS(there));

    assert_non_null(data);
    for (size_t i = 0; i < size / 8; i++)
        data[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    memset((char *)data + size / 8 * 8, 0, size % 8);
    assert_int_equal(mp_connection_send_bytes(here, data, size), 0);
    free(data);
    return p;
}

static void check_giant_message(size_t size)
{
    mp_message answer = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    size_t arrived, wrong;
    mp_process *p;

    skip_unless_there_is_room_for(size);
    support_allow(600);
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = send_giant(here, there, size);
    mp_connection_free(there);
    assert_int_equal(mp_connection_recv(here, &answer), 0);
    assert_int_equal(mp_unpack(&answer, &arrived, &wrong), 0);
    assert_int_equal(arrived, size);
    assert_int_equal(wrong, 0);
    assert_int_equal(finish(p), 0);
    mp_message_clear(&answer);
    mp_connection_free(here);
}

static void three_gibibytes_are_one_message(void **state)
{
    (void)state;
    if (!HAS_64_BITS)
        skip();
    check_giant_message((size_t)(3 * GIB));
}

static void more_than_four_gibibytes_are_one_message(void **state)
{
    (void)state;
    if (!HAS_64_BITS)
        skip();
    check_giant_message((size_t)(4 * GIB + 5));
}

/* ---- how the bytes move ---- */

static int read_slowly(mp_call *call)
{
    unsigned char *got = malloc(MIB + 4), *wanted = malloc(MIB);
    mp_connection *line;
    int r = 0;

    if (!got || !wanted || mp_unpack(call, &line))
        r = 99;
    else if (read_all(mp_connection_fileno(line), got, MIB + 4, 997) < 0)
        r = 1;
    if (r == 0) {
        fill(wanted, MIB, 3);
        r = memcmp(got, "\0\x10\0\0", 4) != 0 ? 2 : memcmp(got + 4, wanted, MIB) != 0 ? 3 : 0;
    }
    free(got);
    free(wanted);
    return r;
}

static void check_slow_reader(bool oneway)
{
    unsigned char *data = new_filled(MIB, 3);
    mp_connection *receiver, *sender;
    mp_process *p;

    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = oneway), 0);
    if (!oneway)
        assert_int_equal(setsockopt(mp_connection_fileno(sender), SOL_SOCKET, SO_SNDBUF,
                             &(int){ 4096 }, sizeof(int)),
            0);
    p = start_process(.target = read_slowly, .args = MP_ARGS(receiver));
    mp_connection_free(receiver);
    assert_int_equal(mp_connection_send_bytes(sender, data, MIB), 0);
    assert_int_equal(finish(p), 0);
    mp_connection_free(sender);
    free(data);
}

static void a_slow_reader_gets_every_byte_of_partial_writes(void **state)
{
    (void)state;
    check_slow_reader(false);
    check_slow_reader(true);
}

static void become_non_blocking(mp_connection *c)
{
    int fd = mp_connection_fileno(c);
    int flags = fcntl(fd, F_GETFL);

    assert_true(flags >= 0);
    assert_int_equal(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
}

/* A child waits on an empty descriptor before anything is sent, and the mode travels with it. */
static void check_non_blocking(bool oneway)
{
    unsigned char *data = new_filled(MIB, 4);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *ends[4];
    mp_process *p;

    assert_int_equal(mp_pipe(&ends[0], &ends[1], .oneway = oneway), 0);
    assert_int_equal(mp_pipe(&ends[2], &ends[3], .oneway = oneway), 0);
    for (int i = 0; i < 4; i++)
        become_non_blocking(ends[i]);
    p = start_process(.target = echo, .args = MP_ARGS(ends[0], ends[3]));
    mp_connection_free(ends[0]);
    mp_connection_free(ends[3]);
    there_and_back(&(peer){ .out = ends[1], .in = ends[2] }, data, MIB, &message);
    mp_connection_free(ends[1]);
    assert_int_equal(finish(p), 0);
    mp_connection_free(ends[2]);
    mp_message_clear(&message);
    free(data);
}

static void non_blocking_descriptors_work(void **state)
{
    (void)state;
    check_non_blocking(false);
    check_non_blocking(true);
}

static void the_memory_of_a_message_is_used_again(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    unsigned char *data = new_filled(32 * KIB, 5);
    const void *first = NULL;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    for (size_t i = 0; i < 100; i++) {
        there_and_back(&(peer){ .out = a, .in = b }, data, i % 2 ? 10 : 32 * KIB, &message);
        if (!first)
            first = message.data;
        assert_ptr_equal(message.data, first);
    }
    mp_message_clear(&message);
    assert_null(message.data);
    assert_int_equal(message.size, 0);
    mp_connection_free(a);
    mp_connection_free(b);
    free(data);
}

/* ---- many threads ---- */

enum { SENDERS = 4, RECEIVERS = 3, EACH = 150, LONGEST = 70000 };

struct head {
    uint32_t sender, serial, size;
};

static struct {
    mp_connection *out, *in;
    atomic_uint serials; /* gives each sending thread its number */
    atomic_int seen[SENDERS][EACH];
    atomic_int torn;
    bool polls;
} traffic;

static unsigned char filling(const struct head *head)
{
    return (unsigned char)(head->sender * 61 + head->serial);
}

static void *send_many(void *unused)
{
    static const uint32_t sizes[] = { sizeof(struct head), 100, 5000, LONGEST };
    unsigned char *data = malloc(LONGEST);
    struct head head = { .sender = atomic_fetch_add(&traffic.serials, 1) };

    (void)unused;
    for (head.serial = 0; data && head.serial < EACH; head.serial++) {
        head.size = sizes[(head.serial + head.sender) % 4];
        memset(data, filling(&head), head.size);
        memcpy(data, &head, sizeof(head));
        if (mp_connection_send_bytes(traffic.out, data, head.size) < 0)
            atomic_fetch_add(&traffic.torn, 1);
    }
    free(data);
    return NULL;
}

static void judge(const mp_message *message)
{
    const unsigned char *data = message->data;
    struct head head = { 0 };
    bool whole = message->size >= sizeof(head);

    if (whole)
        memcpy(&head, data, sizeof(head));
    whole = whole && head.size == message->size && head.sender < SENDERS && head.serial < EACH;
    for (size_t i = sizeof(head); whole && i < message->size; i++)
        whole = data[i] == filling(&head);
    if (whole)
        atomic_fetch_add(&traffic.seen[head.sender][head.serial], 1);
    else
        atomic_fetch_add(&traffic.torn, 1);
}

static int look(void)
{
    mp_wait_item item = MP_WAIT(traffic.in);
    int r = mp_connection_poll(traffic.in, 0);

    return r < 0 ? r : mp_wait(&item, 1, 0);
}

static void *receive_many(void *unused)
{
    mp_message message = MP_MESSAGE_INIT;
    int r;

    (void)unused;
    while ((r = mp_connection_recv_bytes(traffic.in, &message, MP_ANY_LENGTH)) == 0) {
        judge(&message);
        if (traffic.polls && look() < 0)
            atomic_fetch_add(&traffic.torn, 1);
    }
    if (r != MP_EEOF)
        atomic_fetch_add(&traffic.torn, 1);
    mp_message_clear(&message);
    return NULL;
}

static void run_traffic(bool oneway)
{
    pthread_t threads[SENDERS + RECEIVERS];

    memset(&traffic.seen, 0, sizeof(traffic.seen));
    atomic_store(&traffic.serials, 0);
    atomic_store(&traffic.torn, 0);
    assert_int_equal(mp_pipe(&traffic.in, &traffic.out, .oneway = oneway), 0);
    for (int i = 0; i < SENDERS + RECEIVERS; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, i < SENDERS ? send_many : receive_many, NULL), 0);
    for (int i = 0; i < SENDERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    mp_connection_free(traffic.out);
    for (int i = SENDERS; i < SENDERS + RECEIVERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    mp_connection_free(traffic.in);
}

static void check_traffic(bool oneway, bool polls)
{
    traffic.polls = polls;
    run_traffic(oneway);
    assert_int_equal(traffic.torn, 0);
    for (int i = 0; i < SENDERS * EACH; i++)
        assert_int_equal(traffic.seen[i / EACH][i % EACH], 1);
}

static void threads_share_a_connection_and_messages_stay_whole(void **state)
{
    (void)state;
    check_traffic(false, false);
    check_traffic(true, false);
}

static void threads_poll_while_others_receive(void **state)
{
    (void)state;
    check_traffic(false, true);
    check_traffic(true, true);
}

/* ---- peers that die ---- */

static volatile sig_atomic_t sigpipes;

static void count_sigpipe(int sig)
{
    (void)sig;
    sigpipes++;
}

static void catch_sigpipe(struct sigaction *old)
{
    struct sigaction action = { .sa_handler = count_sigpipe };

    sigpipes = 0;
    assert_int_equal(sigaction(SIGPIPE, &action, old), 0);
}

static int send_to_nobody(bool oneway)
{
    mp_connection *receiver, *sender;
    int r;

    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = oneway), 0);
    mp_connection_free(receiver);
    r = mp_connection_send_bytes(sender, "x", 1);
    mp_connection_free(sender);
    return r;
}

static void sending_to_nobody_is_an_error_and_no_signal(void **state)
{
    struct sigaction old;
    sigset_t mask;

    (void)state;
    catch_sigpipe(&old);
    assert_int_equal(send_to_nobody(false), MP_EPIPE);
    assert_int_equal(send_to_nobody(true), MP_EPIPE);
    assert_int_equal(sigpipes, 0);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &mask), 0);
    assert_false(sigismember(&mask, SIGPIPE));
    assert_int_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

static bool sigpipe_is_pending(void)
{
    sigset_t pending;

    assert_int_equal(sigpending(&pending), 0);
    return sigismember(&pending, SIGPIPE) == 1;
}

/* The signals of the program are left as they were: blocked, and pending or not. */
static void check_blocked(bool oneway, bool pending)
{
    sigset_t pipe_only, old;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, &pipe_only, &old), 0);
    if (pending)
        assert_int_equal(raise(SIGPIPE), 0);
    assert_int_equal(send_to_nobody(oneway), MP_EPIPE);
    assert_int_equal(sigpipe_is_pending(), pending);
    while (sigpipe_is_pending())
        assert_int_equal(sigtimedwait(&pipe_only, NULL, &(struct timespec){ 0 }), SIGPIPE);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
}

static void a_blocked_sigpipe_does_not_become_pending(void **state)
{
    struct sigaction old;

    (void)state;
    catch_sigpipe(&old);
    check_blocked(false, false);
    check_blocked(true, false);
    assert_int_equal(sigpipes, 0);
    assert_int_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

static void a_pending_sigpipe_stays_pending(void **state)
{
    struct sigaction old;

    (void)state;
    catch_sigpipe(&old);
    check_blocked(false, true);
    check_blocked(true, true);
    assert_int_equal(sigpipes, 0);
    assert_int_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

static int end_without_reading(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) != 0;
}

static void check_peer_that_ended(bool oneway)
{
    mp_connection *receiver, *sender;
    mp_process *p;

    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = oneway), 0);
    p = start_process(.target = end_without_reading, .args = MP_ARGS(receiver));
    mp_connection_free(receiver);
    assert_int_equal(finish(p), 0);
    assert_int_equal(mp_connection_send(sender, "anybody there?"), MP_EPIPE);
    assert_int_equal(mp_connection_send_bytes(sender, "no", 2), MP_EPIPE);
    mp_connection_free(sender);
}

static void sending_to_a_child_that_ended_is_an_error_and_no_signal(void **state)
{
    struct sigaction old;

    (void)state;
    catch_sigpipe(&old);
    check_peer_that_ended(false);
    check_peer_that_ended(true);
    assert_int_equal(sigpipes, 0);
    assert_int_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

/* It has the beginning of a message, and the sender is in the middle of the rest. */
static int read_a_little_and_be_killed(mp_call *call)
{
    mp_connection *line;
    char some[100];

    if (mp_unpack(call, &line) || read_all(mp_connection_fileno(line), some, sizeof(some), 7) < 0)
        return 99;
    return raise(SIGKILL);
}

static void check_peer_killed_while_reading(bool oneway)
{
    unsigned char *data = new_filled(16 * MIB, 6);
    mp_connection *receiver, *sender;
    mp_process *p;
    int r;

    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = oneway), 0);
    p = start_process(.target = read_a_little_and_be_killed, .args = MP_ARGS(receiver));
    mp_connection_free(receiver);
    r = mp_connection_send_bytes(sender, data, 16 * MIB);
    assert_true(r == MP_EPIPE || r == MP_ECONNRESET);
    assert_int_equal(mp_connection_send_bytes(sender, data, 1), MP_EPIPE);
    assert_int_equal(finish(p), -SIGKILL);
    mp_connection_free(sender);
    free(data);
}

static void a_peer_killed_inside_a_long_message_ends_the_send(void **state)
{
    struct sigaction old;

    (void)state;
    catch_sigpipe(&old);
    check_peer_killed_while_reading(false);
    check_peer_killed_while_reading(true);
    assert_int_equal(sigpipes, 0);
    assert_int_equal(sigaction(SIGPIPE, &old, NULL), 0);
}

static int write_half_and_be_killed(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || mp_connection_send_bytes(line, "whole", 5) ||
        write_all(mp_connection_fileno(line), "\0\0\0\5ha", 6) < 0)
        return 99;
    return raise(SIGKILL);
}

static void check_peer_killed_while_writing(bool oneway)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *receiver, *sender;
    mp_process *p;

    assert_int_equal(mp_pipe(&receiver, &sender, .oneway = oneway), 0);
    p = start_process(.target = write_half_and_be_killed, .args = MP_ARGS(sender));
    mp_connection_free(sender);
    receive_text(receiver, "whole");
    assert_int_equal(mp_connection_recv_bytes(receiver, &message, MP_ANY_LENGTH), MP_ETRUNCATED);
    assert_int_equal(mp_connection_recv_bytes(receiver, &message, MP_ANY_LENGTH), MP_ETRUNCATED);
    assert_int_equal(finish(p), -SIGKILL);
    mp_connection_free(receiver);
    mp_message_clear(&message);
}

static void a_peer_killed_inside_its_message_truncates_the_stream(void **state)
{
    (void)state;
    check_peer_killed_while_writing(false);
    check_peer_killed_while_writing(true);
}

/* The kernel reports that our bytes were lost, once; then it is the end of the stream. */
static void a_peer_that_leaves_messages_unread_ends_the_stream(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_process *p;
    int r;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(mp_connection_send(here, "never read"), 0);
    p = start_process(.target = end_without_reading, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(finish(p), 0);
    r = mp_connection_recv(here, &message);
    assert_true(r == MP_ECONNRESET || r == MP_EEOF);
    assert_int_equal(mp_connection_recv(here, &message), MP_EEOF);
    mp_connection_free(here);
    mp_message_clear(&message);
}

/* ---- a peer that is Python ---- */

static const char python_peer[] = "import sys\n"
                                  "from multiprocessing.connection import Connection\n"
                                  "c = Connection(int(sys.argv[1]))\n"
                                  "for size in 0, 1, 16384, 16385, 102400:\n"
                                  "    c.send_bytes(b'p' * size)\n"
                                  "try:\n"
                                  "    while True:\n"
                                  "        c.send_bytes(c.recv_bytes())\n"
                                  "except EOFError:\n"
                                  "    sys.exit(23)\n";

/* A descriptor outlives exec when it is told to; so the child is Python. */
static int become_python(mp_call *call)
{
    mp_connection *line;
    char number[16];

    if (mp_unpack(call, &line))
        return 99;
    if (fcntl(mp_connection_fileno(line), F_SETFD, 0) < 0)
        return 98;
    (void)snprintf(number, sizeof(number), "%d", mp_connection_fileno(line));
    execlp("python3", "python3", "-c", python_peer, number, (char *)NULL);
    return 97;
}

static void skip_without_python(void)
{
    static const char *const argv[] = { "/bin/sh", "-c",
        "python3 -c 'import multiprocessing.connection'", NULL };
    outcome *out = malloc(sizeof(*out));
    int status;

    assert_non_null(out);
    run_program(argv, NULL, PATIENCE, out);
    status = out->status;
    free(out);
    if (status == 0)
        return;
    print_message("skipped: talking to Python, because python3 does not run here\n");
    skip();
}

static void receive_from_python(mp_connection *line)
{
    static const size_t sizes[] = { 0, 1, 16384, 16385, 102400 };
    mp_message message = MP_MESSAGE_INIT;

    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(mp_connection_recv_bytes(line, &message, MP_ANY_LENGTH), 0);
        assert_int_equal(message.size, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            assert_int_equal(((const char *)message.data)[k], 'p');
    }
    mp_message_clear(&message);
}

static void a_connection_of_python_understands_us_and_we_understand_it(void **state)
{
    unsigned char *data = new_filled(100 * KIB, 7);
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    mp_process *p;

    (void)state;
    skip_without_python();
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = become_python, .args = MP_ARGS(there));
    mp_connection_free(there);
    receive_from_python(here);
    for (size_t size = 0; size <= 100 * KIB; size = size * 10 + 1)
        there_and_back(&(peer){ .out = here, .in = here }, data, size, &message);
    there_and_back(&(peer){ .out = here, .in = here }, data, 100 * KIB, &message);
    mp_connection_free(here);
    assert_int_equal(finish(p), 23);
    mp_message_clear(&message);
    free(data);
}

/* ---- descriptors that will not do, and copies made by hand ---- */

static void a_socket_of_packets_makes_no_connection(void **state)
{
    static const int types[] = { SOCK_DGRAM, SOCK_SEQPACKET };

    (void)state;
    for (int i = 0; i < 2; i++) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, fds), 0);
        assert_null(mp_connection_new(&fds[0]));
        assert_int_equal(mp_last_error()->code, MP_EINVAL);
        assert_true(fds[0] >= 0); /* it stays the caller's */
        assert_int_equal(close(fds[0]), 0);
        assert_int_equal(close(fds[1]), 0);
    }
}

static void *send_a_long_one(void *line)
{
    char *bytes = calloc(1, MIB);
    int r = bytes ? mp_connection_send_bytes(line, bytes, MIB) : -1;

    free(bytes);
    return r == 0 ? line : NULL;
}

/* Reads so many bytes, whatever they are. */
static bool drain(int fd, size_t size)
{
    char some[4096];

    while (size) {
        ssize_t n = read(fd, some, size < sizeof(some) ? size : sizeof(some));

        if (n <= 0)
            return false;
        size -= (size_t)n;
    }
    return true;
}

/* The thread that sends is not in the copy; what it had locked is free there. */
static void a_copy_made_by_hand_sends_while_a_thread_was_sending(void **state)
{
    mp_connection *a, *b;
    pthread_t thread;
    void *sent;
    int ready = 0, status;
    pid_t pid;

    if (HAS_TSAN)
        skip(); /* it cannot follow a fork of a process with threads */
    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(pthread_create(&thread, NULL, send_a_long_one, a), 0);
    while (ready == 0) /* then it is in the middle: this is more than a socket holds */
        assert_int_equal(ioctl(mp_connection_fileno(b), FIONREAD, &ready), 0);
    pid = fork();
    if (pid == 0)
        _exit(!drain(mp_connection_fileno(b), 4 + MIB) || mp_connection_send_bytes(a, "x", 1) ||
              !drain(mp_connection_fileno(b), 5));
    assert_int_equal(pthread_join(thread, &sent), 0);
    assert_ptr_equal(sent, a);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    mp_connection_free(a);
    mp_connection_free(b);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(values_come_back_from_a_child),
    UNDER_EACH(bytes_come_back_from_a_child),
    UNDER_EACH(bytes_are_received_into_a_buffer_of_the_caller),
    UNDER_EACH(what_does_not_fit_into_the_buffer_stays_pending),
    UNDER_EACH(poll_waits_for_a_message_and_leaves_it_there),
    UNDER_EACH(sixteen_mebibytes_come_back_from_a_child),
    UNDER_EACH(the_end_of_the_child_is_the_end_of_the_stream),
    ONCE(one_way_pipes_know_their_direction),
    ONCE(both_ends_of_a_two_way_pipe_send_and_receive),
    UNDER_EACH(the_parent_may_close_the_end_of_its_child_right_after_start),
    ONCE(any_slice_of_bytes_is_a_message),
    ONCE(use_after_close_is_an_error),
    ONCE(null_is_an_error_and_may_be_freed),
    ONCE(a_length_above_the_bound_leaves_the_message_pending),
    ONCE(a_message_above_the_limit_stays_pending_until_the_limit_allows_it),
    ONCE(an_empty_message_is_seen_by_poll),
    UNDER_EACH(empty_and_other_messages_keep_their_order),
    UNDER_EACH(polling_consumes_nothing),
    UNDER_EACH(adjacent_messages_are_not_merged),
    ONCE(a_frame_is_a_big_endian_length_and_the_bytes),
    ONCE(the_long_form_is_accepted_for_small_messages),
    UNDER_EACH(the_long_form_is_sent_from_two_gibibytes_on),
    ONCE(a_stream_that_ends_or_errs_inside_a_message_is_broken_for_good),
    ONCE(bytes_that_are_no_value_end_one_message_only),
    UNDER_EACH(messages_of_all_sizes_pass_both_ways),
    UNDER_EACH(a_hundred_mebibytes_pass_both_kinds_of_pipe),
    UNDER_EACH(three_gibibytes_are_one_message),
    UNDER_EACH(more_than_four_gibibytes_are_one_message),
    UNDER_EACH(a_slow_reader_gets_every_byte_of_partial_writes),
    UNDER_EACH(non_blocking_descriptors_work),
    ONCE(the_memory_of_a_message_is_used_again),
    ONCE(threads_share_a_connection_and_messages_stay_whole),
    ONCE(threads_poll_while_others_receive),
    ONCE(a_socket_of_packets_makes_no_connection),
    ONCE(a_copy_made_by_hand_sends_while_a_thread_was_sending),
    ONCE(sending_to_nobody_is_an_error_and_no_signal),
    ONCE(a_blocked_sigpipe_does_not_become_pending),
    ONCE(a_pending_sigpipe_stays_pending),
    UNDER_EACH(sending_to_a_child_that_ended_is_an_error_and_no_signal),
    UNDER_EACH(a_peer_killed_inside_a_long_message_ends_the_send),
    UNDER_EACH(a_peer_killed_inside_its_message_truncates_the_stream),
    UNDER_EACH(a_peer_that_leaves_messages_unread_ends_the_stream),
    UNDER_EACH(a_connection_of_python_understands_us_and_we_understand_it),
};

TESTS_MAIN(tests)
