/* SPDX-License-Identifier: MIT
 *
 * connection.h - pipes, connections, listeners and clients: Python's
 * multiprocessing.connection.
 *
 * A connection carries whole messages over a socket or pipe, in CPython's own
 * framing, so send_bytes and recv_bytes talk to a Python Connection. Any number
 * of threads may use one: one sends and one receives at a time. Processes that
 * share one end take turns by a lock of their own, or their messages mix; a queue has that
 * built in. A process started by this library keeps no connection open but those in its
 * arguments.
 */
#ifndef MULTIPROCESSING_CONNECTION_H
#define MULTIPROCESSING_CONNECTION_H

#include <multiprocessing/clock.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_connection mp_connection;

typedef struct mp_pipe_options {
    mp_connection **a; /* of a one-way pipe: the end that receives */
    mp_connection **b; /* of a one-way pipe: the end that sends */
    bool oneway;       /* Python's duplex=False */
    int _kw;
} mp_pipe_options;

/*
 * Makes two connected connections, like Pipe(): mp_pipe(&a, &b), or
 * mp_pipe(&receiver, &sender, .oneway = true). Both directions: a socket pair,
 * through which handles can be sent; one way: a pipe, which is all it is.
 *
 * Returns 0, MP_EINVAL, MP_EMFILE, MP_ENFILE or MP_ENOMEM.
 */
#define mp_pipe(...) mp_pipe_create(&(const mp_pipe_options){ __VA_ARGS__, ._kw = 0 })
MP_API int mp_pipe_create(const mp_pipe_options *options);

/*
 * A connection over a descriptor that is open already: a stream socket, pipe, FIFO or
 * terminal, in blocking or non-blocking mode. What it can do follows from how
 * it was opened. Takes the descriptor and sets *fd to -1; on failure *fd stays
 * the caller's. It becomes close-on-exec.
 *
 * Returns NULL for a descriptor that is not open (MP_EBADF), for another kind of socket
 * (MP_EINVAL) or on MP_ENOMEM.
 */
MP_API mp_connection *mp_connection_new(int *fd);

/* Closes and releases it. NULL is allowed. No other thread may be using it. */
MP_API void mp_connection_free(mp_connection *connection);

/*
 * A connection taken from a message or call is lent and closed with it. This
 * makes it the caller's, to be ended with mp_connection_free. Returns connection.
 */
MP_API mp_connection *mp_connection_keep(mp_connection *connection);

/*
 * Sends one value as one message, like send(). Blocks while the peer does not
 * read. The value may hold handles if the connection is a Unix socket.
 *
 * Returns 0, or
 *   MP_EPIPE, MP_ECONNRESET  the peer is gone (no SIGPIPE is raised)
 *   MP_ECLOSED, MP_EDIRECTION
 *   MP_EHANDLE   a handle over something that is not a Unix socket
 *   MP_ETOODEEP, MP_ETOOLONG, MP_ETYPE  the value cannot be packed; nothing was sent
 *   MP_EINTR     mp_interrupt(), nothing was sent
 *   MP_ENOMEM
 */
#define mp_connection_send(connection, value) mp__connection_send((connection), MP__VALUE(value))
MP_API int mp__connection_send(mp_connection *connection, msgpack_object value);

/*
 * Receives one value, like recv(). Blocks until a message is there.
 *
 * Returns 0, or
 *   MP_EEOF        no message comes any more: all writers are closed
 *   MP_ETRUNCATED  the writer ended inside a message
 *   MP_EPROTOCOL   the bytes are no message; for good if the frame itself is wrong
 *   MP_ETOOLONG    above the limit of mp_set_limits; the message is still pending
 *   MP_ECONNRESET  the peer is gone, and what it had not read was lost
 *   MP_EINVAL      NULL, or the message is the one that lends this connection
 *   MP_ECLOSED, MP_EDIRECTION, MP_EINTR, MP_ENOMEM, MP_EMFILE (handles were lost)
 */
MP_API int mp_connection_recv(mp_connection *connection, mp_message *message);

/* Sends size bytes at data as one message, like send_bytes(). Returns as mp_connection_send. */
MP_API int mp_connection_send_bytes(mp_connection *connection, const void *data, size_t size);

/* No bound for mp_connection_recv_bytes but that of mp_set_limits. */
#define MP_ANY_LENGTH SIZE_MAX

/*
 * Receives one message as bytes, like recv_bytes(maxlength): message->data,
 * message->size. A longer one is MP_ETOOLONG and stays pending, to be received
 * with another limit. Returns as mp_connection_recv.
 */
MP_API int mp_connection_recv_bytes(
    mp_connection *connection, mp_message *message, size_t maxlength);

/*
 * Receives one message into a buffer of the caller, like recv_bytes_into().
 * *size gets its length; also when it does not fit: then the result is
 * MP_ETOOSHORT and the message stays pending. Returns as mp_connection_recv.
 */
MP_API int mp_connection_recv_bytes_into(
    mp_connection *connection, void *buffer, size_t capacity, size_t *size);

/*
 * Waits until there is something to receive (or the end of the stream, or an
 * error that stays), like poll(timeout). Returns 1, 0 when the time is over, or a negative code.
 */
MP_API int mp_connection_poll(mp_connection *connection, double timeout);

/* The descriptor, lent; MP_ECLOSED if it is closed. */
MP_API int mp_connection_fileno(const mp_connection *connection);

/*
 * Closes the descriptor, like close(). Later use is MP_ECLOSED. Again: nothing. It wakes
 * nobody: a thread that still waits in a call with it may get what comes to the next
 * descriptor of that number, so let that call end first.
 */
MP_API void mp_connection_close(mp_connection *connection);

MP_API bool mp_connection_closed(const mp_connection *connection);
MP_API bool mp_connection_readable(const mp_connection *connection);
MP_API bool mp_connection_writable(const mp_connection *connection);

/* One thing to wait for. ready is the answer. */
typedef struct mp_wait_item {
    const mp_connection *connection;  /* or */
    const struct mp_process *process; /* its end; or */
    const mp_queue *queue;            /* an item in it; or */
    int fd;                           /* a descriptor, when the others are NULL */
    bool ready;
} mp_wait_item;

/* MP_WAIT(x) makes an item of an mp_connection *, mp_process *, mp_queue * or descriptor. */
#ifndef __cplusplus
#define MP_WAIT(x)                                      \
    _Generic((x), mp_connection *                       \
             : mp__wait_connection, struct mp_process * \
             : mp__wait_process, mp_queue *             \
             : mp__wait_queue, int                      \
             : mp__wait_fd)(x)
#endif
MP_API mp_wait_item mp__wait_connection(const mp_connection *connection);
MP_API mp_wait_item mp__wait_process(const struct mp_process *process);
MP_API mp_wait_item mp__wait_queue(const mp_queue *queue);
MP_API mp_wait_item mp__wait_fd(int fd);

/*
 * Waits until one or more items are ready, like multiprocessing.connection.wait:
 * a message or the end of the stream, the end of a process, an item in a queue, a
 * readable descriptor. Sets ready of each item. An item may be there twice.
 *
 * Returns how many are ready, 0 when the time is over, or
 *   MP_EINVAL  no items and MP_FOREVER: that would never end; or more items than this
 *              process may have descriptors
 *   MP_EBADF, MP_ECLOSED, MP_ENOTSTARTED  an item that cannot be waited for
 *   MP_EDIRECTION  the sending end of a one-way pipe
 *   MP_EINTR, MP_ENOMEM
 */
MP_API int mp_wait(mp_wait_item *items, size_t count, double timeout);

/* ---- connections between programs ---- */

/*
 * Waits for clients at an address, like Listener. Clients may be Python's, and a client
 * may have a Python Listener: send_bytes and recv_bytes are the same on both sides.
 */
typedef struct mp_listener mp_listener;

typedef struct mp_listener_options {
    const char *address;
    const char *family;       /* "AF_UNIX", "AF_INET" or "AF_INET6"; NULL: as the address looks */
    int backlog;              /* clients that may wait; 0: as many as the system allows */
    mp_bytes_view authkey;    /* copied; NULL: none. An empty key is a key */
    double handshake_timeout; /* seconds a client may take to authenticate; 0: 10 */
    int _kw;
} mp_listener_options;

/*
 * Begins to listen: mp_listener_new("/tmp/service", .authkey = { "secret", 6 }).
 *
 * address: "host:port" for TCP over IPv4, "[host]:port" over IPv6: port 0 is any, an
 * empty host is every interface; anything else is the path of a Unix socket, to which
 * may connect whom its permissions (the umask) let; "@name" is one without a path
 * (Linux: any user of the machine can reach that, so without a key only processes of
 * the same user are let in). With .family the look of it does not matter; without, what
 * looks like a number of IPv4 or begins with "[", but has no port, is MP_EINVAL. NULL: a
 * path of its own below TMPDIR, or with a family of TCP a port of this machine alone.
 *
 * authkey: who connects must prove that it has the key, and is shown that we have, by
 * CPython's handshake (SHA-256; HMAC-MD5 with a Python up to 3.11). For a Listener of a
 * Python up to 3.12 an empty key is none. Nothing is encrypted, and nothing that comes
 * later is proved: TCP is for networks one trusts.
 *
 * Returns NULL, and the code is
 *   -EADDRINUSE      somebody listens there, or a path is there already
 *   MP_ENAMETOOLONG  a path, or TMPDIR, has more than the 107 bytes for it
 *   MP_ENOENT, MP_EACCES  there is no such folder; it or a port is not ours to use
 *   -EADDRNOTAVAIL, -EHOSTUNREACH  a host that is not this machine; that is not found
 *   MP_EINVAL        a family there is not, or an address that is none of its family
 *   MP_ENOMEM, MP_EMFILE
 *
 * Children of the library do not have it; a copy made by a fork of the program's own
 * has, and may accept, too. Any thread may use it.
 */
#define mp_listener_new(...) \
    mp_listener_create(&(const mp_listener_options){ __VA_ARGS__, ._kw = 0 })
MP_API mp_listener *mp_listener_create(const mp_listener_options *options);

/*
 * Waits for a client, like accept(). Clients that have not authenticated yet do so side
 * by side, up to 256 of them: one that says nothing keeps no other waiting. When more
 * come, the one that is there longest is refused once it has had 0.2 seconds. All of that
 * goes on only while a thread is in accept; who has answered meanwhile is not late.
 *
 * Returns 0 and the connection, which is the caller's, or
 *   MP_EAUTHENTICATION  a client had another key, took too long, left meanwhile, or does
 *                       not speak this protocol. It is gone; call again
 *   MP_ETIMEDOUT        nobody came
 *   MP_ECLOSED          it is closed, perhaps meanwhile by another thread
 *   MP_EMFILE, MP_ENFILE, MP_ENOMEM  one waits, and still could not be taken after 0.1
 *                       seconds, or at the timeout: close something, and call again
 *   MP_EINTR
 */
MP_API int mp_listener_accept(mp_listener *listener, double timeout, mp_connection **connection);

/* Where it listens, as mp_client takes it: with the port that was found. Lent; NULL if closed. */
MP_API const char *mp_listener_address(const mp_listener *listener);

/*
 * Where the last client accepted comes from: "127.0.0.1:50000", or "" for a Unix socket.
 * NULL: there was none. Lent until the next accept, so for programs in which one thread
 * accepts: that may call it.
 */
MP_API const char *mp_listener_last_accepted(const mp_listener *listener);

/*
 * A descriptor, lent, for an event loop: readable when a client comes, or one that
 * authenticates has said something. Call mp_listener_accept with a timeout of 0 then; it
 * is MP_ETIMEDOUT while nobody is in. Elsewhere than on Linux, and after a fork that found
 * no descriptor for it, it does not see what clients say: with a key accept needs a
 * timeout of some seconds there.
 */
MP_API int mp_listener_fileno(const mp_listener *listener);

/*
 * Stops listening, like close(), and removes its path if it still is its own. Who waits
 * in accept gets MP_ECLOSED. Afterwards another one can listen there. Again: nothing. What
 * is open when the process ends (by exit) is closed then.
 */
MP_API void mp_listener_close(mp_listener *listener);

/* Closes and releases it. NULL is allowed. No other thread may be using it. */
MP_API void mp_listener_free(mp_listener *listener);

typedef struct mp_client_options {
    const char *address;
    const char *family;
    mp_bytes_view authkey;
    double timeout; /* seconds for all of it; 0: no limit; less: it tries once */
    int _kw;
} mp_client_options;

/*
 * Connects to a listener, like Client(): mp_client("localhost:6000", .authkey = key).
 * address, family and authkey as of mp_listener_new; an empty host is localhost.
 *
 * Returns the connection, or NULL, and the code is
 *   -ECONNREFUSED, MP_ENOENT  nobody listens there
 *   MP_EACCES           its path is not for us
 *   -EHOSTUNREACH, -ENETUNREACH  the host is not found, or there is no way to it
 *   MP_EAUTHENTICATION  one side does not know the key of the other
 *   MP_EEOF, MP_ECONNRESET, MP_EPIPE  the listener hung up; it may want no key
 *   MP_ETIMEDOUT        finding a host may take longer than the timeout
 *   MP_EINVAL, MP_ENAMETOOLONG, MP_EMFILE, MP_ENOMEM, MP_EINTR
 */
#define mp_client(...) mp_client_create(&(const mp_client_options){ __VA_ARGS__, ._kw = 0 })
MP_API mp_connection *mp_client_create(const mp_client_options *options);

/*
 * The halves of the handshake, on a connection of any kind, like deliver_challenge()
 * and answer_challenge(): the one asks the peer to prove that it has the key, the
 * other proves it. A listener asks first, then answers; a client answers first. They have
 * no timeout: a peer that says nothing is waited for.
 *
 * Return 0, MP_EAUTHENTICATION, or as mp_connection_send and mp_connection_recv.
 */
MP_API int mp_deliver_challenge(mp_connection *connection, const void *key, size_t size);
MP_API int mp_answer_challenge(mp_connection *connection, const void *key, size_t size);

#ifdef __cplusplus
}
#endif
#endif
