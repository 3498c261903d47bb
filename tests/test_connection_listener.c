/* SPDX-License-Identifier: MIT
 *
 * test_connection_listener.c - listeners and clients: addresses, the handshake, peers
 * that misbehave, and peers in Python.
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hmac_internal.h"

#define SECRET      \
    {               \
        "secret", 6 \
    }
#define BYTES(text) (text), sizeof(text) - 1

/* One of each family, those made by the library itself and those that are named. */
static const struct {
    const char *address, *family;
} places[] = {
    { NULL, NULL }, { NULL, "AF_INET" }, { "127.0.0.1:0", NULL }, { "[::1]:0", NULL },
    { "@", NULL }, /* and the pid: tests run side by side */
};

#define PLACES (sizeof(places) / sizeof(*places))

/* NULL, and a line, on a machine without that family. */
static mp_listener *listen_at(size_t i, const char *key)
{
    char abstract[64];
    mp_listener *l;

    (void)snprintf(abstract, sizeof(abstract), "@mp-test-listener-%ld", (long)getpid());
    l = mp_listener_new(i == 4 ? abstract : places[i].address, places[i].family,
        .authkey = { key, key ? strlen(key) : 0 });

    if (!l && i == 3) {
        print_message("no IPv6 here: %s\n", mp_last_error()->text);
        return NULL;
    }
    if (!l)
        fail_msg("listener: %s", mp_last_error()->text);
    return l;
}

static mp_connection *accept_one(mp_listener *l)
{
    mp_connection *c = NULL;
    int r = mp_listener_accept(l, PATIENCE, &c);

    if (r < 0)
        fail_msg("accept: %s", mp_last_error()->text);
    return c;
}

static void expect_bytes(mp_connection *c, const char *text)
{
    mp_message message = MP_MESSAGE_INIT;

    assert_int_equal(mp_connection_recv_bytes(c, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, strlen(text));
    assert_memory_equal(message.data, text, message.size);
    mp_message_clear(&message);
}

static bool is_socket(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

/* ---- _TestListener, _TestListenerClient ---- */

/* Says hello; with the key if that is not empty. */
static int say_hello(mp_call *call)
{
    const char *address, *key;
    mp_connection *c;
    int r;

    if (mp_unpack(call, &address, &key))
        return 99;
    c = mp_client(address, .authkey = { *key ? key : NULL, strlen(key) }, .timeout = PATIENCE);
    if (!c)
        return 98;
    r = mp_connection_send(c, "hello") != 0;
    mp_connection_free(c);
    return r;
}

static void serve_a_child(const char *key)
{
    for (size_t i = 0; i < PLACES; i++) {
        mp_message message = MP_MESSAGE_INIT;
        mp_listener *l = listen_at(i, key);
        const char *word;
        mp_connection *c;
        mp_process *p;

        if (!l)
            continue;
        assert_null(mp_listener_last_accepted(l));
        p = start_process(.target = say_hello,
            .args = MP_ARGS(mp_listener_address(l), key ? key : ""));
        c = accept_one(l);
        assert_int_equal(mp_connection_recv(c, &message), 0);
        assert_int_equal(mp_unpack(&message, &word), 0);
        assert_string_equal(word, "hello");
        assert_int_equal(finish(p), 0);
        assert_non_null(mp_listener_last_accepted(l));
        mp_message_clear(&message);
        mp_connection_free(c);
        mp_listener_free(l);
    }
}

static void a_child_says_hello_in_every_family(void **state)
{
    (void)state;
    serve_a_child(NULL);
}

static void a_child_with_the_key_is_let_in(void **state)
{
    (void)state;
    serve_a_child("secret");
}

static void a_second_listener_at_an_address_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLACES; i++) {
        mp_listener *l = listen_at(i, NULL);

        if (!l)
            continue;
        assert_null(mp_listener_new(mp_listener_address(l)));
        assert_int_equal(mp_last_error()->code, -EADDRINUSE);
        mp_listener_free(l);
    }
}

static void a_closed_listener_accepts_nobody_and_its_path_is_gone(void **state)
{
    mp_listener *l = listen_at(0, NULL);
    char path[200], *slash;
    mp_connection *c;

    (void)state;
    (void)snprintf(path, sizeof(path), "%s", mp_listener_address(l));
    assert_true(is_socket(path));
    mp_listener_close(l);
    assert_int_not_equal(access(path, F_OK), 0);
    slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_not_equal(access(path, F_OK), 0); /* the folder was made for it */
    *slash = '/';
    assert_int_equal(mp_listener_accept(l, 0, &c), MP_ECLOSED);
    assert_int_equal(mp_listener_fileno(l), MP_ECLOSED);
    assert_null(mp_listener_address(l));
    mp_listener_close(l);
    mp_listener_free(l);
    assert_null(mp_client(path));
    assert_int_equal(mp_last_error()->code, MP_ENOENT);
    mp_listener_free(NULL);
}

static void another_socket_at_its_path_is_left_there(void **state)
{
    mp_listener *l = listen_at(0, NULL), *other;
    char path[200], folder[200];

    (void)state;
    (void)snprintf(path, sizeof(path), "%s", mp_listener_address(l));
    (void)snprintf(folder, sizeof(folder), "%s", path);
    *strrchr(folder, '/') = '\0';
    assert_int_equal(unlink(path), 0);
    other = mp_listener_new(path);
    assert_non_null(other);
    mp_listener_free(l);
    assert_true(is_socket(path));
    mp_listener_free(other);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(rmdir(folder), 0);
}

static void what_a_client_sent_before_it_left_is_there(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLACES; i++) {
        mp_listener *l = listen_at(i, NULL);
        mp_connection *c, *client;

        if (!l)
            continue;
        client = mp_client(mp_listener_address(l));
        assert_non_null(client);
        assert_int_equal(mp_connection_send_bytes(client, "hello", 5), 0);
        mp_connection_free(client);
        c = accept_one(l);
        assert_int_equal(mp_connection_poll(c, PATIENCE), 1);
        expect_bytes(c, "hello");
        mp_connection_free(c);
        mp_listener_free(l);
    }
}

static void poll_sees_what_the_accepting_side_sends(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLACES; i++) {
        mp_listener *l = listen_at(i, NULL);
        mp_connection *c, *client;

        if (!l)
            continue;
        client = mp_client(mp_listener_address(l));
        assert_non_null(client);
        c = accept_one(l);
        assert_int_equal(mp_connection_poll(client, 0), 0);
        assert_int_equal(mp_connection_send_bytes(c, "hello", 5), 0);
        mp_connection_free(c);
        assert_int_equal(mp_connection_poll(client, PATIENCE), 1);
        expect_bytes(client, "hello");
        mp_connection_free(client);
        mp_listener_free(l);
    }
}

/* Handles go through sockets of one machine. */
static void handles_travel_to_a_client_at_a_path(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_listener *l = listen_at(0, NULL);
    mp_connection *client = mp_client(mp_listener_address(l)), *c = accept_one(l);
    mp_connection *a, *b, *given;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(c, b), 0);
    assert_int_equal(mp_connection_recv(client, &message), 0);
    assert_int_equal(mp_unpack(&message, &given), 0);
    assert_int_equal(mp_connection_send_bytes(given, "through it", 10), 0);
    expect_bytes(a, "through it");
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_connection_free(c);
    mp_connection_free(client);
    mp_listener_free(l);
}

/* ---- addresses ---- */

static void addresses_that_cannot_be_are_refused(void **state)
{
    static const struct {
        const char *address, *family;
        int code;
    } bad[] = {
        { "/tmp/mp-test", "AF_PIPE", MP_EINVAL },
        { "\\\\.\\pipe\\mp-test", NULL, MP_EINVAL },
        { "", NULL, MP_EINVAL },
        { "nowhere", "AF_INET", MP_EINVAL },
        { "nowhere:port", "AF_INET", MP_EINVAL },
        { "127.0.0.1:70000", NULL, MP_EINVAL },
        { "host.invalid:1", "AF_INET6", -EHOSTUNREACH },
        { "/tmp/mp-test-no-such-folder/socket", NULL, MP_ENOENT },
    };
    char path[150];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_null(mp_listener_new(bad[i].address, bad[i].family));
        assert_int_equal(mp_last_error()->code, bad[i].code);
        assert_null(mp_client(bad[i].address, bad[i].family));
        assert_int_equal(mp_last_error()->code, bad[i].code);
    }
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    assert_null(mp_listener_new(path));
    assert_int_equal(mp_last_error()->code, MP_ENAMETOOLONG);
    assert_null(mp_client(NULL));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
    assert_null(mp_listener_new(NULL, .authkey = { NULL, 3 }));
    assert_int_equal(mp_last_error()->code, MP_EINVAL);
}

static void nobody_listens_there(void **state)
{
    mp_listener *l = listen_at(2, NULL);
    char address[200];

    (void)state;
    (void)snprintf(address, sizeof(address), "%s", mp_listener_address(l));
    mp_listener_free(l);
    assert_null(mp_client(address, .timeout = PATIENCE));
    assert_int_equal(mp_last_error()->code, -ECONNREFUSED);
    assert_null(mp_client("@mp-test-nobody"));
    assert_int_equal(mp_last_error()->code, -ECONNREFUSED);
}

/* A name of the machine instead of a number, and a host left out. */
static void hosts_have_names(void **state)
{
    mp_listener *l = mp_listener_new("localhost:0", "AF_INET");
    char address[200];
    mp_connection *c, *client;

    (void)state;
    assert_non_null(l);
    (void)snprintf(address, sizeof(address), "%s", strrchr(mp_listener_address(l), ':'));
    client = mp_client(address, .family = "AF_INET");
    assert_non_null(client);
    c = accept_one(l);
    assert_int_equal(strncmp(mp_listener_last_accepted(l), "127.0.0.1:", 10), 0);
    mp_connection_free(c);
    mp_connection_free(client);
    mp_listener_free(l);
}

/* ---- waiting ---- */

static void accept_has_a_timeout(void **state)
{
    mp_listener *l = listen_at(0, "secret");
    mp_connection *c;

    (void)state;
    assert_int_equal(mp_listener_accept(l, 0, &c), MP_ETIMEDOUT);
    assert_int_equal(mp_listener_accept(l, 0.01, &c), MP_ETIMEDOUT);
    assert_int_equal(mp_listener_accept(l, -1, &c), MP_ETIMEDOUT);
    assert_int_equal(mp_listener_accept(NULL, 0, &c), MP_EINVAL);
    assert_int_equal(mp_listener_accept(l, 0, NULL), MP_EINVAL);
    mp_listener_free(l);
}

static void a_client_has_a_timeout(void **state)
{
    mp_listener *l = listen_at(0, NULL); /* it wants no key, and says nothing */

    (void)state;
    assert_null(mp_client(mp_listener_address(l), .authkey = SECRET, .timeout = 0.05));
    assert_int_equal(mp_last_error()->code, MP_ETIMEDOUT);
    mp_listener_free(l);
}

static void a_full_backlog_is_waited_for_as_long_as_allowed(void **state)
{
    mp_listener *l = mp_listener_new(NULL, .backlog = 1);
    mp_connection *clients[16], *c;
    int n = 0;

    (void)state;
    assert_non_null(l);
    while (n < 16 && (clients[n] = mp_client(mp_listener_address(l), .timeout = 0.05)))
        n++;
    assert_true(n > 0 && n < 16);
    assert_int_equal(mp_last_error()->code, MP_ETIMEDOUT);
    for (int i = 0; i < n; i++) {
        c = accept_one(l);
        mp_connection_free(c);
        mp_connection_free(clients[i]);
    }
    clients[0] = mp_client(mp_listener_address(l), .timeout = PATIENCE);
    assert_non_null(clients[0]);
    mp_connection_free(clients[0]);
    mp_listener_free(l);
}

static void *accept_for_ever(void *listener)
{
    static int r;
    mp_connection *c;

    r = mp_listener_accept(listener, MP_FOREVER, &c);
    return &r;
}

static void closing_wakes_who_accepts(void **state)
{
    for (int i = 0; i < 50; i++) {
        mp_listener *l = listen_at(0, i % 2 ? "secret" : NULL);
        mp_connection *c;
        pthread_t thread;
        void *result;

        (void)state;
        assert_int_equal(pthread_create(&thread, NULL, accept_for_ever, l), 0);
        assert_int_equal(mp_listener_accept(l, i % 3 ? 0 : 0.001, &c), MP_ETIMEDOUT);
        mp_listener_close(l);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_int_equal(*(int *)result, MP_ECLOSED);
        mp_listener_free(l);
    }
}

/* ---- the handshake ---- */

static void expect_refusal(mp_listener *l)
{
    mp_connection *c;

    assert_int_equal(mp_listener_accept(l, PATIENCE, &c), MP_EAUTHENTICATION);
    assert_non_null(strstr(mp_last_error()->text, "not let in"));
}

/* A client in a thread of its own: what became of it. */
struct attempt {
    const char *address, *key;
    int code;
};

static void *try_key(void *argument)
{
    struct attempt *a = argument;
    mp_connection *c =
        mp_client(a->address, .authkey = { a->key, strlen(a->key) }, .timeout = PATIENCE);

    a->code = c ? mp_connection_send_bytes(c, "in", 2) : mp_last_error()->code;
    mp_connection_free(c);
    return NULL;
}

static void wrong_keys_are_refused_on_both_sides(void **state)
{
    static const char *const keys[] = { "secret", "Secret", "", "secret ", "s" };

    (void)state;
    for (size_t server = 0; server < 5; server++) {
        mp_listener *l = listen_at(0, keys[server]);

        for (size_t client = 0; client < 5; client++) {
            struct attempt attempt = { mp_listener_address(l), keys[client], 1 };
            mp_connection *c;
            pthread_t thread;

            assert_int_equal(pthread_create(&thread, NULL, try_key, &attempt), 0);
            if (client == server) { /* an empty key is a key */
                c = accept_one(l);
                expect_bytes(c, "in");
                mp_connection_free(c);
            } else {
                expect_refusal(l);
            }
            (void)pthread_join(thread, NULL);
            assert_int_equal(attempt.code, client == server ? 0 : MP_EAUTHENTICATION);
        }
        mp_listener_free(l);
    }
}

static void a_client_that_says_nothing_keeps_nobody_waiting(void **state)
{
    mp_listener *l = listen_at(0, "secret");
    mp_connection *silent[60], *c;
    struct attempt attempt = { mp_listener_address(l), "secret", 1 };
    pthread_t thread;

    (void)state;
    for (int i = 0; i < 60; i++) {
        silent[i] = mp_client(mp_listener_address(l));
        assert_non_null(silent[i]);
    }
    assert_int_equal(pthread_create(&thread, NULL, try_key, &attempt), 0);
    c = accept_one(l);
    expect_bytes(c, "in");
    mp_connection_free(c);
    (void)pthread_join(thread, NULL);
    for (int i = 0; i < 60; i++)
        mp_connection_free(silent[i]);
    for (int i = 0; i < 60; i++)
        expect_refusal(l);
    mp_listener_free(l);
}

static void a_client_that_takes_too_long_is_refused(void **state)
{
    mp_listener *l = mp_listener_new(NULL, .authkey = SECRET, .handshake_timeout = 0.02);
    mp_connection *silent;

    (void)state;
    assert_non_null(l);
    silent = mp_client(mp_listener_address(l));
    assert_non_null(silent);
    expect_refusal(l);
    assert_non_null(strstr(mp_last_error()->text, "too long"));
    mp_connection_free(silent);
    mp_listener_free(l);
}

/* Whatever it sends, and leaves or not: it is refused, and the next one is served. */
static void clients_that_send_nonsense_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
    } nonsense[] = {
        { BYTES("GET / HTTP/1.0\r\n\r\n") },
        { BYTES("\0\0\0\0") },
        { BYTES("\xff\xff\xff\xff\0\0\0\0\0\0\0\x10") },
        { BYTES("\x7f\xff\xff\xff") },
        { BYTES("\0\0\1\1") },
        { BYTES("\0\0\0\x10sixteen letters.") },
        { BYTES("\0\0\0\x01x") },
        { BYTES("\0\0\0\x28{sha256}12345678901234567890123456789012") },
        { BYTES("\0\0\0\x15{md5}1234567890123456") },
        { BYTES("\0\0\0\x0b#CHALLENGE#") },
        { BYTES("\0\0") },
        { BYTES("") },
    };
    mp_listener *l = listen_at(2, "secret");

    (void)state;
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++) {
        struct attempt attempt = { mp_listener_address(l), "secret", 1 };
        mp_connection *c = mp_client(mp_listener_address(l)), *good;
        pthread_t thread;

        assert_non_null(c);
        assert_int_equal(
            write(mp_connection_fileno(c), nonsense[i].bytes, nonsense[i].size), nonsense[i].size);
        (void)shutdown(mp_connection_fileno(c), SHUT_WR);
        expect_refusal(l);
        mp_connection_free(c);
        assert_int_equal(pthread_create(&thread, NULL, try_key, &attempt), 0);
        good = accept_one(l);
        expect_bytes(good, "in");
        mp_connection_free(good);
        (void)pthread_join(thread, NULL);
    }
    mp_listener_free(l);
}

/* Between a client and the listener: passes on what they say, but for one bit of the client's. */
struct middleman {
    mp_connection *client, *listener;
    size_t bit, passed;
};

static bool pass_on(struct middleman *m, mp_connection *from, mp_connection *to)
{
    uint8_t bytes[512];
    ssize_t n = read(mp_connection_fileno(from), bytes, sizeof(bytes));

    if (n <= 0)
        return false;
    if (from == m->client) {
        if (m->bit / 8 >= m->passed && m->bit / 8 < m->passed + (size_t)n)
            bytes[m->bit / 8 - m->passed] ^= (uint8_t)(1 << m->bit % 8);
        m->passed += (size_t)n;
    }
    return send(mp_connection_fileno(to), bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static void *stand_between(void *argument)
{
    struct middleman *m = argument;
    mp_wait_item both[2] = { MP_WAIT(m->client), MP_WAIT(m->listener) };
    bool goes_on = true;

    while (goes_on && mp_wait(both, 2, PATIENCE) > 0) {
        if (both[0].ready)
            goes_on = pass_on(m, m->client, m->listener);
        if (goes_on && both[1].ready)
            goes_on = pass_on(m, m->listener, m->client);
    }
    mp_connection_free(m->client);
    mp_connection_free(m->listener);
    return NULL;
}

enum { RESPONSE = 4 + 40, CHALLENGE = 4 + 59, VERDICT = 4 + 9 };

static void one_wrong_bit_is_enough_to_be_refused(void **state)
{
    mp_listener *l = mp_listener_new(NULL, .authkey = SECRET, .handshake_timeout = 0.05);
    mp_listener *front = listen_at(0, NULL);
    size_t bits = 8 * (RESPONSE + CHALLENGE + VERDICT);

    (void)state;
    assert_non_null(l);
    for (size_t bit = 0; bit < bits; bit++) {
        struct middleman m = { .bit = bit };
        struct attempt attempt = { mp_listener_address(front), "secret", 1 };
        pthread_t client, between;

        assert_int_equal(pthread_create(&client, NULL, try_key, &attempt), 0);
        m.client = accept_one(front);
        m.listener = mp_client(mp_listener_address(l));
        assert_non_null(m.listener);
        assert_int_equal(pthread_create(&between, NULL, stand_between, &m), 0);
        expect_refusal(l);
        (void)pthread_join(between, NULL);
        (void)pthread_join(client, NULL);
    }
    mp_listener_free(front);
    mp_listener_free(l);
}

/* ---- the halves: OtherTest, ChallengeResponseTest ---- */

static void *deliver(void *connection)
{
    static int r;

    r = mp_deliver_challenge(connection, "secret", 6);
    return &r;
}

static int deliver_while(mp_connection *asks, void (*answer)(mp_connection *c), mp_connection *c)
{
    pthread_t thread;
    void *result;

    assert_int_equal(pthread_create(&thread, NULL, deliver, asks), 0);
    answer(c);
    assert_int_equal(pthread_join(thread, &result), 0);
    return *(int *)result;
}

static void receive_challenge(mp_connection *c, mp_message *challenge)
{
    assert_int_equal(mp_connection_recv_bytes(c, challenge, 256), 0);
    assert_int_equal(challenge->size, 59);
    assert_memory_equal(challenge->data, "#CHALLENGE#{sha256}", 19);
}

/* Answers as a Python of that kind would, or wrong. */
static void answer_with(mp_connection *c, const char *name, enum mp__digest digest, bool right)
{
    mp_message challenge = MP_MESSAGE_INIT;
    uint8_t response[64];
    size_t length = strlen(name);

    receive_challenge(c, &challenge);
    memcpy(response, name, length);
    mp__hmac(digest, right ? "secret" : "public", 6, (const char *)challenge.data + 11, 48,
        response + length);
    assert_int_equal(mp_connection_send_bytes(c, response, length + mp__hmac_size(digest)), 0);
    expect_bytes(c, right ? "#WELCOME#" : "#FAILURE#");
    mp_message_clear(&challenge);
}

static void answer_sha256(mp_connection *c)
{
    answer_with(c, "{sha256}", MP__SHA256, true);
}

static void answer_md5(mp_connection *c)
{
    answer_with(c, "{md5}", MP__MD5, true);
}

static void answer_as_before_3_12(mp_connection *c)
{
    answer_with(c, "", MP__MD5, true);
}

static void answer_wrong(mp_connection *c)
{
    answer_with(c, "{sha256}", MP__SHA256, false);
}

static void answer_nonsense(mp_connection *c)
{
    mp_message challenge = MP_MESSAGE_INIT;

    receive_challenge(c, &challenge);
    assert_int_equal(mp_connection_send_bytes(c, BYTES("something bogus")), 0);
    expect_bytes(c, "#FAILURE#");
    mp_message_clear(&challenge);
}

static void answers_of_every_python_are_judged(void **state)
{
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(deliver_while(a, answer_sha256, b), 0);
    assert_int_equal(deliver_while(a, answer_md5, b), 0);
    assert_int_equal(deliver_while(a, answer_as_before_3_12, b), 0);
    assert_int_equal(deliver_while(a, answer_wrong, b), MP_EAUTHENTICATION);
    assert_int_equal(deliver_while(a, answer_nonsense, b), MP_EAUTHENTICATION);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* The vectors of CPython: what is answered to a challenge, and that a verdict counts. */
static void challenges_of_every_python_are_answered(void **state)
{
    static const uint8_t old[] = { 0xf7, 0x52, 0x86, 0x57, 0xe3, 0xde, 0x02, 0x59, 0xed, 0xd6, 0x7e,
        0xf8, 0x1a, 0x92, 0xac, 0x3f };
    static const uint8_t new[] = { 0xfc, 0x57, 0xfb, 0xe6, 0x50, 0xd6, 0x12, 0x4b, 0x98, 0x21, 0x5e,
        0x7b, 0x5d, 0x19, 0x7d, 0x58, 0x07, 0xad, 0x69, 0x98, 0x2d, 0x27, 0x5a, 0x97, 0x35, 0xea,
        0x2d, 0x56, 0xf1, 0xfa, 0x69, 0x89 };
    char challenge[59] = "#CHALLENGE#{sha256}";
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;

    (void)state;
    for (int i = 0; i < 40; i++)
        challenge[19 + i] = (char)i;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send_bytes(b, BYTES("#CHALLENGE#is-twenty-bytes-long")), 0);
    assert_int_equal(mp_connection_send_bytes(b, BYTES("#WELCOME#")), 0);
    assert_int_equal(mp_answer_challenge(a, "secret", 6), 0);
    assert_int_equal(mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, sizeof(old));
    assert_memory_equal(message.data, old, sizeof(old));
    assert_int_equal(mp_connection_send_bytes(b, challenge, sizeof(challenge)), 0);
    assert_int_equal(mp_connection_send_bytes(b, BYTES("something bogus")), 0);
    assert_int_equal(mp_answer_challenge(a, "secret", 6), MP_EAUTHENTICATION);
    assert_int_equal(mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH), 0);
    assert_int_equal(message.size, 8 + sizeof(new));
    assert_memory_equal(message.data, "{sha256}", 8);
    assert_memory_equal((const char *)message.data + 8, new, sizeof(new));
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void challenges_that_are_none_are_refused(void **state)
{
    static const char *const bad[] = {
        "#CHALLENGE#",
        "#CHALLENGE#too short",
        "hello",
        "#challenge#is-twenty-bytes-long",
        "#CHALLENGE#{sha512}12345678901234567890",
        "#CHALLENGE#{sha256}short",
        "#CHALLENGE#no name, but more than twenty bytes",
    };
    char many[300];
    mp_connection *a, *b;

    (void)state;
    memset(many, 'x', sizeof(many));
    for (size_t i = 0; i <= sizeof(bad) / sizeof(*bad); i++) {
        bool last = i == sizeof(bad) / sizeof(*bad);

        assert_int_equal(mp_pipe(&a, &b), 0);
        assert_int_equal(
            mp_connection_send_bytes(b, last ? many : bad[i], last ? sizeof(many) : strlen(bad[i])),
            0);
        assert_int_equal(mp_answer_challenge(a, "secret", 6), MP_EAUTHENTICATION);
        assert_int_equal(mp_connection_poll(b, 0), 0);
        mp_connection_free(a);
        mp_connection_free(b);
    }
    assert_int_equal(mp_answer_challenge(NULL, "secret", 6), MP_EINVAL);
}

/* ---- other processes ---- */

static mp_listener *inherited;

static int use_inherited(mp_call *call)
{
    mp_connection *c;
    int fd;

    if (mp_unpack(call, &fd) || !inherited)
        return 99;
    if (mp_listener_accept(inherited, 0, &c) != MP_ECLOSED || fcntl(fd, F_GETFD) >= 0)
        return 1;
    mp_listener_close(inherited);
    mp_listener_free(inherited);
    return 0;
}

static void children_of_ours_do_not_have_it(void **state)
{
    (void)state;
    inherited = listen_at(0, "secret");
    assert_int_equal(finish(start_process(.target = use_inherited,
                         .args = MP_ARGS(mp_listener_fileno(inherited)))),
        0);
    assert_true(is_socket(mp_listener_address(inherited)));
    mp_listener_free(inherited);
    inherited = NULL;
}

static void a_copy_made_by_hand_accepts_too(void **state)
{
    mp_listener *l = listen_at(0, NULL);
    mp_connection *client, *c;
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        if (mp_listener_accept(l, PATIENCE, &c) || mp_connection_send_bytes(c, "copy", 4))
            _exit(1);
        mp_listener_free(l);
        _exit(0);
    }
    client = mp_client(mp_listener_address(l));
    assert_non_null(client);
    expect_bytes(client, "copy");
    mp_connection_free(client);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(is_socket(mp_listener_address(l))); /* it is not the copy's to remove */
    mp_listener_free(l);
}

/* Ends without closing it. */
static int leave_open(mp_call *call)
{
    mp_listener *l = mp_listener_new(NULL);
    mp_connection *line;

    return mp_unpack(call, &line) || !l || mp_connection_send(line, mp_listener_address(l));
}

static void what_is_open_at_exit_is_removed(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    mp_process *p = start_with_line(leave_open, &line);
    const char *path;

    (void)state;
    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &path), 0);
    assert_int_equal(finish(p), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    mp_message_clear(&message);
    mp_connection_free(line);
}

/* 0 if it works: no descriptor is left for the client, which can be accepted later. */
static int accept_at_the_limit(mp_call *call)
{
    struct rlimit limit = { 40, 40 };
    mp_listener *l = mp_listener_new(NULL);
    mp_connection *client = l ? mp_client(mp_listener_address(l)) : NULL, *c;
    int fd, last = -1;

    (void)call;
    if (!client || setrlimit(RLIMIT_NOFILE, &limit))
        return 1;
    while ((fd = dup(STDERR_FILENO)) >= 0)
        last = fd;
    if (mp_listener_accept(l, PATIENCE, &c) != MP_EMFILE || close(last))
        return 2;
    if (mp_listener_accept(l, PATIENCE, &c))
        return 3;
    mp_connection_free(c);
    mp_connection_free(client);
    mp_listener_free(l);
    return 0;
}

static void at_the_limit_of_descriptors_a_client_waits(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = accept_at_the_limit)), 0);
}

/* ---- Python ---- */

static void a_python_client_is_served(void **state)
{
    static const char script[] = "import sys\n"
                                 "from multiprocessing.connection import Client\n"
                                 "from multiprocessing import AuthenticationError\n"
                                 "a = sys.argv[1]\n"
                                 "a = a if '/' in a else (a.split(':')[0], int(a.split(':')[1]))\n"
                                 "try:\n"
                                 "    Client(a, authkey=b'public')\n"
                                 "except AuthenticationError:\n"
                                 "    pass\n"
                                 "c = Client(a, authkey=b'secret')\n"
                                 "c.send_bytes(b'from python')\n"
                                 "assert c.recv_bytes() == b'from C'\n";

    (void)state;
    for (size_t i = 0; i < 3; i += 2) {
        mp_listener *l = listen_at(i, "secret");
        static outcome out;
        mp_connection *c;
        pid_t pid = fork();

        if (pid == 0)
            _exit(!run_python(script, mp_listener_address(l), &out));
        if (mp_listener_accept(l, PATIENCE, &c) == MP_EAUTHENTICATION) {
            c = accept_one(l);
            expect_bytes(c, "from python");
            assert_int_equal(mp_connection_send_bytes(c, "from C", 6), 0);
            mp_connection_free(c);
        }
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        mp_listener_free(l);
    }
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(a_child_says_hello_in_every_family),
    UNDER_EACH(a_child_with_the_key_is_let_in),
    ONCE(a_second_listener_at_an_address_is_refused),
    ONCE(a_closed_listener_accepts_nobody_and_its_path_is_gone),
    ONCE(another_socket_at_its_path_is_left_there),
    ONCE(what_a_client_sent_before_it_left_is_there),
    ONCE(poll_sees_what_the_accepting_side_sends),
    ONCE(handles_travel_to_a_client_at_a_path),
    ONCE(addresses_that_cannot_be_are_refused),
    ONCE(nobody_listens_there),
    ONCE(hosts_have_names),
    ONCE(accept_has_a_timeout),
    ONCE(a_client_has_a_timeout),
    ONCE(a_full_backlog_is_waited_for_as_long_as_allowed),
    ONCE(closing_wakes_who_accepts),
    ONCE(wrong_keys_are_refused_on_both_sides),
    ONCE(a_client_that_says_nothing_keeps_nobody_waiting),
    ONCE(a_client_that_takes_too_long_is_refused),
    ONCE(clients_that_send_nonsense_are_refused),
    ONCE(one_wrong_bit_is_enough_to_be_refused),
    ONCE(answers_of_every_python_are_judged),
    ONCE(challenges_of_every_python_are_answered),
    ONCE(challenges_that_are_none_are_refused),
    UNDER(children_of_ours_do_not_have_it, "fork"),
    ONCE(a_copy_made_by_hand_accepts_too),
    UNDER_EACH(what_is_open_at_exit_is_removed),
    UNDER_EACH(at_the_limit_of_descriptors_a_client_waits),
    ONCE(a_python_client_is_served),
};

TESTS_MAIN(tests)
