/* SPDX-License-Identifier: MIT
 *
 * clock.h - timeouts, and how a signal handler ends a wait.
 *
 * A timeout is seconds in a double, as in Python. 0 and less (and NaN) try
 * once; MP_FOREVER waits without end. The clock is monotonic. For a .timeout among
 * keywords 0, which is not given, stands for none.
 *
 * A thread that waits in this library must not be cancelled (pthread_cancel): what
 * it drives or holds there would stay so. mp_interrupt is for that.
 */
#ifndef MULTIPROCESSING_CLOCK_H
#define MULTIPROCESSING_CLOCK_H

#include <math.h>
#include <multiprocessing/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MP_FOREVER HUGE_VAL

/*
 * Blocking calls of this library are not disturbed by signals: they go on after
 * EINTR with the time that is left. A program whose signal handler wants to end
 * them calls mp_allow_interrupt() once, and mp_interrupt() in the handler: then
 * one blocking call of this process, the one in progress or else the next,
 * returns MP_EINTR. A message is never torn: once its first byte has moved, the
 * call completes it.
 *
 * mp_allow_interrupt returns 0, MP_EMFILE or MP_ENFILE. It is not inherited by
 * child processes.
 */
MP_API int mp_allow_interrupt(void);

/*
 * Async-signal-safe, as no other function of this library is. Nothing happens unless
 * mp_allow_interrupt() was called.
 */
MP_API void mp_interrupt(void);

#ifdef __cplusplus
}
#endif
#endif
