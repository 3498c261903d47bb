/* SPDX-License-Identifier: MIT
 *
 * multiprocessing.h - Python's multiprocessing for C programs. This header
 * includes one header a module; each is the reference for its users.
 */
#ifndef MULTIPROCESSING_H
#define MULTIPROCESSING_H

#include <multiprocessing/error.h>
#include <multiprocessing/clock.h>
#include <multiprocessing/log.h>
#include <multiprocessing/value.h>
#include <multiprocessing/connection.h>
#include <multiprocessing/queues.h>
#include <multiprocessing/synchronize.h>
#include <multiprocessing/context.h>
#include <multiprocessing/process.h>
#include <multiprocessing/pool.h>
#include <multiprocessing/sharedctypes.h>
#include <multiprocessing/shared_memory.h>

#endif
