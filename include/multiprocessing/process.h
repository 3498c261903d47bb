/* SPDX-License-Identifier: MIT
 *
 * process.h - processes, Python's multiprocessing.Process.
 *
 * A process object may be used by any thread of the process that created it;
 * freeing it while another thread uses it is the caller's mistake.
 */
#ifndef MULTIPROCESSING_PROCESS_H
#define MULTIPROCESSING_PROCESS_H

#include <limits.h>
#include <sys/types.h>

#include <multiprocessing/clock.h>
#include <multiprocessing/context.h>
#include <multiprocessing/value.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mp_process mp_process;

/* For flags that are inherited or on unless told otherwise. */
#define MP_NO (-1)

typedef struct mp_process_options {
    int _kw;
    mp_function target;        /* NULL: the process does nothing */
    msgpack_object args;       /* MP_ARGS(...) */
    const char *name;          /* NULL: "Process-1", "SpawnProcess-1:2", ... */
    int daemon;                /* 0: as the creator, true, or MP_NO */
    const mp_context *context; /* NULL: the default one, when it is started */
} mp_process_options;

/*
 * Describes a process, like Process(): mp_process_new(.target = f, .args =
 * MP_ARGS("bob", 42), .name = "greeter"). Nothing runs yet. The arguments are
 * packed here; handles in them are duplicated, so the originals may be closed.
 *
 * Returns NULL for arguments that cannot be packed, MP_EMFILE, MP_ENOMEM.
 */
#define mp_process_new(...) mp_process_create(&(const mp_process_options){ ._kw = 0, __VA_ARGS__ })
MP_API mp_process *mp_process_create(const mp_process_options *options);

/*
 * Starts it, like start(). In the child, target is called with the arguments;
 * its return value is the exit code, of which the system keeps 8 bits. The child
 * has default signal dispositions, no blocked signals and /dev/null as stdin.
 * What it was given as arguments is released in this process.
 *
 * Output that was buffered is written before, so that a copy does not write it
 * again: that of all streams, but where other threads run (one may hold a stream for
 * long) only that of stdout and stderr: flush others yourself. A child of the fork
 * server works in the current directory, unless that was removed. No start has a
 * timeout: it waits as long as a fork server is stopped (SIGSTOP).
 *
 * Returns 0, or
 *   MP_EGUARD     spawn or forkserver, and the program has not passed MP_MAIN()
 *   MP_EDEPTH     nested deeper than MP_MAX_DEPTH of the environment (16)
 *   MP_EFUNCTION  target is no function a child could find
 *   MP_ESTARTED, MP_ECREATOR, MP_ECLOSED
 *   MP_EAGAIN, MP_ENOMEM, MP_EMFILE, MP_ENFILE, MP_ENOENT ...  the system refused
 *   MP_EINVAL     MP_START_METHOD is none of the start methods
 * and then there is no child, and start may be tried again.
 */
MP_API int mp_process_start(mp_process *process);

/*
 * Waits for the process to end, like join().
 *
 * timeout: seconds; 0 or less only looks, MP_FOREVER waits without end.
 *
 * Returns 0 once the process has ended, now and on every later call, or
 *   MP_ETIMEDOUT    it still runs; call again
 *   MP_ECHILD       it ended, but other code in this program reaped it: its exit
 *                   code is lost (MP_EXITCODE_LOST)
 *   MP_ENOTSTARTED, MP_ECREATOR, MP_ECLOSED, MP_EINTR
 */
MP_API int mp_process_join(mp_process *process, double timeout);

/* Whether it was started and runs. Also of mp_current_process and mp_parent_process. */
MP_API bool mp_process_is_alive(mp_process *process);

#define MP_EXITCODE_NONE INT_MIN       /* not started, or still running */
#define MP_EXITCODE_LOST (INT_MIN + 1) /* other code reaped it */

/*
 * The exit code, like exitcode: 0 to 255, or -N when signal N killed it; 255
 * when its fork server died before it could tell. Looks, does not wait.
 */
MP_API int mp_process_exitcode(mp_process *process);

/* The process id, or 0 before start. mp_process_ident is Python's other name for it. */
MP_API pid_t mp_process_pid(const mp_process *process);
MP_API pid_t mp_process_ident(const mp_process *process);

/* The name; lent until it is set anew or the object is freed. */
MP_API const char *mp_process_name(const mp_process *process);

/*
 * Returns 0, MP_EINVAL for NULL, MP_ECREATOR for a process that another one described,
 * MP_ECLOSED, or MP_ENOMEM. The name is copied.
 */
MP_API int mp_process_set_name(mp_process *process, const char *name);

/*
 * A daemon is ended when its parent exits, SIGTERM first and SIGKILL after a
 * second, and dies with a parent that is killed. Unlike in Python it may have
 * children. set returns 0, or MP_ESTARTED after start.
 */
MP_API bool mp_process_daemon(const mp_process *process);
MP_API int mp_process_set_daemon(mp_process *process, bool daemon);

/*
 * A secret that children inherit, like authkey: 32 random bytes in the root.
 * Returned bytes are lent until they are set anew. set copies; it returns 0,
 * MP_EINVAL or MP_ENOMEM.
 */
MP_API int mp_process_authkey(const mp_process *process, const void **key, size_t *size);
MP_API int mp_process_set_authkey(mp_process *process, const void *key, size_t size);

/*
 * A descriptor that becomes readable when the process has ended, like sentinel,
 * for poll and mp_wait. Lent until free. Negative: MP_ENOTSTARTED, MP_ECLOSED.
 */
MP_API int mp_process_sentinel(const mp_process *process);

/*
 * SIGTERM, SIGKILL, SIGINT to the process. One that has ended is left alone, and
 * no other process can be hit. Returns 0, MP_ENOTSTARTED, MP_ECREATOR, MP_ECLOSED, or
 * MP_EPERM when this process has given up the right to (a daemon can be killed even so).
 */
MP_API int mp_process_terminate(mp_process *process);
MP_API int mp_process_kill(mp_process *process);
MP_API int mp_process_interrupt(mp_process *process);

/*
 * Releases descriptors, like close(). Later calls are MP_ECLOSED, but for name
 * and daemon. Returns 0, also again, or MP_ERUNNING.
 */
MP_API int mp_process_close(mp_process *process);

/*
 * Frees the object, in any state; NULL is allowed. A process that still runs
 * goes on, is listed no more, and is joined (a daemon: ended) at exit.
 */
MP_API void mp_process_free(mp_process *process);

/* This process: "MainProcess" in the root. Lent for ever. */
MP_API mp_process *mp_current_process(void);

/*
 * The process that started this one, NULL in the root. is_alive, join (its
 * result is 0 or MP_ETIMEDOUT), sentinel, pid and name work on it. Lent for ever.
 */
MP_API mp_process *mp_parent_process(void);

/*
 * The children of this process that run, like active_children(). Writes at most
 * capacity pointers, which are those mp_process_new returned, and returns how
 * many there are. Those that have ended are reaped.
 */
MP_API size_t mp_active_children(mp_process **children, size_t capacity);

/*
 * The CPUs this process may use, at least 1: affinity and the quota of its
 * control group are respected. MP_CPU_COUNT (1 to 100000) in the environment overrides it.
 */
MP_API int mp_cpu_count(void);

/*
 * Has function(argument) called when this process exits: returns from main,
 * calls exit(), or as a child returns from its target. Higher priorities first,
 * the last registered first among equals; those below 0 run after the children
 * have been ended and joined. Not after _exit or a signal; a forked child does
 * not inherit them. Python: multiprocessing.util.Finalize.
 *
 * Returns 0, MP_EINVAL or MP_ENOMEM.
 */
MP_API int mp_atexit(void (*function)(void *argument), void *argument, int priority);

#ifdef __cplusplus
}
#endif
#endif
