/* SPDX-License-Identifier: MIT
 *
 * test_connection_listener.c - listeners and clients: addresses, the handshake, peers
 * that misbehave, and peers in Python.
 */
#include "support.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock_internal.h"
#include "connection_pending_internal.h"
#include "hmac_internal.h"
#include "hooks_internal.h"

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
        { "127.0.0.1", NULL, MP_EINVAL },
        { "127.0.0.1:", NULL, MP_EINVAL },
        { "127.0.0.1:http", NULL, MP_EINVAL },
        { "[::1]", NULL, MP_EINVAL },
        { "[::1", NULL, MP_EINVAL },
        { "[::1:5", NULL, MP_EINVAL },
        { "[::1:5", "AF_INET6", MP_EINVAL },
        { "[]", NULL, MP_EINVAL },
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

/* What looks like a host is a path where the family says so. */
static int be_at_odd_paths(mp_call *call)
{
    static const char *const odd[] = { "127.0.0.1", "127.0.0.1:http", "[::1]", "x:1" };

    if (mp_unpack(call) || chdir("/tmp"))
        return 99;
    for (size_t i = 0; i < 4; i++) {
        mp_listener *l = mp_listener_new(odd[i], "AF_UNIX");
        mp_connection *c = l ? mp_client(odd[i], "AF_UNIX") : NULL;

        mp_connection_free(c);
        mp_listener_free(l);
        if (!c || is_socket(odd[i]))
            return 1;
    }
    return 0;
}

static void a_family_makes_a_path_of_anything(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = be_at_odd_paths)), 0);
}

/* The kernel has room for 108 bytes, of which a path needs one for its end. */
static void names_may_be_as_long_as_the_kernel_allows(void **state)
{
    char name[120];
    mp_connection *c;
    mp_listener *l;

    (void)state;
    memset(name, 'n', sizeof(name));
    (void)snprintf(name, sizeof(name), "@mp-test-long-%ld", (long)getpid());
    name[strlen(name)] = 'n';
    name[109] = '\0';
    assert_null(mp_listener_new(name));
    assert_int_equal(mp_last_error()->code, MP_ENAMETOOLONG);
    name[108] = '\0';
    l = mp_listener_new(name);
    assert_non_null(l);
    assert_string_equal(mp_listener_address(l), name);
    c = mp_client(name);
    assert_non_null(c);
    mp_connection_free(c);
    mp_listener_free(l);
}

/* In a process of its own, for its TMPDIR and where it works. */
static int use_temporary(mp_call *call)
{
    char folder[] = "/tmp/mp-test-tmp-XXXXXX", address[200], many[200];
    mp_connection *c;
    mp_listener *l;

    if (mp_unpack(call) || !mkdtemp(folder) || chdir(folder) || mkdir("inner", 0700))
        return 99;
    memset(many, 'x', sizeof(many) - 1);
    many[0] = '/';
    many[sizeof(many) - 1] = '\0';
    (void)setenv("TMPDIR", many, 1);
    if (mp_listener_new(NULL) || mp_last_error()->code != MP_ENAMETOOLONG)
        return 1;
    (void)setenv("TMPDIR", "inner", 1);
    l = mp_listener_new(NULL);
    if (!l || chdir("/"))
        return 2;
    (void)snprintf(address, sizeof(address), "%s", mp_listener_address(l));
    c = mp_client(address);
    if (*address != '/' || !c)
        return 3;
    mp_connection_free(c);
    mp_listener_free(l);
    if (chdir(folder) || rmdir("inner") || rmdir(folder)) /* the folder for it is gone */
        return 4;
    return 0;
}

static void folders_of_its_own_are_found_again_from_elsewhere(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = use_temporary)), 0);
}

static void removing_is_advised_for_sockets_only(void **state)
{
    char path[] = "/tmp/mp-test-file-XXXXXX";
    int fd = mkstemp(path);
    mp_listener *l = listen_at(0, NULL);

    (void)state;
    assert_true(fd >= 0);
    (void)close(fd);
    assert_null(mp_listener_new(path));
    assert_int_equal(mp_last_error()->code, -EADDRINUSE);
    assert_null(strstr(mp_last_error()->text, "remove"));
    assert_null(mp_listener_new(mp_listener_address(l)));
    assert_non_null(strstr(mp_last_error()->text, "remove"));
    assert_int_equal(unlink(path), 0);
    mp_listener_free(l);
}

/* ---- finding a host that takes long ---- */

static mp_connection *asked, *go_ahead; /* ends of pipes: what is asked for, and its answer */

/* That of the C library, but for one host, which is found once somebody says so. */
int getaddrinfo(
    const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
    mp_message message = MP_MESSAGE_INIT;

    memcpy(&real, &symbol, sizeof(real));
    if (!host || strcmp(host, "slow.invalid") != 0)
        return real(host, port, hints, found);
    (void)mp_connection_send_bytes(asked, "?", 1);
    (void)mp_connection_recv_bytes(go_ahead, &message, MP_ANY_LENGTH);
    mp_message_clear(&message);
    return EAI_AGAIN;
}

static void *listen_at_slow(void *unused)
{
    (void)unused;
    return mp_listener_new("slow.invalid:0");
}

static int do_nothing(mp_call *call)
{
    return mp_unpack(call) != 0;
}

static void a_host_that_takes_long_to_find_keeps_nobody_waiting(void **state)
{
    mp_connection *hears, *says, *a, *b;
    pthread_t thread;
    void *result;

    (void)state;
    assert_int_equal(mp_pipe(&hears, &asked), 0);
    assert_int_equal(mp_pipe(&go_ahead, &says), 0);
    assert_int_equal(pthread_create(&thread, NULL, listen_at_slow, NULL), 0);
    expect_bytes(hears, "?");
    assert_int_equal(mp_pipe(&a, &b), 0); /* what holds forks */
    mp_connection_free(a);
    mp_connection_free(b);
    if (!HAS_TSAN)
        assert_int_equal(finish(start_process(.target = do_nothing)), 0);
    assert_int_equal(mp_connection_send_bytes(says, "!", 1), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
    mp_connection_free(hears);
    mp_connection_free(says);
    mp_connection_free(asked);
    mp_connection_free(go_ahead);
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

static void a_client_with_less_than_no_time_tries_once(void **state)
{
    static const double less[] = { -1, (double)NAN };

    (void)state;
    for (int i = 0; i < 2; i++) {
        mp_listener *l = listen_at(0, NULL);
        mp_connection *c = mp_client(mp_listener_address(l), .timeout = less[i]);

        assert_non_null(c); /* a Unix socket is connected at once */
        mp_connection_free(c);
        assert_null(mp_client(mp_listener_address(l), .authkey = SECRET, .timeout = less[i]));
        assert_int_equal(mp_last_error()->code, MP_ETIMEDOUT);
        mp_listener_free(l);
    }
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

/* Where another thread accepts, too: a place is free once close is back. */
static void a_closed_listener_makes_room_at_once(void **state)
{
    char address[200];
    mp_listener *l;

    (void)state;
    for (size_t place = 2; place < PLACES; place++) {
        l = listen_at(place, place % 2 ? "secret" : NULL);
        for (int i = 0; l && i < 30; i++) {
            mp_listener *closed = l;
            pthread_t thread;

            (void)snprintf(address, sizeof(address), "%s", mp_listener_address(l));
            assert_int_equal(pthread_create(&thread, NULL, accept_for_ever, l), 0);
            mp_listener_close(l);
            l = mp_listener_new(address);
            assert_non_null(l);
            (void)pthread_join(thread, NULL);
            mp_listener_free(closed);
        }
        mp_listener_free(l);
    }
}

static void *close_it(void *listener)
{
    mp_listener_close(listener);
    return NULL;
}

static void two_may_close_it_at_once(void **state)
{
    char address[200];
    mp_listener *l, *next;

    (void)state;
    (void)snprintf(address, sizeof(address), "/tmp/mp-test-two-%ld", (long)getpid());
    l = mp_listener_new(address);
    assert_non_null(l);
    for (int i = 0; i < 100; i++) {
        pthread_t accepts, closes;

        assert_int_equal(pthread_create(&accepts, NULL, accept_for_ever, l), 0);
        assert_int_equal(pthread_create(&closes, NULL, close_it, l), 0);
        mp_listener_close(l); /* whoever of them is first: now it is closed */
        next = mp_listener_new(address);
        assert_non_null(next);
        (void)pthread_join(closes, NULL);
        (void)pthread_join(accepts, NULL);
        mp_listener_free(l);
        l = next;
    }
    mp_listener_free(l);
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

/* A client whose side of the handshake is done by hand, step by step. */
struct steps {
    mp_connection *connection;
    mp__handshake handshake;
};

static void begin_steps(struct steps *s, mp_listener *l)
{
    s->connection = mp_client(mp_listener_address(l));
    assert_non_null(s->connection);
    mp__handshake_begin(&s->handshake, false, "secret", 6);
}

/* Answers what has come: 1 when there is nothing more to say. */
static int answer_step(struct steps *s)
{
    int r = mp__handshake_advance(&s->handshake, mp_connection_fileno(s->connection));

    assert_true(r >= 0);
    return r;
}

/* Looks in: who is in by now, or NULL. */
static mp_connection *look_in(mp_listener *l)
{
    mp_connection *c = NULL;
    int r = mp_listener_accept(l, 0, &c);

    if (r < 0)
        assert_int_equal(r, MP_ETIMEDOUT);
    return c;
}

/* All have less time than passes between two looks, but each has spoken before each. */
static void a_client_that_has_answered_is_not_late(void **state)
{
    mp_listener *l = mp_listener_new(NULL, .authkey = SECRET, .handshake_timeout = 1e-9);
    struct steps s[10];
    int in = 0;

    (void)state;
    assert_non_null(l);
    for (int i = 0; i < 10; i++)
        begin_steps(&s[i], l);
    while (in < 10) {
        mp_connection *c = look_in(l);

        in += c != NULL;
        mp_connection_free(c);
        for (int i = 0; i < 10; i++)
            (void)answer_step(&s[i]);
    }
    for (int i = 0; i < 10; i++)
        mp_connection_free(s[i].connection);
    mp_listener_free(l);
}

/* ---- the time of clients, on a clock of our own ---- */

#define SECOND INT64_C(1000000000)

/* One client of a listener that is not there; its peer is peer. */
struct timed {
    mp__pending pending;
    struct pollfd fds[1];
    int fd, peer;
};

static void begin_timed(struct timed *t, double patience)
{
    int pair[2];

    memset(t, 0, sizeof(*t));
    atomic_init(&t->pending.watch, -1);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    t->fd = pair[0];
    t->peer = pair[1];
    assert_int_equal(mp__pending_init(&t->pending, patience), 0);
    assert_int_equal(mp__pending_add(&t->pending, t->fd, "", "secret", 6, 0), 0);
    assert_int_equal(mp__pending_advance(&t->pending, 0), 0);
}

static void end_timed(struct timed *t)
{
    mp__pending_forget(&t->pending, 0);
    mp__pending_done(&t->pending);
    assert_int_equal(close(t->fd) | close(t->peer), 0);
}

/* A turn from one time to another, in seconds, in which it says something or not. */
static bool is_late(struct timed *t, int from, int to, bool says)
{
    int64_t deadline = MP__NEVER;

    mp__pending_prepare(&t->pending, t->fds, &deadline, from * SECOND);
    t->fds[0].revents = says ? POLLIN : 0;
    if (says)
        assert_int_equal(write(t->peer, "", 1), 1);
    mp__pending_look(&t->pending, t->fds, to * SECOND);
    if (says)
        assert_int_equal(mp__pending_advance(&t->pending, 0), 0);
    return mp__pending_find_late(&t->pending, to * SECOND) == 0;
}

static void time_without_accept_counts_for_who_says_nothing(void **state)
{
    struct timed t;

    (void)state;
    begin_timed(&t, 10);
    assert_false(is_late(&t, 0, 1, false));
    assert_false(is_late(&t, 100, 100, true)); /* it spoke while nobody was there */
    assert_false(is_late(&t, 200, 200, true));
    assert_false(is_late(&t, 200, 208, false)); /* 9 of 10 seconds */
    assert_true(is_late(&t, 208, 210, false));
    end_timed(&t);
    begin_timed(&t, 10);
    assert_false(is_late(&t, 0, 1, false));
    assert_false(is_late(&t, 8, 8, false));
    assert_true(is_late(&t, 12, 12, false)); /* as for a loop that looks in now and then */
    end_timed(&t);
}

static void who_spoke_in_a_turn_is_not_refused_in_it(void **state)
{
    struct timed t;

    (void)state;
    begin_timed(&t, 10);
    assert_false(is_late(&t, 0, 100, true));
    assert_int_equal(mp__pending_find_oldest(&t.pending), -1);
    assert_true(is_late(&t, 100, 100, false));
    assert_int_equal(mp__pending_find_oldest(&t.pending), 0);
    end_timed(&t);
    begin_timed(&t, 2e9); /* for ever */
    assert_false(is_late(&t, 0, 1000000, false));
    end_timed(&t);
}

/* ---- many, and event loops ---- */

static void when_all_places_are_taken_the_first_one_goes(void **state)
{
    mp_listener *l = mp_listener_new(NULL, .authkey = SECRET, .handshake_timeout = MP_FOREVER);
    mp_connection *silent[MP__PENDING_MAX], *c = NULL;
    struct attempt attempt = { mp_listener_address(l), "secret", 1 };
    pthread_t thread;
    int r, refused = 0;

    (void)state;
    for (int i = 0; i < MP__PENDING_MAX; i++) {
        silent[i] = mp_client(mp_listener_address(l));
        assert_non_null(silent[i]);
        assert_null(look_in(l));
    }
    assert_int_equal(pthread_create(&thread, NULL, try_key, &attempt), 0);
    while ((r = mp_listener_accept(l, PATIENCE, &c)) == MP_EAUTHENTICATION) {
        assert_non_null(strstr(mp_last_error()->text, "others wait"));
        refused++;
    }
    assert_int_equal(r, 0);
    assert_int_equal(refused, 1);
    expect_bytes(c, "in");
    mp_connection_free(c);
    (void)pthread_join(thread, NULL);
    assert_int_equal(attempt.code, 0);
    for (int i = 0; i < MP__PENDING_MAX; i++)
        mp_connection_free(silent[i]);
    mp_listener_free(l);
}

static bool is_readable(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };

    return poll(&one, 1, 0) == 1;
}

/* Whether this system has descriptors that watch others. */
static bool watches(mp_listener *l)
{
    struct stat status;

    if (fstat(mp_listener_fileno(l), &status) < 0 || !S_ISSOCK(status.st_mode))
        return true;
    print_message("fileno is the listening socket here\n");
    return false;
}

static void fileno_is_readable_when_there_is_something_to_do(void **state)
{
    (void)state;
    for (size_t i = 0; i < PLACES; i++) {
        mp_listener *l = listen_at(i, "secret");
        mp_connection *c;
        struct steps s;
        int fd, steps = 0;

        if (!l)
            continue;
        fd = mp_listener_fileno(l);
        assert_false(is_readable(fd));
        begin_steps(&s, l);
        assert_true(is_readable(fd));
        while (!(c = look_in(l)) && watches(l)) {
            assert_false(is_readable(fd)); /* it is the client's turn */
            (void)answer_step(&s);
            assert_int_equal(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 60000), 1);
            assert_true(steps++ < 4);
        }
        assert_false(is_readable(fd));
        assert_int_equal(mp_connection_send_bytes(s.connection, "hello", 5), 0);
        assert_false(is_readable(fd)); /* who is in has a descriptor of its own */
        mp_connection_free(c);
        mp_connection_free(s.connection);
        mp_listener_free(l);
    }
}

static void fileno_is_readable_when_one_leaves_that_was_half_in(void **state)
{
    mp_listener *l = listen_at(0, "secret");
    struct steps s;

    (void)state;
    begin_steps(&s, l);
    assert_null(look_in(l));
    mp_connection_free(s.connection);
    if (watches(l))
        assert_true(is_readable(mp_listener_fileno(l)));
    expect_refusal(l);
    assert_false(is_readable(mp_listener_fileno(l)));
    mp_listener_free(l);
}

/* ---- descriptors, and names, from clients that have not shown the key ---- */

static ssize_t send_descriptor(int socket, int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec byte = { "", 1 };
    struct msghdr message = { .msg_iov = &byte,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control) };

    memset(&control, 0, sizeof(control));
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One end of TCP that has something to send, and would wait for that when it is closed. */
static int make_lingering(mp_connection **peer)
{
    struct linger minutes = { .l_onoff = 1, .l_linger = 600 };
    mp_listener *l = listen_at(2, NULL);
    mp_connection *c = mp_client(mp_listener_address(l));
    char bytes[4096] = { 0 };
    int fd;

    assert_non_null(c);
    *peer = accept_one(l);
    fd = dup(mp_connection_fileno(c));
    mp_connection_free(c);
    mp_listener_free(l);
    while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &minutes, sizeof(minutes)), 0);
    return fd;
}

/* After first, which is refused, or is nothing. */
static void send_lingering(mp_listener *l, const char *first)
{
    mp_connection *peer, *c = mp_client(mp_listener_address(l));
    int fd = make_lingering(&peer), socket = mp_connection_fileno(c);
    bool sent;

    assert_int_equal(send(socket, first, strlen(first), 0), strlen(first));
    sent = send_descriptor(socket, fd) == 1;
    assert_true(sent || errno == EPERM); /* since Linux 6.16 the system refuses */
    if (!sent)
        mp_connection_free(peer); /* then nothing lingers any more */
    assert_int_equal(close(fd), 0);
    (void)shutdown(socket, SHUT_WR);
    expect_refusal(l); /* now, not in ten minutes */
    mp_connection_free(c);
    if (sent)
        mp_connection_free(peer);
}

static void descriptors_in_the_handshake_keep_nobody_waiting(void **state)
{
    mp_listener *l = listen_at(0, "secret");

    (void)state;
    send_lingering(l, "");
    send_lingering(l, "GET / HTTP/1.0\r\n\r\n");
    mp_listener_free(l);
}

static void *try_handle(void *address)
{
    mp_connection *c = mp_client(address, .authkey = SECRET, .timeout = PATIENCE);
    void *sent = NULL;

    if (c && mp_connection_send(c, c) == 0)
        sent = address;
    mp_connection_free(c);
    return sent;
}

/* In both directions, and at once: the other side may not have heard yet that all is well. */
static void handles_may_follow_the_handshake_at_once(void **state)
{
    mp_listener *l = listen_at(0, "secret");

    (void)state;
    for (int i = 0; i < 50; i++) {
        mp_message message = MP_MESSAGE_INIT;
        mp_connection *c, *given;
        pthread_t thread;
        void *sent;

        assert_int_equal(
            pthread_create(&thread, NULL, try_handle, (void *)mp_listener_address(l)), 0);
        c = accept_one(l);
        assert_int_equal(mp_connection_recv(c, &message), 0);
        assert_int_equal(mp_unpack(&message, &given), 0);
        mp_message_clear(&message);
        (void)pthread_join(thread, &sent);
        assert_non_null(sent);
        mp_connection_free(c);
    }
    mp_listener_free(l);
}

/* A name of its own choice would stand in our logs. */
static void names_of_unix_clients_are_not_repeated(void **state)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX }, to = { .sun_family = AF_UNIX };
    mp_listener *l = listen_at(0, "secret");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    (void)snprintf(name.sun_path + 1, 60, "evil\n\033[31m%ld", (long)getpid());
    (void)snprintf(to.sun_path, sizeof(to.sun_path), "%s", mp_listener_address(l));
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    assert_int_equal(write(fd, "GET / HTTP/1.0", 14), 14);
    expect_refusal(l);
    assert_null(strstr(mp_last_error()->text, "evil"));
    assert_int_equal(close(fd), 0);
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
    mp_connection *silent;

    (void)state;
    inherited = listen_at(0, "secret");
    silent = mp_client(mp_listener_address(inherited));
    assert_null(look_in(inherited));
    assert_int_equal(finish(start_process(.target = use_inherited,
                         .args = MP_ARGS(mp_listener_fileno(inherited)))),
        0);
    assert_true(is_socket(mp_listener_address(inherited)));
    mp_connection_free(silent);
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

/* Goes on accepting where the other one is half through, in what it watches, too. */
static int be_a_copy_with_a_key(mp_listener *l, const char *address, bool watching)
{
    struct attempt attempt = { address, "secret", 1 };
    pthread_t thread;
    mp_connection *c = NULL;
    int fd = mp_listener_fileno(l);

    if (watches(l) != watching || is_readable(fd)) /* of the other one's clients it hears nothing */
        return 1;
    if (HAS_TSAN) /* it lets nobody begin threads here */
        return 0;
    if (pthread_create(&thread, NULL, try_key, &attempt))
        return 2;
    while (!c) {
        struct pollfd one = { .fd = fd, .events = POLLIN };
        int r =
            poll(&one, 1, 60000) == 1 ? mp_listener_accept(l, watches(l) ? 0 : PATIENCE, &c) : 0;

        if (r != MP_ETIMEDOUT && (r || !c))
            return 3;
    }
    (void)pthread_join(thread, NULL);
    mp_connection_free(c);
    mp_listener_free(l);
    return attempt.code != 0;
}

/* Descriptors of this process that watch others. */
static int count_watches(void)
{
    int count = 0;

    for (int fd = 0; fd < 256; fd++) {
        char path[64], target[64] = "";

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (readlink(path, target, sizeof(target) - 1) > 0)
            count += strstr(target, "eventpoll") != NULL;
    }
    return count;
}

static void a_copy_made_by_hand_watches_for_itself(void **state)
{
    mp_listener *l = listen_at(0, "secret");
    mp_connection *c;
    struct steps s;
    int status, before;
    bool watching = watches(l);
    pid_t pid;

    (void)state;
    begin_steps(&s, l);
    assert_null(look_in(l));
    (void)answer_step(&s);
    before = count_watches();
    pid = fork();
    if (pid == 0)
        _exit(count_watches() != before
                  ? 9
                  : be_a_copy_with_a_key(l, mp_listener_address(l), watching));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    if (watching)
        assert_true(is_readable(mp_listener_fileno(l)));
    while (!(c = look_in(l)))
        (void)answer_step(&s);
    mp_connection_free(c);
    mp_connection_free(s.connection);
    mp_listener_free(l);
}

/* Forks are held meanwhile, by this thread, so it closes no descriptor yet. */
static void a_copy_made_while_it_closes_does_not_listen(void **state)
{
    mp_listener *l = listen_at(2, NULL);
    int fd = mp_listener_fileno(l), status;
    pthread_t thread;
    pid_t pid;

    (void)state;
    mp__hooks_hold_forks();
    assert_int_equal(pthread_create(&thread, NULL, close_it, l), 0);
    while (mp_listener_fileno(l) != MP_ECLOSED)
        (void)sched_yield();
    pid = fork();
    if (pid == 0) {
        bool listens = fcntl(fd, F_GETFD) >= 0;

        mp_listener_free(l);
        _exit(listens);
    }
    mp__hooks_let_forks();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)pthread_join(thread, NULL);
    mp_listener_free(l);
}

static atomic_int made; /* listeners */

static void *make_and_free(void *unused)
{
    (void)unused;
    for (;;) {
        mp_listener_free(mp_listener_new(NULL, .authkey = SECRET));
        atomic_fetch_add(&made, 1);
    }
    return NULL;
}

static bool start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;

    return pthread_create(&thread, NULL, function, argument) == 0 && pthread_detach(thread) == 0;
}

/* Exits while other threads make and free listeners, and one accepts. */
static int exit_amid_listeners(mp_call *call)
{
    static mp_listener *l;

    l = mp_listener_new(NULL, .authkey = SECRET);
    if (mp_unpack(call) || !l || !start_thread(accept_for_ever, l))
        return 99;
    for (int i = 0; i < 3; i++)
        if (!start_thread(make_and_free, NULL))
            return 98;
    while (atomic_load(&made) < 20)
        (void)sched_yield();
    return 0;
}

static void exit_and_free_may_meet(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++)
        assert_int_equal(finish(start_process(.target = exit_amid_listeners)), 0);
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
    int64_t begin;
    int fd, last = -1;

    (void)call;
    if (!client || setrlimit(RLIMIT_NOFILE, &limit))
        return 1;
    while ((fd = dup(STDERR_FILENO)) >= 0)
        last = fd;
    if (mp_listener_accept(l, 0, &c) != MP_EMFILE)
        return 4;
    begin = mp__clock_now();
    if (mp_listener_accept(l, PATIENCE, &c) != MP_EMFILE || close(last))
        return 2;
    if (mp__clock_now() - begin < SECOND / 10) /* who calls again and again does not spin */
        return 5;
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

/* The same with a client that is half in: it is heard meanwhile, and makes room. */
static int accept_when_one_leaves(mp_call *call)
{
    struct rlimit limit = { 60, 60 };
    mp_listener *l = mp_listener_new(NULL, .authkey = SECRET);
    mp_connection *first = l ? mp_client(mp_listener_address(l)) : NULL, *second, *c;

    (void)call;
    if (!first || mp_listener_accept(l, 0, &c) != MP_ETIMEDOUT)
        return 1;
    second = mp_client(mp_listener_address(l));
    if (!second || setrlimit(RLIMIT_NOFILE, &limit))
        return 2;
    while (dup(STDERR_FILENO) >= 0)
        ;
    if (shutdown(mp_connection_fileno(first), SHUT_WR) ||
        mp_listener_accept(l, PATIENCE, &c) != MP_EAUTHENTICATION)
        return 3;
    if (mp_listener_accept(l, 0, &c) != MP_ETIMEDOUT) /* the second one got its descriptor */
        return 4;
    mp_connection_free(first);
    mp_connection_free(second);
    mp_listener_free(l);
    return 0;
}

static void at_the_limit_who_leaves_makes_room(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = accept_when_one_leaves)), 0);
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
    UNDER(a_family_makes_a_path_of_anything, "fork"),
    ONCE(names_may_be_as_long_as_the_kernel_allows),
    UNDER(folders_of_its_own_are_found_again_from_elsewhere, "fork"),
    ONCE(removing_is_advised_for_sockets_only),
    UNDER(a_host_that_takes_long_to_find_keeps_nobody_waiting, "spawn"),
    ONCE(nobody_listens_there),
    ONCE(hosts_have_names),
    ONCE(accept_has_a_timeout),
    ONCE(a_client_has_a_timeout),
    ONCE(a_client_with_less_than_no_time_tries_once),
    ONCE(a_full_backlog_is_waited_for_as_long_as_allowed),
    ONCE(closing_wakes_who_accepts),
    ONCE(a_closed_listener_makes_room_at_once),
    ONCE(two_may_close_it_at_once),
    ONCE(wrong_keys_are_refused_on_both_sides),
    ONCE(a_client_that_says_nothing_keeps_nobody_waiting),
    ONCE(a_client_that_takes_too_long_is_refused),
    ONCE(a_client_that_has_answered_is_not_late),
    ONCE(time_without_accept_counts_for_who_says_nothing),
    ONCE(who_spoke_in_a_turn_is_not_refused_in_it),
    ONCE(when_all_places_are_taken_the_first_one_goes),
    ONCE(fileno_is_readable_when_there_is_something_to_do),
    ONCE(fileno_is_readable_when_one_leaves_that_was_half_in),
    ONCE(descriptors_in_the_handshake_keep_nobody_waiting),
    ONCE(handles_may_follow_the_handshake_at_once),
    ONCE(names_of_unix_clients_are_not_repeated),
    ONCE(clients_that_send_nonsense_are_refused),
    ONCE(one_wrong_bit_is_enough_to_be_refused),
    ONCE(answers_of_every_python_are_judged),
    ONCE(challenges_of_every_python_are_answered),
    ONCE(challenges_that_are_none_are_refused),
    UNDER(children_of_ours_do_not_have_it, "fork"),
    ONCE(a_copy_made_by_hand_accepts_too),
    ONCE(a_copy_made_by_hand_watches_for_itself),
    ONCE(a_copy_made_while_it_closes_does_not_listen),
    UNDER(exit_and_free_may_meet, "spawn"),
    UNDER_EACH(what_is_open_at_exit_is_removed),
    UNDER_EACH(at_the_limit_of_descriptors_a_client_waits),
    UNDER_EACH(at_the_limit_who_leaves_makes_room),
    ONCE(a_python_client_is_served),
};

TESTS_MAIN(tests)
