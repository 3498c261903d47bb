/* SPDX-License-Identifier: MIT
 *
 * pipe.c - the two kinds of pipe: one way, with a stream of values that ends,
 * and both ways, with questions and answers, as values and as bytes.
 */
#include <multiprocessing.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Runs in a child: sends squares. The stream ends with the process. */
static int squares(mp_call *call)
{
    mp_connection *sender;
    int count;

    if (mp_unpack(call, &sender, &count) < 0)
        return mp_perror("squares"), 1;
    for (int i = 1; i <= count; i++)
        if (mp_connection_send(sender, mp_list(i, i * i)) < 0)
            return mp_perror("squares"), 1;
    return 0;
}

/* Runs in a child: answers a question in values, then messages of bytes until the end. */
static int answer(mp_call *call)
{
    mp_message question = MP_MESSAGE_INIT;
    mp_connection *peer;
    double a, b;
    char text[64];
    size_t size;
    int r = mp_unpack(call, &peer);

    if (r == 0)
        r = mp_connection_recv(peer, &question);
    if (r == 0)
        r = mp_unpack(&question, NULL, &a, &b); /* NULL: any value, not looked at */
    if (r == 0)
        r = mp_connection_send(peer, mp_list(a + b, a * b));
    while (r == 0 && (r = mp_connection_recv_bytes_into(peer, text, sizeof(text), &size)) == 0) {
        for (size_t i = 0; i < size; i++)
            text[i] = (char)toupper((unsigned char)text[i]);
        r = mp_connection_send_bytes(peer, text, size);
    }
    if (r != MP_EEOF)
        mp_perror("answer");
    mp_message_clear(&question);
    return r == MP_EEOF ? 0 : 1;
}

/* Starts target; NULL on failure. The end in args is then the child's: ours is closed. */
static mp_process *start(mp_function target, msgpack_object args, mp_connection *end)
{
    mp_process *p = mp_process_new(.target = target, .args = args);

    if (p && mp_process_start(p) < 0) {
        mp_process_free(p);
        p = NULL;
    }
    mp_connection_free(end);
    return p;
}

/* Receives until the end: that is when the last sender is closed. */
static int receive_stream(mp_connection *receiver)
{
    mp_message message = MP_MESSAGE_INIT;
    int number, square;
    int r;

    while ((r = mp_connection_recv(receiver, &message)) == 0) {
        r = mp_unpack(&message, &number, &square);
        if (r < 0)
            break;
        printf("  %d squared is %d\n", number, square);
    }
    mp_message_clear(&message);
    if (r != MP_EEOF)
        return r;
    printf("  end of the stream\n");
    return 0;
}

static int ask(mp_connection *peer)
{
    static const char *const texts[] = { "bytes go", "there and back" };
    mp_message reply = MP_MESSAGE_INIT;
    double sum, product;
    int r = mp_connection_send(peer, mp_list("both of", 2.5, 4));

    if (r == 0)
        r = mp_connection_recv(peer, &reply);
    if (r == 0)
        r = mp_unpack(&reply, &sum, &product);
    if (r == 0)
        printf("  sum %g, product %g\n", sum, product);
    for (int i = 0; i < 2 && r == 0; i++) {
        r = mp_connection_send_bytes(peer, texts[i], strlen(texts[i]));
        if (r == 0)
            r = mp_connection_recv_bytes(peer, &reply, MP_ANY_LENGTH);
        if (r == 0)
            printf("  %.*s\n", (int)reply.size, (const char *)reply.data);
    }
    mp_message_clear(&reply);
    return r;
}

/* Ends the conversation by closing our end, and the child ends by that. */
static int finish(int r, mp_connection *end, mp_process *p)
{
    if (r < 0)
        mp_perror("pipe");
    mp_connection_free(end);
    if (p && mp_process_join(p, MP_FOREVER) == 0)
        printf("  exit code %d\n", mp_process_exitcode(p));
    mp_process_free(p);
    return r;
}

static int one_way(void)
{
    mp_connection *receiver = NULL, *sender = NULL;
    mp_process *p = NULL;
    int r;

    printf("one way: a stream of values\n");
    r = mp_pipe(&receiver, &sender, .oneway = true);
    if (r == 0) {
        p = start(squares, MP_ARGS(sender, 4), sender);
        r = p ? receive_stream(receiver) : mp_last_error()->code;
    }
    return finish(r, receiver, p);
}

static int both_ways(void)
{
    mp_connection *here = NULL, *there = NULL;
    mp_process *p = NULL;
    int r;

    printf("both ways: questions and answers\n");
    r = mp_pipe(&here, &there);
    if (r == 0) {
        p = start(answer, MP_ARGS(there), there);
        r = p ? ask(here) : mp_last_error()->code;
    }
    return finish(r, here, p);
}

int main(void)
{
    MP_MAIN () {
        return one_way() < 0 || both_ways() < 0;
    }
    return 0;
}
