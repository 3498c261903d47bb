/* SPDX-License-Identifier: MIT
 *
 * link.c - functions of the program and, with the path of a shared library as
 * argument, functions of that: each runs in a process and in a pool. Built in many
 * ways by check_links.sh.
 */
#include <multiprocessing.h>

#include <stdio.h>

#ifndef LINK_STATIC
#include <dlfcn.h>
#endif

static int twice(mp_call *call)
{
    int x;

    if (mp_unpack(call, &x))
        return 1;
    return 2 * x;
}

/* The exit code of a process, and of a pool the code of the failure, tell what was called. */
static int try(const char *name, mp_function function)
{
    mp_pool *pool = mp_pool_new(.processes = 1);
    mp_process *p = mp_process_new(.target = function, .args = MP_ARGS(5));
    mp_task_error error = { .code = 0 };
    int code;

    if (!p || !pool || mp_process_start(p) || mp_process_join(p, MP_FOREVER))
        return mp_perror(name), 1;
    code = mp_process_exitcode(p);
    (void)mp_pool_apply(pool, function, MP_ARGS(5), NULL, .error = &error);
    printf("%s: %d %d\n", name, code, error.raised);
    mp_process_free(p);
    mp_pool_free(pool);
    return 0;
}

#ifdef LINK_STATIC
static int try_library(const char *path)
{
    return path != NULL;
}
#else
/* A pool has called it, but it is there no more; the address may be another function's since. */
static int try_unloaded(void *library, const char *path, mp_function function)
{
    mp_pool *pool = mp_pool_new(.processes = 1);
    mp_task_error error = { .code = 0 };

    if (!pool || mp_pool_apply(pool, function, MP_ARGS(5), NULL, .error = &error) != MP_ERAISED)
        return mp_perror("loaded"), 1;
    (void)dlclose(library);
    if (!dlopen(path, RTLD_NOW | RTLD_NOLOAD)) /* some systems keep it */
        (void)mp_pool_apply(pool, function, MP_ARGS(5), NULL, .error = &error);
    else
        error.code = MP_EFUNCTION;
    printf("unloaded: %s\n", mp_strerror(error.code));
    mp_pool_free(pool);
    return 0;
}

static int try_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    mp_function square = NULL, (*hidden)(void) = NULL;

    if (library) {
        *(void **)&square = dlsym(library, "plugin_square");
        *(void **)&hidden = dlsym(library, "plugin_hidden");
    }
    if (!square || !hidden)
        return (void)printf("%s\n", dlerror()), 1;
    return try("exported by a library", square) || try("static in a library", hidden()) ||
           try_unloaded(library, path, square);
}
#endif

int main(int argc, char **argv)
{
    MP_MAIN () {
        return try("static in the program", twice) || (argc > 1 && try_library(argv[1]));
    }
    return 0;
}
