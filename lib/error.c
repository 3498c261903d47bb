/* SPDX-License-Identifier: MIT
 *
 * error.c - the table of errors, and the last failure of each thread.
 */
#include "error_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Thread_local mp_error last;

static const struct entry {
    int code;
    const char *name, *text, *python;
} table[] = {
#define ENTRY(name, code, text, python) { code, #name, text, python },
    MP_ERRORS(ENTRY)
#undef ENTRY
};

static const struct entry *find(int code)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
        if (table[i].code == code)
            return &table[i];
    return NULL;
}

const char *mp_strerror(int code)
{
    const struct entry *entry = find(code);

    if (code == 0)
        return "no error";
    if (entry)
        return entry->text;
    return code < 0 && code > -5000 ? strerror(-code) : "unknown error";
}

const char *mp_error_name(int code)
{
    const struct entry *entry = find(code);

    if (entry)
        return entry->name;
    return code < 0 && code > -5000 ? "errno" : "unknown";
}

const char *mp_error_python(int code)
{
    const struct entry *entry = find(code);

    return entry ? entry->python : "OSError";
}

const mp_error *mp_last_error(void)
{
    return &last;
}

void mp_clear_error(void)
{
    last.code = 0;
    last.text[0] = '\0';
}

int mp__fail(int code, const char *format, ...)
{
    char text[sizeof(last.text)];
    va_list arguments;

    /* An argument may be the last text itself. */
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments); /* a long text is cut */
    va_end(arguments);
    memcpy(last.text, text, sizeof(text));
    last.code = code;
    return code;
}

int mp__fail_errno(const char *what)
{
    int code = -errno;

    return mp__fail(code, "%s: %s", what, mp_strerror(code));
}

void mp_perror(const char *prefix)
{
    char line[sizeof(last.text) + 128];
    const char *text = last.code ? last.text : mp_strerror(0);
    int n;

    if (prefix && *prefix)
        n = snprintf(line, sizeof(line) - 1, "%s: %s", prefix, text);
    else
        n = snprintf(line, sizeof(line) - 1, "%s", text);
    if (n < 0)
        return;
    if ((size_t)n > sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* there is nobody left to tell */
}
