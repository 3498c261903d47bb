/* SPDX-License-Identifier: MIT
 *
 * context.c - the start methods, and the one of them that is the default.
 */
#include "context_internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "error_internal.h"

#define UNCHOSEN (-1)

struct mp_context {
    const char *name, *prefix;
};

static const mp_context contexts[MP__METHODS] = {
    [MP__FORK] = { "fork", "Fork" },
    [MP__SPAWN] = { "spawn", "Spawn" },
    [MP__FORKSERVER] = { "forkserver", "ForkServer" },
};

static const mp_context default_context;
static atomic_int chosen = UNCHOSEN;

#if defined(__linux__)
static const char *const methods[] = { "fork", "spawn", "forkserver", NULL };
#else
static const char *const methods[] = { "spawn", "fork", "forkserver", NULL };
#endif

static int find(const char *name)
{
    for (int i = 0; name && i < MP__METHODS; i++)
        if (strcmp(name, contexts[i].name) == 0)
            return i;
    return mp__fail(MP_EINVAL, "there is no start method \"%s\": it is fork, spawn or forkserver",
        name ? name : "(null)");
}

/* What the environment or the platform says. */
static int preset(void)
{
    const char *text = getenv("MP_START_METHOD");
    int method = find(text && *text ? text : methods[0]);

    return method >= 0 ? method
                       : mp__fail(MP_EINVAL,
                             "MP_START_METHOD is \"%s\": it must be fork, spawn or "
                             "forkserver",
                             text);
}

/* The method of the default context, chosen now if it was not. */
static int choose(void)
{
    int method = atomic_load(&chosen);

    if (method != UNCHOSEN)
        return method;
    method = preset();
    if (method >= 0)
        atomic_store(&chosen, method);
    return method;
}

int mp__context_method(const mp_context *context, enum mp__method *method)
{
    int m = context && context != &default_context ? (int)(context - contexts) : choose();

    if (m < 0)
        return m;
    *method = (enum mp__method)m;
    return 0;
}

const char *mp__context_prefix(const mp_context *context)
{
    return context && context != &default_context ? context->prefix : "";
}

void mp__context_settle(enum mp__method method)
{
    atomic_store(&chosen, (int)method);
}

const mp_context *mp_get_context(const char *method)
{
    int m;

    if (!method)
        return choose() < 0 ? NULL : &default_context;
    m = find(method);
    return m < 0 ? NULL : &contexts[m];
}

const char *mp_context_get_start_method(const mp_context *context)
{
    return context && context != &default_context ? context->name : mp_get_start_method(false);
}

int mp_set_start_method_create(const mp_set_start_method_options *options)
{
    int unchosen = UNCHOSEN;
    int method = UNCHOSEN;

    if (options->method)
        method = find(options->method);
    else if (!options->force)
        method = preset();
    if (method < 0 && (options->method || !options->force))
        return method;
    if (options->force)
        atomic_store(&chosen, method);
    else if (!atomic_compare_exchange_strong(&chosen, &unchosen, method))
        return mp__fail(MP_ECONTEXT,
            "the start method is %s already, chosen by an earlier call or "
            "by first use; .force = true changes it",
            contexts[unchosen].name);
    return 0;
}

const char *mp_get_start_method(bool allow_none)
{
    int method = allow_none ? atomic_load(&chosen) : choose();

    return method < 0 ? NULL : contexts[method].name;
}

const char *const *mp_get_all_start_methods(void)
{
    return methods;
}
