/* SPDX-License-Identifier: MIT
 *
 * fuzz.h - what fuzzers share: fuzz(data, size) decodes bytes of a peer that is
 * anything but honest. It may fail, but not crash, hang, leak, or reserve more than
 * the bytes are worth. "make fuzz" runs each for a while.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <multiprocessing.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever arrives. */
static inline void must(bool held)
{
    if (!held)
        abort();
}

static inline void write_all(int fd, const void *data, size_t size)
{
    must(write(fd, data, size) == (ssize_t)size);
}

/* Memory that may be anything's, with those bytes. */
static inline int memory_of(const void *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    must(fd >= 0);
    write_all(fd, data, size);
    return fd;
}

/* For the sanitizers: all of it must be there. */
static inline void read_through(const void *data, size_t size)
{
    static volatile unsigned char sum;

    for (size_t i = 0; i < size; i++)
        sum = (unsigned char)(sum + ((const unsigned char *)data)[i]);
}

/* Takes a value apart as whatever it may be, and all that lies in it. */
static inline void take_apart(const msgpack_object *value)
{
    mp_connection *connection;
    mp_queue *queue;
    mp_lock *lock;
    mp_semaphore *semaphore;
    mp_condition *condition;
    mp_event *event;
    mp_barrier *barrier;
    mp_raw_array *raw;
    mp_array *array;
    mp_shared_memory *memory;
    mp_shareable_list *list;
    mp_bytes_view bytes;
    const char *text;
    long long number;
    unsigned char byte;
    double real;
    bool flag;

    (void)mp_unpack(value, &number);
    (void)mp_unpack(value, &byte);
    (void)mp_unpack(value, &real);
    (void)mp_unpack(value, &flag);
    if (mp_unpack(value, &text) == 0 && text)
        read_through(text, strlen(text));
    if (mp_unpack(value, &bytes) == 0)
        read_through(bytes.data, bytes.size);
    (void)mp_unpack(value, &connection);
    (void)mp_unpack(value, &queue);
    (void)mp_unpack(value, &lock);
    (void)mp_unpack(value, &semaphore);
    (void)mp_unpack(value, &condition);
    (void)mp_unpack(value, &event);
    (void)mp_unpack(value, &barrier);
    (void)mp_unpack(value, &raw);
    (void)mp_unpack(value, &array);
    (void)mp_unpack(value, &memory);
    (void)mp_unpack(value, &list);
    (void)mp_dict_get(value, "key");
    for (size_t i = 0; value->type == MSGPACK_OBJECT_ARRAY && i < mp_len(value); i++)
        take_apart(mp_list_get(value, i));
    for (size_t i = 0; value->type == MSGPACK_OBJECT_MAP && i < mp_len(value); i++) {
        take_apart(&value->via.map.ptr[i].key);
        take_apart(&value->via.map.ptr[i].val);
    }
}

#endif
