/* SPDX-License-Identifier: MIT
 *
 * listener.c - a service that other programs connect to: a listener, and clients that
 * prove that they have its key. A client may be a Python program as well:
 *
 *     from multiprocessing.connection import Client
 *     Client(address, authkey=b'a key').send_bytes(b'...')
 *
 *     listener [host:port or path]
 */
#include <multiprocessing.h>
#include <stdio.h>
#include <string.h>

/* Runs in a child, but knows nothing of its parent: an address and a key are enough. */
static int client(mp_call *call)
{
    mp_message reply = MP_MESSAGE_INIT;
    const char *address, *key, *word;
    mp_connection *service;
    int r;

    if (mp_unpack(call, &address, &key) < 0)
        return mp_perror("client"), 1;
    service = mp_client(address, .authkey = { key, strlen(key) });
    if (!service) { /* MP_EAUTHENTICATION, if the key is another */
        printf("  the client: %s\n", mp_error_python(mp_last_error()->code));
        return 2;
    }
    r = mp_connection_send(service, mp_list("how long is this?", 5));
    if (r == 0)
        r = mp_connection_recv(service, &reply);
    if (r == 0)
        r = mp_unpack(&reply, &word);
    if (r == 0)
        printf("  the client: %s\n", word);
    mp_message_clear(&reply);
    mp_connection_free(service);
    return r < 0;
}

/* Answers one client. */
static int serve(mp_connection *peer)
{
    mp_message question = MP_MESSAGE_INIT;
    const char *text;
    char answer[64];
    int number;
    int r = mp_connection_recv(peer, &question);

    if (r == 0)
        r = mp_unpack(&question, &text, &number);
    if (r == 0) {
        (void)snprintf(answer, sizeof(answer), "%zu letters and %d", strlen(text), number);
        r = mp_connection_send(peer, answer);
    }
    mp_message_clear(&question);
    mp_connection_free(peer);
    return r;
}

/* Starts a client with that key, and does what a service does in its loop. */
static int meet(mp_listener *listener, const char *key)
{
    mp_process *p =
        mp_process_new(.target = client, .args = MP_ARGS(mp_listener_address(listener), key));
    mp_connection *peer;
    int r;

    printf("a client with %s\n", key);
    r = p ? mp_process_start(p) : mp_last_error()->code;
    if (r == 0)
        r = mp_listener_accept(listener, MP_FOREVER, &peer);
    if (r == 0)
        r = serve(peer);
    if (p && mp_process_join(p, MP_FOREVER) == 0)
        printf("  exit code %d\n", mp_process_exitcode(p));
    mp_process_free(p);
    if (r != MP_EAUTHENTICATION)
        return r;
    printf("  the listener: %s\n", mp_error_python(r)); /* that one is gone, the next is welcome */
    return 0;
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        mp_listener *listener =
            mp_listener_new(argc > 1 ? argv[1] : NULL, .authkey = { "the key", 7 });
        int r = listener ? 0 : mp_last_error()->code;

        if (r == 0)
            r = meet(listener, "the key");
        if (r == 0)
            r = meet(listener, "another key");
        if (r == 0)
            r = meet(listener, "the key");
        if (r < 0)
            mp_perror("listener");
        mp_listener_free(listener);
        return r < 0;
    }
    return 0;
}
