/* SPDX-License-Identifier: MIT
 *
 * error.h - what can go wrong, in one table.
 *
 * Functions return 0 or one of these negative codes; constructors return NULL.
 * Outputs are untouched on failure, but for MP_EOWNERDEAD, with which it is done: a
 * lock is held, a value is there. mp_last_error() has the code and a sentence
 * that says what to do. A code that is not in the table is -errno of the system
 * call that failed.
 */
#ifndef MULTIPROCESSING_ERROR_H
#define MULTIPROCESSING_ERROR_H

#include <errno.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MP_API __attribute__((visibility("default")))
#define MP__PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define MP_API
#define MP__PRINTF(text, first)
#endif

/* name, code, text, the Python exception it stands for */
#define MP_ERRORS(X)                                                                      \
    X(MP_EINVAL, -EINVAL, "invalid argument", "ValueError")                               \
    X(MP_ENOMEM, -ENOMEM, "out of memory", "MemoryError")                                 \
    X(MP_ETIMEDOUT, -ETIMEDOUT, "not within the time given", "TimeoutError")              \
    X(MP_EINTR, -EINTR, "interrupted by mp_interrupt", "KeyboardInterrupt")               \
    X(MP_EAGAIN, -EAGAIN, "resource limit reached, try again later", "BlockingIOError")   \
    X(MP_EMFILE, -EMFILE, "too many open descriptors", "OSError")                         \
    X(MP_ENFILE, -ENFILE, "too many open descriptors in the system", "OSError")           \
    X(MP_EBADF, -EBADF, "bad descriptor", "OSError")                                      \
    X(MP_EIO, -EIO, "input/output error", "OSError")                                      \
    X(MP_ENOENT, -ENOENT, "no such file", "FileNotFoundError")                            \
    X(MP_EEXIST, -EEXIST, "it exists already", "FileExistsError")                         \
    X(MP_ENOSPC, -ENOSPC, "no space left", "OSError")                                     \
    X(MP_ENAMETOOLONG, -ENAMETOOLONG, "the name is too long", "OSError")                  \
    X(MP_EACCES, -EACCES, "permission denied", "PermissionError")                         \
    X(MP_EPERM, -EPERM, "operation not permitted", "PermissionError")                     \
    X(MP_EPIPE, -EPIPE, "the other end is gone", "BrokenPipeError")                       \
    X(MP_ECONNRESET, -ECONNRESET, "the other end is gone", "ConnectionResetError")        \
    X(MP_ECHILD, -ECHILD, "other code reaped this child: its exit code is lost",          \
        "ChildProcessError")                                                              \
    X(MP_EGUARD, -5000, "the main guard MP_MAIN() was not passed", "RuntimeError")        \
    X(MP_EDEPTH, -5001, "processes are nested too deep", "RecursionError")                \
    X(MP_EEOF, -5002, "end of the stream", "EOFError")                                    \
    X(MP_ETRUNCATED, -5003, "the stream ended inside a message", "OSError")               \
    X(MP_EPROTOCOL, -5004, "these bytes are not a message of this library", "OSError")    \
    X(MP_ETOOSHORT, -5005, "the buffer is too short for the message", "BufferTooShort")   \
    X(MP_ETOOLONG, -5006, "longer than what is allowed", "OSError")                       \
    X(MP_ETOODEEP, -5007, "lists are nested too deep", "RecursionError")                  \
    X(MP_ETYPE, -5008, "a value of another type was expected", "TypeError")               \
    X(MP_ECOUNT, -5009, "another number of values was expected", "TypeError")             \
    X(MP_ERANGE, -5010, "the value does not fit", "OverflowError")                        \
    X(MP_ECLOSED, -5011, "the object is closed", "ValueError")                            \
    X(MP_EDIRECTION, -5012, "this end of a one-way pipe cannot do that", "OSError")       \
    X(MP_EFUNCTION, -5013, "the function cannot be found in the child", "PicklingError")  \
    X(MP_EHANDLE, -5014, "this handle cannot travel that way", "PicklingError")           \
    X(MP_ESTARTED, -5015, "the process was started before", "AssertionError")             \
    X(MP_ENOTSTARTED, -5016, "the process was not started", "AssertionError")             \
    X(MP_ERUNNING, -5017, "the process is still running", "ValueError")                   \
    X(MP_ECREATOR, -5018, "only the process that created the object may do that",         \
        "AssertionError")                                                                 \
    X(MP_ECONTEXT, -5019, "the start method was chosen before", "RuntimeError")           \
    X(MP_EFORKSERVER, -5020, "the fork server could not be started", "OSError")           \
    X(MP_ERAISED, -5021, "a function raised an error", "Exception")                       \
    X(MP_EWORKERLOST, -5022, "the worker process died", "BrokenProcessPool")              \
    X(MP_ETIMELIMIT, -5023, "the item took longer than its time limit", "TimeoutError")   \
    X(MP_EENCODING, -5024, "the answer of a task cannot be packed", "MaybeEncodingError") \
    X(MP_ECANCELLED, -5025, "cancelled", "CancelledError")                                \
    X(MP_ETERMINATED, -5026, "the pool was terminated", "CancelledError")                 \
    X(MP_EBROKEN, -5027, "the workers of the pool do not begin", "BrokenProcessPool")     \
    X(MP_EDEADLOCK, -5028, "waiting for this here would never end", "RuntimeError")       \
    X(MP_EALREADY, -5029, "it is too late for that", "InvalidStateError")                 \
    X(MP_EOWNERDEAD, -EOWNERDEAD, "its last holder died holding it; it is yours now",     \
        "RuntimeError")                                                                   \
    X(MP_ENOTHELD, -5030, "only who holds it may do that", "AssertionError")              \
    X(MP_EBROKENBARRIER, -5031, "the barrier is broken", "BrokenBarrierError")            \
    X(MP_EEMPTY, -5032, "the queue is empty", "Empty")                                    \
    X(MP_EFULL, -5033, "the queue is full", "Full")                                       \
    X(MP_EINDEX, -5034, "there is no item of that index", "IndexError")                   \
    X(MP_EAUTHENTICATION, -5035, "one side does not know the key of the other",           \
        "AuthenticationError")

enum mp_error_code {
#define MP__ERROR_CODE(name, code, text, python) name = (code),
    MP_ERRORS(MP__ERROR_CODE)
#undef MP__ERROR_CODE
};

/* The last failure in a thread. */
typedef struct mp_error {
    int code;       /* 0: nothing failed yet */
    char text[480]; /* one sentence, or several, without a newline at the end */
} mp_error;

/*
 * The last failure in the calling thread. Never NULL; valid as long as the
 * thread, overwritten by its next failure. Success does not clear it.
 */
MP_API const mp_error *mp_last_error(void);

/* Forgets the last failure of the calling thread. */
MP_API void mp_clear_error(void);

/*
 * Prints "prefix: sentence" for the last failure of the calling thread to
 * stderr, in one write. prefix may be NULL.
 */
MP_API void mp_perror(const char *prefix);

/* The text of a code from the table, or what strerror says. Never NULL. */
MP_API const char *mp_strerror(int code);

/* "MP_EGUARD"; for a code outside the table "errno" when it is one, else "unknown". */
MP_API const char *mp_error_name(int code);

/* "RuntimeError": the Python exception the code stands for; "OSError" outside the table. */
MP_API const char *mp_error_python(int code);

#ifdef __cplusplus
}
#endif
#endif
