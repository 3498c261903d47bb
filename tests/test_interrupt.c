/* SPDX-License-Identifier: MIT
 *
 * test_interrupt.c - signals while a call blocks: they break nothing, and
 * mp_interrupt() in a handler ends one call and loses nothing.
 *
 * Who sends a signal first sees in /proc that its victim sleeps, so that the
 * signal meets the blocking call and not what comes before it.
 */
#include "support.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { ROUNDS = 20, STEP = 64 * 1024, LONG_MESSAGE = 16 * STEP };

/* ---- processes that sleep ---- */

static char state_of(pid_t pid)
{
    char path[64], text[512];
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        (void)close(fd);
    if (n <= 0)
        return 'X';
    text[n] = '\0';
    return strrchr(text, ')') ? strrchr(text, ')')[2] : 'X';
}

/* Until it blocks. False if it ended instead. */
static bool await_sleep(pid_t pid)
{
    char now;

    while ((now = state_of(pid)) == 'R' || now == 'D')
        (void)sched_yield();
    return now == 'S';
}

/* ---- signals that are caught ---- */

static volatile sig_atomic_t caught;
static int handled_fd = -1; /* gets a byte each time */

static void handle(int sig)
{
    int saved = errno;

    (void)sig;
    caught++;
    if (handled_fd >= 0 && write(handled_fd, "", 1) < 0)
        caught = -1000;
    errno = saved;
}

/* A handler without SA_RESTART, which tells whoever has the other end of the pipe. */
static mp_connection *catch_signals(mp_connection **handled)
{
    struct sigaction action = { .sa_handler = handle };
    mp_connection *theirs;

    assert_int_equal(mp_pipe(&theirs, handled, .oneway = true), 0);
    caught = 0;
    handled_fd = mp_connection_fileno(*handled);
    assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
    return theirs;
}

static void stop_catching(mp_connection *handled)
{
    handled_fd = -1;
    (void)signal(SIGUSR1, SIG_DFL);
    mp_connection_free(handled);
}

/* Interrupts the parent in what it waits for, and waits until its handler has run. */
static bool disturb(pid_t parent, mp_connection *handled)
{
    char byte;

    return await_sleep(parent) && kill(parent, SIGUSR1) == 0 &&
           read(mp_connection_fileno(handled), &byte, 1) == 1;
}

static bool disturb_often(pid_t parent, mp_connection *handled)
{
    for (int i = 0; i < ROUNDS; i++)
        if (!disturb(parent, handled))
            return false;
    return true;
}

/* Starts a child that disturbs this process as soon as it got the word. */
static mp_process *start_disturbing(
    mp_function target, mp_connection **line, mp_connection **handled)
{
    mp_connection *theirs, *reader = catch_signals(handled);
    mp_process *p;

    assert_int_equal(mp_pipe(line, &theirs), 0);
    p = start_process(.target = target, .args = MP_ARGS(theirs, reader, getpid()));
    mp_connection_free(theirs);
    mp_connection_free(reader);
    assert_int_equal(mp_connection_send(*line, "go"), 0);
    return p;
}

/* What such a child begins with. */
static bool begin(mp_call *call, mp_connection **line, mp_connection **handled, pid_t *parent)
{
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_unpack(call, line, handled, parent);

    if (r == 0)
        r = mp_connection_recv(*line, &message);
    mp_message_clear(&message);
    return r == 0;
}

/* ---- TestIgnoreEINTR ---- */

static int disturb_and_answer(mp_call *call)
{
    mp_connection *line, *handled;
    pid_t parent;

    if (!begin(call, &line, &handled, &parent) || !disturb_often(parent, handled))
        return 99;
    return mp_connection_send(line, 1234) < 0;
}

static void receiving_goes_on_after_signals(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(disturb_and_answer, &line, &handled);
    int number = 0;

    (void)state;
    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &number), 0);
    assert_int_equal(number, 1234);
    assert_int_equal(finish(p), 0);
    assert_int_equal(caught, ROUNDS);
    mp_message_clear(&message);
    mp_connection_free(line);
    stop_catching(handled);
}

static int answer_in_disturbed_pieces(mp_call *call)
{
    static const char frame[] = "\0\0\0\x10sixteen letters.";
    mp_connection *line, *handled;
    pid_t parent;

    if (!begin(call, &line, &handled, &parent))
        return 99;
    for (size_t i = 0; i < sizeof(frame) - 1; i++)
        if (!disturb(parent, handled) || write(mp_connection_fileno(line), frame + i, 1) != 1)
            return 98;
    return 0;
}

static void a_message_is_received_whole_despite_signals_inside_it(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(answer_in_disturbed_pieces, &line, &handled);

    (void)state;
    assert_int_equal(mp_connection_recv_bytes(line, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, 16);
    assert_memory_equal(message.data, "sixteen letters.", 16);
    assert_int_equal(finish(p), 0);
    assert_int_equal(caught, 20);
    mp_message_clear(&message);
    mp_connection_free(line);
    stop_catching(handled);
}

static bool read_step(int fd, unsigned char *data, size_t size)
{
    while (size) {
        ssize_t n = read(fd, data, size);

        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

/* Reads a little each time the parent sleeps in the middle of its message. */
static int read_and_disturb(mp_call *call)
{
    static unsigned char data[4 + LONG_MESSAGE];
    mp_connection *line, *handled;
    pid_t parent;
    int fd;

    if (!begin(call, &line, &handled, &parent))
        return 99;
    fd = mp_connection_fileno(line);
    for (size_t i = 0; i < 12; i++)
        if (!disturb(parent, handled) || !read_step(fd, data + i * STEP, STEP))
            return 98;
    if (!read_step(fd, data + 12 * STEP, sizeof(data) - 12 * STEP))
        return 97;
    for (size_t i = 0; i < LONG_MESSAGE; i++)
        if (data[4 + i] != (unsigned char)(i * i >> 5))
            return 1;
    return memcmp(data, "\0\x10\0\0", 4) != 0;
}

static void a_send_larger_than_the_buffers_goes_on_after_signals(void **state)
{
    unsigned char *data = malloc(LONG_MESSAGE);
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(read_and_disturb, &line, &handled);

    (void)state;
    assert_non_null(data);
    for (size_t i = 0; i < LONG_MESSAGE; i++)
        data[i] = (unsigned char)(i * i >> 5);
    assert_int_equal(mp_connection_send_bytes(line, data, LONG_MESSAGE), 0);
    assert_int_equal(finish(p), 0);
    assert_int_equal(caught, 12);
    mp_connection_free(line);
    stop_catching(handled);
    free(data);
}

/* Connects when the parent has been disturbed in accept. */
static int disturb_and_connect(mp_call *call)
{
    mp_message address = MP_MESSAGE_INIT;
    mp_connection *line, *handled, *c;
    const char *text;
    pid_t parent;

    if (mp_unpack(call, &line, &handled, &parent) || mp_connection_recv(line, &address) ||
        mp_unpack(&address, &text) || !disturb_often(parent, handled))
        return 99;
    c = mp_client(text, .authkey = { "key", 3 });
    mp_message_clear(&address);
    return !c || mp_connection_send(c, 1234);
}

static void accepting_goes_on_after_signals(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_listener *l = mp_listener_new(NULL, .authkey = { "key", 3 });
    mp_connection *line, *theirs, *handled, *c, *reader = catch_signals(&handled);
    mp_process *p;
    int number = 0;

    (void)state;
    assert_non_null(l);
    assert_int_equal(mp_pipe(&line, &theirs), 0);
    p = start_process(.target = disturb_and_connect, .args = MP_ARGS(theirs, reader, getpid()));
    mp_connection_free(theirs);
    mp_connection_free(reader);
    assert_int_equal(mp_connection_send(line, mp_listener_address(l)), 0);
    assert_int_equal(mp_listener_accept(l, MP_FOREVER, &c), 0);
    assert_int_equal(caught, ROUNDS);
    assert_int_equal(mp_connection_recv(c, &message), 0);
    assert_int_equal(mp_unpack(&message, &number), 0);
    assert_int_equal(number, 1234);
    assert_int_equal(finish(p), 0);
    mp_message_clear(&message);
    mp_connection_free(c);
    mp_connection_free(line);
    mp_listener_free(l);
    stop_catching(handled);
}

static void polling_goes_on_after_signals(void **state)
{
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(disturb_and_answer, &line, &handled);

    (void)state;
    assert_int_equal(mp_connection_poll(line, PATIENCE), 1);
    assert_int_equal(caught, ROUNDS);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
    stop_catching(handled);
}

static void waiting_goes_on_after_signals(void **state)
{
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(disturb_and_answer, &line, &handled);
    mp_wait_item item = MP_WAIT(line);

    (void)state;
    assert_int_equal(mp_wait(&item, 1, MP_FOREVER), 1);
    assert_int_equal(caught, ROUNDS);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
    stop_catching(handled);
}

/* ---- _TestPollEintr ---- */

static void joining_goes_on_after_signals(void **state)
{
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(disturb_and_answer, &line, &handled);

    (void)state;
    assert_int_equal(mp_process_join(p, MP_FOREVER), 0);
    assert_int_equal(caught, ROUNDS);
    assert_int_equal(mp_process_exitcode(p), 0);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
    stop_catching(handled);
}

/* Goes on until the line is closed. A parent that waits for our end sleeps too. */
static int disturb_until_closed(mp_call *call)
{
    mp_connection *line, *handled;
    pid_t parent;

    if (!begin(call, &line, &handled, &parent))
        return 99;
    while (mp_connection_poll(line, 0) == 0)
        if (!disturb(parent, handled))
            return 98;
    return 0;
}

static void a_timeout_ends_in_time_despite_signals(void **state)
{
    mp_connection *line, *handled;
    mp_process *p = start_disturbing(disturb_until_closed, &line, &handled);
    mp_wait_item item = MP_WAIT(p);

    (void)state;
    do
        assert_int_equal(mp_connection_poll(line, 0.02), 0);
    while (caught < 3);
    assert_int_equal(mp_wait(&item, 1, 0.02), 0);
    assert_int_equal(mp_process_join(p, 0.02), MP_ETIMEDOUT);
    mp_connection_free(line);
    assert_int_equal(finish(p), 0);
    stop_catching(handled);
}

/* ---- mp_interrupt ---- */

/*
 * What follows runs in a child, because mp_allow_interrupt is for good. The
 * child ("the program") answers on its line, and the test sends the signals.
 */
static void interrupt(int sig)
{
    (void)sig;
    mp_interrupt();
}

static bool allow_interrupts(void)
{
    struct sigaction action = { .sa_handler = interrupt };

    return mp_allow_interrupt() == 0 && mp_allow_interrupt() == 0 &&
           sigaction(SIGUSR1, &action, NULL) == 0;
}

/* The next answer of the program. */
static int answer_of(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;
    int answer = 1;

    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &answer), 0);
    mp_message_clear(&message);
    return answer;
}

/* What receiving comes to: the number that arrived, or the code. */
static int receive_number(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;
    int number = -1;
    int r = mp_connection_recv(line, &message);

    if (r == 0)
        r = mp_unpack(&message, &number);
    mp_message_clear(&message);
    return r < 0 ? r : number;
}

/* Signals the program when it sleeps. */
static void interrupt_program(const mp_process *p)
{
    pid_t pid = mp_process_pid(p);

    assert_true(await_sleep(pid));
    assert_int_equal(kill(pid, SIGUSR1), 0);
}

static int receive_twice(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line) || !allow_interrupts() || mp_connection_send(line, 0))
        return 99;
    return mp_connection_send(line, receive_number(line)) ||
           mp_connection_send(line, receive_number(line));
}

static void an_interrupt_ends_one_receive_and_loses_nothing(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(receive_twice, &line);

    (void)state;
    assert_int_equal(answer_of(line), 0);
    interrupt_program(p);
    assert_int_equal(answer_of(line), MP_EINTR);
    assert_int_equal(mp_connection_send(line, 42), 0);
    assert_int_equal(answer_of(line), 42);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

static int accept_twice(mp_call *call)
{
    mp_listener *l = mp_listener_new(NULL);
    mp_connection *line, *c = NULL;
    int r;

    if (mp_unpack(call, &line) || !l || !allow_interrupts() ||
        mp_connection_send(line, mp_listener_address(l)))
        return 99;
    r = mp_connection_send(line, mp_listener_accept(l, MP_FOREVER, &c)) ||
        mp_connection_send(line, mp_listener_accept(l, MP_FOREVER, &c));
    mp_connection_free(c);
    mp_listener_free(l);
    return r;
}

static void an_interrupt_ends_one_accept(void **state)
{
    mp_message address = MP_MESSAGE_INIT;
    mp_connection *line, *client;
    mp_process *p = start_with_line(accept_twice, &line);
    const char *text;

    (void)state;
    assert_int_equal(mp_connection_recv(line, &address), 0);
    assert_int_equal(mp_unpack(&address, &text), 0);
    interrupt_program(p);
    assert_int_equal(answer_of(line), MP_EINTR);
    client = mp_client(text);
    assert_non_null(client);
    assert_int_equal(answer_of(line), 0);
    assert_int_equal(finish(p), 0);
    mp_message_clear(&address);
    mp_connection_free(client);
    mp_connection_free(line);
}

static int signal_inside_a_message(mp_call *call)
{
    mp_connection *line, *pieces;
    int r;

    if (mp_unpack(call, &line, &pieces) || !allow_interrupts())
        return 99;
    r = mp_connection_send(line, receive_number(pieces));
    return r < 0 ? 1 : mp_connection_send(line, receive_number(pieces)) < 0;
}

static void await_empty(const mp_connection *pipe)
{
    int left = 1;

    while (left > 0) {
        (void)sched_yield();
        assert_int_equal(ioctl(mp_connection_fileno(pipe), FIONREAD, &left), 0);
    }
}

static void an_interrupt_inside_a_message_ends_the_next_call(void **state)
{
    mp_connection *line, *theirs, *pieces, *writer;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&line, &theirs), 0);
    assert_int_equal(mp_pipe(&pieces, &writer, .oneway = true), 0);
    p = start_process(.target = signal_inside_a_message, .args = MP_ARGS(theirs, pieces));
    assert_int_equal(write(mp_connection_fileno(writer), "\0\0\0\1", 4), 4);
    await_empty(writer);
    interrupt_program(p);
    assert_int_equal(write(mp_connection_fileno(writer), "\7", 1), 1);
    assert_int_equal(answer_of(line), 7);
    assert_int_equal(answer_of(line), MP_EINTR);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
    mp_connection_free(theirs);
    mp_connection_free(pieces);
    mp_connection_free(writer);
}

enum { PAGE = 4096 }; /* frames of this size fill a pipe without a rest */

/* Sends until an interrupt: how many messages went. */
static int send_until_interrupted(mp_connection *out, uint32_t *count)
{
    static char data[PAGE - 4];
    int r;

    for (*count = 0;; ++*count) {
        memcpy(data, count, sizeof(*count));
        r = mp_connection_send_bytes(out, data, sizeof(data));
        if (r < 0)
            return r;
    }
}

static int fill_a_pipe(mp_call *call)
{
    mp_connection *line, *out;
    uint32_t count;
    int r;

    if (mp_unpack(call, &line, &out) || !allow_interrupts())
        return 99;
    r = send_until_interrupted(out, &count);
    return mp_connection_send(line, r) || mp_connection_send(line, count) ||
           mp_connection_send_bytes(out, "last", 4);
}

/* The messages 0 to count - 1 and the last, and nothing of the one that was interrupted. */
static void check_pipe(mp_connection *in, int count)
{
    mp_message message = MP_MESSAGE_INIT;

    for (uint32_t i = 0; i < (uint32_t)count; i++) {
        assert_int_equal(mp_connection_recv_bytes(in, &message, MP_ANY_LENGTH), 0);
        assert_int_equal(message.size, PAGE - 4);
        assert_memory_equal(message.data, &i, sizeof(i));
    }
    assert_int_equal(mp_connection_recv_bytes(in, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, 4);
    assert_memory_equal(message.data, "last", 4);
    mp_message_clear(&message);
}

static void an_interrupt_ends_one_send_and_nothing_was_sent(void **state)
{
    mp_connection *line, *theirs, *in, *out;
    mp_process *p;
    int count;

    (void)state;
    assert_int_equal(mp_pipe(&line, &theirs), 0);
    assert_int_equal(mp_pipe(&in, &out, .oneway = true), 0);
    p = start_process(.target = fill_a_pipe, .args = MP_ARGS(theirs, out));
    assert_int_equal(mp_connection_poll(in, PATIENCE), 1);
    interrupt_program(p);
    assert_int_equal(answer_of(line), MP_EINTR);
    count = answer_of(line);
    assert_true(count > 0);
    check_pipe(in, count);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
    mp_connection_free(theirs);
    mp_connection_free(in);
    mp_connection_free(out);
}

static int wait_for_the_end(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) || receive_number(line) != MP_EEOF;
}

/* A child of the program that runs until the line is freed. */
static mp_process *start_quietly(mp_connection **line)
{
    mp_connection *theirs;
    mp_process *p;

    if (mp_pipe(line, &theirs) < 0)
        return NULL;
    p = mp_process_new(.target = wait_for_the_end, .args = MP_ARGS(theirs));
    mp_connection_free(theirs);
    if (p && mp_process_start(p) == 0)
        return p;
    mp_connection_free(*line);
    mp_process_free(p);
    return NULL;
}

static int join_twice(mp_call *call)
{
    mp_connection *line, *to_child;
    mp_process *child;
    int r;

    if (mp_unpack(call, &line) || !(child = start_quietly(&to_child)) || !allow_interrupts())
        return 99;
    r = mp_connection_send(line, 0) ||
        mp_connection_send(line, mp_process_join(child, MP_FOREVER)) ||
        mp_connection_send(line, mp_process_is_alive(child));
    mp_connection_free(to_child);
    r = r || mp_connection_send(line, mp_process_join(child, MP_FOREVER)) ||
        mp_connection_send(line, mp_process_exitcode(child));
    mp_process_free(child);
    return r;
}

static void an_interrupt_ends_one_join(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(join_twice, &line);

    (void)state;
    assert_int_equal(answer_of(line), 0);
    interrupt_program(p);
    assert_int_equal(answer_of(line), MP_EINTR);
    assert_int_equal(answer_of(line), true);
    assert_int_equal(answer_of(line), 0);
    assert_int_equal(answer_of(line), 0);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

static int wait_twice(mp_call *call)
{
    mp_wait_item item;
    mp_connection *line;

    if (mp_unpack(call, &line) || !allow_interrupts() || mp_connection_send(line, 0))
        return 99;
    item = MP_WAIT(line);
    return mp_connection_send(line, mp_wait(&item, 1, MP_FOREVER)) ||
           mp_connection_send(line, mp_wait(&item, 1, MP_FOREVER)) ||
           mp_connection_send(line, receive_number(line)) ||
           mp_connection_send(line, mp_connection_poll(line, MP_FOREVER)) ||
           mp_connection_send(line, mp_connection_poll(line, MP_FOREVER));
}

static void an_interrupt_ends_one_wait_and_one_poll(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(wait_twice, &line);

    (void)state;
    assert_int_equal(answer_of(line), 0);
    interrupt_program(p);
    assert_int_equal(answer_of(line), MP_EINTR);
    assert_int_equal(mp_connection_send(line, 42), 0);
    assert_int_equal(answer_of(line), 1);
    assert_int_equal(answer_of(line), 42);
    interrupt_program(p);
    assert_int_equal(answer_of(line), MP_EINTR);
    assert_int_equal(mp_connection_send(line, 43), 0);
    assert_int_equal(answer_of(line), 1);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

static int interrupt_before_receiving(mp_call *call)
{
    mp_connection *line;
    int first, second;

    if (mp_unpack(call, &line))
        return 99;
    mp_interrupt(); /* not allowed yet: nothing */
    if (receive_number(line) != 1)
        return 98;
    if (!allow_interrupts())
        return 97;
    mp_interrupt();
    first = receive_number(line);
    mp_connection_send(line, 0);
    second = receive_number(line);
    return mp_connection_send(line, first) || mp_connection_send(line, second);
}

static void an_interrupt_before_a_call_ends_the_next_that_would_block(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(interrupt_before_receiving, &line);

    (void)state;
    assert_int_equal(mp_connection_send(line, 1), 0);
    assert_int_equal(answer_of(line), 0);
    assert_int_equal(mp_connection_send(line, 2), 0);
    assert_int_equal(answer_of(line), MP_EINTR);
    assert_int_equal(answer_of(line), 2);
    assert_int_equal(finish(p), 0);
    mp_connection_free(line);
}

/* Looking does not block: it neither fails nor takes the interrupt. */
static int look_while_interrupted(mp_call *call)
{
    mp_process *parent = mp_parent_process();
    mp_wait_item item;
    mp_connection *line;
    int r = 0;

    if (mp_unpack(call, &line) || !allow_interrupts())
        return 99;
    item = MP_WAIT(line);
    mp_interrupt();
    if (mp_connection_poll(line, 0) != 0)
        r = 1;
    else if (mp_wait(&item, 1, 0) != 0)
        r = 2;
    else if (!mp_process_is_alive(parent))
        r = 3;
    else if (mp_process_join(parent, 0) != MP_ETIMEDOUT)
        r = 4;
    else if (receive_number(line) != MP_EINTR)
        r = 5;
    return r;
}

static void looking_is_not_interrupted(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(look_while_interrupted, &line);
    int code;

    (void)state;
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    code = finish(p);
    mp_connection_free(line);
    assert_int_equal(code, 0);
}

/* Start is no call one waits in: it takes no interrupt, and what it began it ends. */
static int start_while_interrupted(mp_call *call)
{
    mp_connection *line, *to_child;
    mp_process *child;
    int r = 0;

    if (mp_unpack(call, &line) || !allow_interrupts())
        return 99;
    mp_interrupt();
    child = start_quietly(&to_child);
    if (!child)
        return 1;
    mp_connection_free(to_child);
    if (receive_number(line) != MP_EINTR)
        r = 2;
    else if (mp_process_join(child, PATIENCE) != 0 || mp_process_exitcode(child) != 0)
        r = 3;
    mp_process_free(child);
    return r;
}

static void starting_is_not_interrupted(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(start_while_interrupted, &line);
    int code;

    (void)state;
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    code = finish(p);
    mp_connection_free(line);
    assert_int_equal(code, 0);
}

/* Neither the permission nor the interrupt that waits for its parent. */
static int interrupt_in_grandchild(mp_call *call)
{
    mp_connection *line;

    if (mp_unpack(call, &line))
        return 99;
    mp_interrupt();
    return mp_connection_send(line, 0) || receive_number(line) != 5;
}

static int start_grandchild(mp_call *call)
{
    mp_connection *line, *here, *there;
    mp_process *child;
    int r;

    if (mp_unpack(call, &line) || !allow_interrupts() || mp_pipe(&here, &there))
        return 99;
    child = mp_process_new(.target = interrupt_in_grandchild, .args = MP_ARGS(there));
    mp_connection_free(there);
    r = mp_process_start(child) || receive_number(here) != 0 || mp_connection_send(here, 5) ||
        mp_process_join(child, PATIENCE) || mp_process_exitcode(child) != 0;
    mp_process_free(child);
    mp_connection_free(here);
    return r || mp_connection_send(line, 6);
}

static void children_do_not_inherit_interrupts(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(start_grandchild, &line);

    (void)state;
    assert_int_equal(finish(p), 0);
    assert_int_equal(answer_of(line), 6);
    mp_connection_free(line);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(receiving_goes_on_after_signals),
    UNDER_EACH(a_message_is_received_whole_despite_signals_inside_it),
    UNDER_EACH(a_send_larger_than_the_buffers_goes_on_after_signals),
    UNDER_EACH(accepting_goes_on_after_signals),
    UNDER_EACH(polling_goes_on_after_signals),
    UNDER_EACH(waiting_goes_on_after_signals),
    UNDER_EACH(joining_goes_on_after_signals),
    UNDER_EACH(a_timeout_ends_in_time_despite_signals),
    UNDER_EACH(an_interrupt_ends_one_receive_and_loses_nothing),
    UNDER_EACH(an_interrupt_ends_one_accept),
    UNDER_EACH(an_interrupt_inside_a_message_ends_the_next_call),
    UNDER_EACH(an_interrupt_ends_one_send_and_nothing_was_sent),
    UNDER_EACH(an_interrupt_ends_one_join),
    UNDER_EACH(an_interrupt_ends_one_wait_and_one_poll),
    UNDER_EACH(an_interrupt_before_a_call_ends_the_next_that_would_block),
    UNDER_EACH(looking_is_not_interrupted),
    UNDER_EACH(starting_is_not_interrupted),
    UNDER_EACH(children_do_not_inherit_interrupts),
};

TESTS_MAIN(tests)
