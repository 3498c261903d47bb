/* SPDX-License-Identifier: MIT
 *
 * log.c - one line a record, one write a line, no lock: lines of several
 * processes and threads do not mix, and a forked child cannot find it locked.
 */
#include "log_internal.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "error_internal.h"
#include "fd_internal.h"

#define UNSET (-1)

static char process_name[64] = "MainProcess";
static atomic_int threshold = UNSET;

static const struct {
    int level;
    const char *name;
} levels[] = {
    { MP_LOG_SUBDEBUG, "SUBDEBUG" },
    { MP_LOG_DEBUG, "DEBUG" },
    { MP_LOG_INFO, "INFO" },
    { MP_LOG_SUBWARNING, "SUBWARNING" },
    { MP_LOG_WARNING, "WARNING" },
    { MP_LOG_ERROR, "ERROR" },
    { MP_LOG_OFF, "OFF" },
};

#define LEVELS (sizeof(levels) / sizeof(*levels))

static int level_from_text(const char *text)
{
    char *end;
    long number = strtol(text, &end, 10);

    for (size_t i = 0; i < LEVELS; i++)
        if (strcasecmp(text, levels[i].name) == 0)
            return levels[i].level;
    if (*text && !*end && number >= 0 && number <= MP_LOG_OFF)
        return (int)number;
    return MP_LOG_WARNING;
}

static const char *level_name(int level)
{
    const char *name = levels[0].name;

    for (size_t i = 0; i < LEVELS && levels[i].level <= level; i++)
        name = levels[i].name;
    return name;
}

int mp_log_get_level(void)
{
    int level = atomic_load_explicit(&threshold, memory_order_relaxed);
    const char *text;

    if (level != UNSET)
        return level;
    text = getenv("MP_LOG");
    level = text ? level_from_text(text) : MP_LOG_WARNING;
    atomic_store_explicit(&threshold, level, memory_order_relaxed);
    return level;
}

void mp_log_to_stderr(int level)
{
    atomic_store_explicit(&threshold, level < 0 ? 0 : level, memory_order_relaxed);
}

const char *mp__log_name(void)
{
    return process_name;
}

/* Without stdio, whose pages a child made by fork has to fetch. */
void mp__log_set_name(const char *name)
{
    size_t i = 0;

    for (; i < sizeof(process_name) - 1 && name[i]; i++)
        process_name[i] = name[i];
    process_name[i] = '\0';
}

/* Ends the line, one line whatever the text holds, and writes it at once. */
static void write_line(char *line, size_t capacity, size_t length)
{
    mp_error before = *mp_last_error();
    struct iovec part = { .iov_base = line };

    if (length > capacity - 2)
        length = capacity - 2;
    for (size_t i = 0; i < length; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[length++] = '\n';
    part.iov_len = length;
    (void)mp__fd_write(STDERR_FILENO, &part, 1); /* on failure there is nobody left to tell */
    (void)mp__fail(before.code, "%s", before.text);
}

void mp_log_write(int level, const char *file, int number, const char *format, ...)
{
    char line[1024];
    va_list arguments;
    int n;

    if (level < mp_log_get_level())
        return;
    n = snprintf(
        line, sizeof(line), "[%s/%s pid %ld] ", level_name(level), process_name, (long)getpid());
    if (mp_log_get_level() <= MP_LOG_DEBUG)
        n += snprintf(line + n, sizeof(line) - (size_t)n,
            "%.100s:%d: ", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, number);
    va_start(arguments, format);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, arguments);
    va_end(arguments);
    write_line(line, sizeof(line), (size_t)n);
}

void mp__log_last_words(const char *format, ...)
{
    char line[1024];
    va_list arguments;
    int n;

    n = snprintf(line, sizeof(line), "%s pid %ld: ", process_name, (long)getpid());
    va_start(arguments, format);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, arguments);
    va_end(arguments);
    write_line(line, sizeof(line), (size_t)n);
}
