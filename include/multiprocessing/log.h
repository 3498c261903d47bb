/* SPDX-License-Identifier: MIT
 *
 * log.h - the library's log, Python's multiprocessing.get_logger().
 *
 * One line a record, written to stderr by one write(2):
 *     [WARNING/SpawnProcess-3 pid 4711] text
 * Levels are Python's. The level is MP_LOG_WARNING unless the environment says
 * otherwise (MP_LOG=debug, or a number) or mp_log_to_stderr() does. Children
 * inherit it under every start method.
 */
#ifndef MULTIPROCESSING_LOG_H
#define MULTIPROCESSING_LOG_H

#include <multiprocessing/error.h>

#ifdef __cplusplus
extern "C" {
#endif

enum mp_log_level {
    MP_LOG_SUBDEBUG = 5,
    MP_LOG_DEBUG = 10,
    MP_LOG_INFO = 20,
    MP_LOG_SUBWARNING = 25,
    MP_LOG_WARNING = 30,
    MP_LOG_ERROR = 40,
    MP_LOG_OFF = 100
};

/* Sets the level, like log_to_stderr(level). Records below it are dropped. */
MP_API void mp_log_to_stderr(int level);

/* The level in force. */
MP_API int mp_log_get_level(void);

/*
 * Writes a record of the program's own into the log: mp_log(MP_LOG_INFO,
 * "%d files", n). From MP_LOG_DEBUG down the record says file and line too.
 * Any thread; not from signal handlers.
 */
#define mp_log(level, ...) mp_log_write((level), __FILE__, __LINE__, __VA_ARGS__)

MP_API void mp_log_write(int level, const char *file, int line, const char *format, ...)
    MP__PRINTF(4, 5);

#ifdef __cplusplus
}
#endif
#endif
