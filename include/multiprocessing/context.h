/* SPDX-License-Identifier: MIT
 *
 * context.h - start methods and the main guard, Python's contexts and
 * "if __name__ == '__main__'".
 *
 *   fork        the child is a copy of the parent
 *   spawn       the child is a fresh exec of the running binary, same argv
 *   forkserver  the child is a copy of a server that was exec'd once
 *
 * The method is chosen once: by mp_set_start_method, else by MP_START_METHOD in
 * the environment, else it is fork on Linux and spawn elsewhere. A context
 * chooses for one process.
 *
 * A process that has started a child by fork keeps two descriptors for the next
 * time: /dev/null and its own status in /proc. For a fork server it keeps three, and
 * sockets for children to come: four to eight, up to twelve while a large pool starts.
 * Four children are forked ahead, and wait.
 *
 * Where the system has no /proc, children have MP_LEVEL in their environment: how
 * many processes are above them. A program that its own children run without end
 * is stopped by it.
 */
#ifndef MULTIPROCESSING_CONTEXT_H
#define MULTIPROCESSING_CONTEXT_H

#include <multiprocessing/error.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The main guard: MP_MAIN() { ... } in main(), around what only the root
 * process does. There it is true (as often as it is reached). A child that was
 * exec'd never gets past it: it serves its function there and exits. So code
 * before it runs in every spawned process and once in the fork server, and code
 * inside it in none of them. In a child made by fork it is false.
 */
#define MP_MAIN() if (mp__main())
MP_API bool mp__main(void);

typedef struct mp_context mp_context;

/*
 * The context of a start method, like get_context(): "fork", "spawn",
 * "forkserver"; NULL is the default one, and fixes it as in Python. Never freed.
 * Returns NULL for any other name (MP_EINVAL).
 */
MP_API const mp_context *mp_get_context(const char *method);

/* "fork", "spawn" or "forkserver". */
MP_API const char *mp_context_get_start_method(const mp_context *context);

typedef struct mp_set_start_method_options {
    const char *method;
    bool force; /* also when it was chosen before */
    int _kw;
} mp_set_start_method_options;

/*
 * Chooses the method of the default context, like set_start_method():
 * mp_set_start_method("spawn"), or mp_set_start_method("spawn", .force = true).
 * NULL with force forgets the choice.
 *
 * Returns 0, MP_EINVAL for an unknown method, or MP_ECONTEXT when it was chosen
 * before, which happens too by asking for it or by starting a process.
 */
#define mp_set_start_method(...) \
    mp_set_start_method_create(&(const mp_set_start_method_options){ __VA_ARGS__, ._kw = 0 })
MP_API int mp_set_start_method_create(const mp_set_start_method_options *options);

/*
 * The method of the default context, like get_start_method(): chooses it if it
 * is not chosen yet, unless allow_none: then the answer is NULL. NULL also when
 * MP_START_METHOD holds nonsense (MP_EINVAL).
 */
MP_API const char *mp_get_start_method(bool allow_none);

/* All methods, the default of the platform first, ended by NULL. */
MP_API const char *const *mp_get_all_start_methods(void);

/*
 * The binary that spawn and forkserver execute, like set_executable(). It must
 * be built from the same source: functions are checked. NULL: the running one,
 * also when its file was replaced or deleted meanwhile. The path is copied.
 * Returns 0 or MP_ENOMEM.
 */
MP_API int mp_set_executable(const char *path);

/* Starts the fork server of this process if it does not run. 0, or as mp_process_start. */
MP_API int mp_forkserver_ensure_running(void);

/* What a fork server does when its preload hook fails. */
enum mp_on_error { MP_ON_ERROR_IGNORE, MP_ON_ERROR_WARN, MP_ON_ERROR_FAIL };

typedef struct mp_forkserver_preload_options {
    int (*hook)(void); /* 0, or anything else for failure */
    enum mp_on_error on_error;
    int _kw;
} mp_forkserver_preload_options;

/*
 * Has the fork server run hook() once before its first child, as
 * set_forkserver_preload() imports modules: mp_set_forkserver_preload(load,
 * .on_error = MP_ON_ERROR_FAIL). Counts for servers started from now on. What
 * it prints is flushed, so no child prints it again.
 *
 * Returns 0, MP_EINVAL, or MP_EFUNCTION when the server could not find the hook.
 */
#define mp_set_forkserver_preload(...) \
    mp_set_forkserver_preload_create(  \
        &(const mp_forkserver_preload_options){ __VA_ARGS__, ._kw = 0 })
MP_API int mp_set_forkserver_preload_create(const mp_forkserver_preload_options *options);

#ifdef __cplusplus
}
#endif
#endif
