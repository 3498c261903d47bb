/* SPDX-License-Identifier: MIT
 *
 * test_shared_memory.c - bytes with and without a name: who sees them, how they
 * travel, who takes the name away, and that CPython sees the same.
 */
#include "support.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap_internal.h"
#include "reduction_internal.h"
#include "resource_tracker_internal.h"
#include "shm_internal.h"

#define MIB ((size_t)1 << 20)

/* ---- helpers ---- */

static mp_shared_memory *make(mp_shared_memory *memory)
{
    if (!memory)
        fail_msg("shared memory: %s", mp_last_error()->text);
    return memory;
}

#define make_memory(...) make(mp_shared_memory_new(__VA_ARGS__))

static void check_refused(mp_shared_memory *memory, int code)
{
    assert_null(memory);
    assert_int_equal(mp_last_error()->code, code);
}

#define refused(code, ...) check_refused(mp_shared_memory_new(__VA_ARGS__), code)

static char *bytes_of(mp_shared_memory *memory)
{
    return mp_shared_memory_buf(memory);
}

static bool exists(const char *name)
{
    char path[400];

    (void)snprintf(path, sizeof(path), "/dev/shm/%s", name);
    return access(path, F_OK) == 0;
}

/* Whether the name goes before patience ends. */
static bool goes(const char *name)
{
    for (int i = 0; i < PATIENCE * 1000 && exists(name); i++)
        (void)poll(NULL, 0, 1);
    return !exists(name);
}

/* The text of the next message, kept until the next call. */
static const char *hear(mp_connection *line)
{
    static char text[300];
    size_t size;

    if (mp_connection_recv_bytes_into(line, text, sizeof(text) - 1, &size) < 0)
        fail_msg("nothing to hear: %s", mp_last_error()->text);
    text[size] = '\0';
    return text;
}

static int say(mp_connection *line, const char *text)
{
    return mp_connection_send_bytes(line, text, strlen(text));
}

static void wait_for_end(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;

    (void)mp_connection_recv(line, &message);
    mp_message_clear(&message);
}

/* ---- names ---- */

static void a_name_leads_to_the_same_bytes(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .name = "mp-test-basics", .size = 512);
    mp_shared_memory *other, *third;

    (void)state;
    assert_string_equal(mp_shared_memory_name(m), "mp-test-basics");
    assert_int_equal(mp_shared_memory_size(m), 512);
    for (int i = 0; i < 512; i++)
        assert_int_equal(bytes_of(m)[i], 0);
    bytes_of(m)[0] = 42;
    other = make_memory(.name = "mp-test-basics");
    assert_int_equal(bytes_of(other)[0], 42);
    bytes_of(other)[511] = 43;
    assert_int_equal(bytes_of(m)[511], 43);
    third = make_memory(.name = "mp-test-basics", .size = 3 * 512); /* the size is ignored */
    assert_int_equal(mp_shared_memory_size(third), 512);
    mp_shared_memory_close(third);
    mp_shared_memory_free(third);
    mp_shared_memory_free(other);
    assert_true(exists("mp-test-basics"));
    mp_shared_memory_free(m);
    assert_false(exists("mp-test-basics"));
}

static void names_are_taken_and_missing_and_unlinked_once(void **state)
{
    mp_shared_memory *m, *other;

    (void)state;
    refused(MP_ENOENT, .name = "mp-test-once");
    assert_non_null(strstr(mp_last_error()->text, "mp-test-once"));
    m = make_memory(.create = true, .name = "mp-test-once", .size = 1);
    refused(MP_EEXIST, .create = true, .name = "mp-test-once", .size = 1);
    assert_true(exists("mp-test-once"));
    other = make_memory(.name = "mp-test-once");
    assert_int_equal(mp_shared_memory_unlink(other), 0);
    assert_false(exists("mp-test-once"));
    assert_int_equal(mp_shared_memory_unlink(m), MP_ENOENT);
    assert_int_equal(mp_shared_memory_unlink(other), MP_ENOENT);
    bytes_of(m)[0] = 7; /* the memory stays */
    assert_int_equal(bytes_of(other)[0], 7);
    mp_shared_memory_free(m);
    mp_shared_memory_free(other);
}

static void wrong_sizes_and_wishes_are_refused(void **state)
{
    (void)state;
    refused(MP_EINVAL, .create = true);
    refused(MP_EINVAL, .create = true, .name = "mp-test-none", .size = 0);
    refused(MP_EINVAL, .create = true, .size = (size_t)-1);
    refused(MP_EINVAL, .anonymous = true);
    refused(MP_EINVAL, .anonymous = true, .size = 1, .name = "mp-test-none");
    refused(MP_EINVAL, .create = true, .size = 1, .readonly = true);
    refused(MP_EINVAL, .name = NULL);
    refused(MP_EINVAL, .size = 1);
    assert_false(exists("mp-test-none"));
}

static void names_are_checked(void **state)
{
    char name[300];
    mp_shared_memory *m;

    (void)state;
    refused(MP_EINVAL, .create = true, .size = 1, .name = "");
    refused(MP_EINVAL, .create = true, .size = 1, .name = ".");
    refused(MP_EINVAL, .name = "..");
    refused(MP_EINVAL, .create = true, .size = 1, .name = "/mp-test-slash");
    refused(MP_EINVAL, .name = "mp/test");
    assert_non_null(strstr(mp_last_error()->text, "slash"));
    memset(name, 'n', sizeof(name));
    name[255] = '\0';
    refused(MP_ENAMETOOLONG, .create = true, .size = 1, .name = name);
    refused(MP_ENAMETOOLONG, .name = name);
    name[254] = '\0';
    m = make_memory(.create = true, .size = 1, .name = name);
    mp_shared_memory_free(make_memory(.name = name));
    mp_shared_memory_free(m);
    assert_false(exists(name));
}

static void names_may_hold_any_character_but_a_slash(void **state)
{
    static const char *const names[] = { "a:b:c", "mp-test\nline", "mp test \xc3\xa9", ":shm:" };
    mp_shared_memory *m[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        m[i] = make_memory(.create = true, .size = 1, .name = names[i]);
    for (int i = 0; i < 4; i++) {
        mp_shared_memory_free(make_memory(.name = names[i]));
        mp_shared_memory_free(m[i]);
        assert_false(exists(names[i]));
    }
}

/* The C library's random bytes, in this program: repeated when told. */
static bool repeat;

int getentropy(void *buffer, size_t size)
{
    static _Thread_local unsigned char last[256];
    static _Thread_local size_t again;
    int (*real)(void *, size_t);
    void *found = dlsym(RTLD_NEXT, "getentropy");

    memcpy(&real, &found, sizeof(real));
    if (repeat && size <= again) {
        memcpy(buffer, last, size);
        repeat = false;
        return 0;
    }
    if (real(buffer, size) < 0)
        return -1;
    memcpy(last, buffer, size);
    again = size;
    return 0;
}

static void names_are_generated_as_python_does(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .size = 10);
    const char *name = mp_shared_memory_name(m);

    (void)state;
    assert_int_equal(strlen(name), 12);
    assert_memory_equal(name, "psm_", 4);
    assert_int_equal(strspn(name + 4, "0123456789abcdef"), 8);
    assert_int_equal(mp_shared_memory_size(m), 10);
    mp_shared_memory_free(m);
}

static void a_generated_name_that_is_taken_is_replaced(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .size = 1), *other;

    (void)state;
    repeat = true;
    other = make_memory(.create = true, .size = 1);
    assert_false(repeat);
    assert_string_not_equal(mp_shared_memory_name(m), mp_shared_memory_name(other));
    assert_true(exists(mp_shared_memory_name(m)));
    mp_shared_memory_free(other);
    mp_shared_memory_free(m);
}

/* ---- life ---- */

static void closing_takes_the_memory_and_leaves_the_name(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .name = "mp-test-close", .size = 99);
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    mp_shared_memory_close(m);
    mp_shared_memory_close(m);
    assert_null(mp_shared_memory_buf(m));
    assert_int_equal(mp_shared_memory_size(m), 99);
    assert_string_equal(mp_shared_memory_name(m), "mp-test-close");
    assert_true(exists("mp-test-close"));
    assert_int_equal(mp_shared_memory_grow(m, 200), MP_ECLOSED);
    assert_int_equal(mp_connection_send(a, m), MP_ECLOSED);
    assert_int_equal(mp_shared_memory_unlink(m), 0);
    assert_false(exists("mp-test-close"));
    mp_shared_memory_free(m);
    mp_shared_memory_free(NULL);
    mp_connection_free(a);
    mp_connection_free(b);
}

static void freeing_leaves_a_name_that_is_somebody_elses_by_now(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .name = "mp-test-new", .size = 1), *other;

    (void)state;
    assert_int_equal(shm_unlink("/mp-test-new"), 0);
    other = make_memory(.create = true, .name = "mp-test-new", .size = 1);
    assert_int_equal(mp_shared_memory_unlink(m), MP_ENOENT);
    mp_shared_memory_free(m);
    assert_true(exists("mp-test-new"));
    mp_shared_memory_free(other);
    assert_false(exists("mp-test-new"));
}

static void a_name_that_nobody_tracks_stays(void **state)
{
    mp_shared_memory *m =
        make_memory(.create = true, .name = "mp-test-stay", .size = 4, .track = MP_NO);

    (void)state;
    assert_int_equal(count_children(), 0);
    bytes_of(m)[0] = 5;
    mp_shared_memory_free(m);
    m = make_memory(.name = "mp-test-stay");
    assert_int_equal(bytes_of(m)[0], 5);
    assert_int_equal(mp_shared_memory_unlink(m), 0);
    mp_shared_memory_free(m);
}

static void anonymous_memory_has_no_name(void **state)
{
    mp_shared_memory *m = make_memory(.anonymous = true, .size = 3);

    (void)state;
    assert_null(mp_shared_memory_name(m));
    assert_int_equal(mp_shared_memory_size(m), 3);
    assert_int_equal(bytes_of(m)[2], 0);
    assert_int_equal(mp_shared_memory_unlink(m), MP_ENOENT);
    assert_int_equal(count_children(), 0); /* nobody has to look after it */
    mp_shared_memory_free(m);
}

static void memory_grows_for_each_who_asks(void **state)
{
    for (int named = 0; named < 2; named++) {
        mp_shared_memory *m = make_memory(.create = named, .anonymous = !named, .size = 100);
        mp_connection *a, *b;
        mp_message message = MP_MESSAGE_INIT;
        mp_shared_memory *other;
        const void *before;

        (void)state;
        assert_int_equal(mp_pipe(&a, &b), 0);
        assert_int_equal(mp_connection_send(a, m), 0);
        assert_int_equal(mp_connection_recv(b, &message), 0);
        assert_int_equal(mp_unpack(&message, &other), 0);
        memset(bytes_of(m), 1, 100);
        assert_int_equal(mp_shared_memory_grow(m, 50), 0);
        assert_int_equal(mp_shared_memory_size(m), 100); /* never shorter */
        assert_int_equal(mp_shared_memory_grow(m, 5 * MIB), 0);
        assert_int_equal(mp_shared_memory_size(m), 5 * MIB);
        assert_int_equal(bytes_of(m)[99], 1);
        assert_int_equal(bytes_of(m)[100], 0);
        bytes_of(m)[5 * MIB - 1] = 9;
        assert_int_equal(mp_shared_memory_size(other), 100);
        assert_int_equal(mp_shared_memory_grow(other, 5 * MIB), 0);
        assert_int_equal(bytes_of(other)[5 * MIB - 1], 9);
        assert_int_equal(mp_shared_memory_grow(other, 6 * MIB), 0);
        assert_int_equal(mp_shared_memory_grow(m, (size_t)-1), MP_EINVAL);
        before = mp_shared_memory_buf(m);
        if (HAS_64_BITS) /* else this is little */
            assert_true(mp_shared_memory_grow(m, PTRDIFF_MAX - 4096) < 0);
        if (HAS_64_BITS && named) /* this can be mapped, mostly, but not had */
            assert_true(mp_shared_memory_grow(m, (size_t)(UINT64_C(1) << 40)) < 0);
        assert_ptr_equal(mp_shared_memory_buf(m), before);
        assert_int_equal(mp_shared_memory_size(m), 5 * MIB);
        assert_int_equal(bytes_of(m)[5 * MIB - 1], 9);
        assert_int_equal(mp_connection_send(a, m), 0); /* all is as before: it still travels */
        assert_int_equal(mp_connection_recv(b, &message), 0);
        assert_int_equal(mp_unpack(&message, &other), 0);
        assert_int_equal(mp_shared_memory_size(other), 6 * MIB);
        mp_message_clear(&message);
        mp_shared_memory_free(m);
        mp_connection_free(a);
        mp_connection_free(b);
    }
}

static void read_only_memory_is_attached_by_name(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .name = "mp-test-read", .size = 10);
    mp_shared_memory *reader = make_memory(.name = "mp-test-read", .readonly = true);

    (void)state;
    bytes_of(m)[9] = 3;
    assert_int_equal(bytes_of(reader)[9], 3);
    assert_true(mp_shared_memory_readonly(reader));
    assert_false(mp_shared_memory_readonly(m));
    assert_int_equal(mp_shared_memory_grow(reader, 20), MP_EPERM);
    assert_int_equal(mp_shared_memory_size(reader), 10);
    assert_int_equal(mp_shared_memory_grow(m, 20), 0);
    assert_int_equal(mp_shared_memory_grow(reader, 20), 0);
    assert_int_equal(mp_shared_memory_size(reader), 20);
    mp_shared_memory_free(reader);
    mp_shared_memory_free(m);
}

static void memory_without_a_size_yet_is_to_be_tried_again(void **state)
{
    int fd = shm_open("/mp-test-empty", O_RDWR | O_CREAT | O_EXCL, 0600);

    (void)state;
    assert_true(fd >= 0);
    refused(MP_EAGAIN, .name = "mp-test-empty");
    assert_int_equal(ftruncate(fd, 1), 0);
    mp_shared_memory_free(make_memory(.name = "mp-test-empty"));
    assert_int_equal(shm_unlink("/mp-test-empty"), 0);
    assert_int_equal(close(fd), 0);
}

/* ---- travelling ---- */

static int increment(mp_call *call)
{
    mp_shared_memory *m;

    if (mp_unpack(call, &m))
        return 99;
    for (size_t i = 0; i < mp_shared_memory_size(m); i++)
        bytes_of(m)[i]++;
    return 0;
}

static void a_child_writes_into_memory_in_its_arguments(void **state)
{
    for (int named = 0; named < 2; named++) {
        mp_shared_memory *m = make_memory(.create = named, .anonymous = !named, .size = 70000);
        mp_process *p;

        (void)state;
        memset(bytes_of(m), 7, 70000);
        p = mp_process_new(.target = increment, .args = MP_ARGS(m));
        assert_int_equal(finish(support_start(p)), 0);
        for (int i = 0; i < 70000; i++)
            assert_int_equal(bytes_of(m)[i], 8);
        mp_shared_memory_free(m);
    }
}

static int increment_by_name(mp_call *call)
{
    const char *name;
    mp_shared_memory *m;

    if (mp_unpack(call, &name) || !(m = mp_shared_memory_new(.name = name)))
        return 99;
    bytes_of(m)[0]++;
    mp_shared_memory_free(m);
    return 0;
}

static void a_child_attaches_by_name_and_owns_nothing(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .size = 1);

    (void)state;
    for (int i = 1; i < 3; i++) {
        assert_int_equal(finish(start_process(.target = increment_by_name,
                             .args = MP_ARGS(mp_shared_memory_name(m)))),
            0);
        assert_int_equal(bytes_of(m)[0], i);
    }
    assert_true(exists(mp_shared_memory_name(m)));
    mp_shared_memory_free(m);
}

static int check_name(mp_call *call)
{
    const char *name;
    mp_shared_memory *m;

    if (mp_unpack(call, &name, &m))
        return 99;
    if (strcmp(mp_shared_memory_name(m), name) != 0)
        return 1;
    mp_shared_memory_free(m); /* it is lent: only closed */
    return mp_shared_memory_buf(m) ? 2 : 0;
}

static void memory_with_a_name_travels_after_it_was_unlinked(void **state)
{
    char name[255];
    mp_shared_memory *m;

    (void)state;
    memset(name, 'x', sizeof(name));
    name[254] = '\0';
    m = make_memory(.create = true, .name = name, .size = 1);
    assert_int_equal(finish(start_process(.target = check_name, .args = MP_ARGS(name, m))), 0);
    assert_true(exists(name)); /* the receiver does not own it */
    assert_int_equal(mp_shared_memory_unlink(m), 0);
    assert_int_equal(finish(start_process(.target = check_name, .args = MP_ARGS(name, m))), 0);
    mp_shared_memory_free(m);
}

static void memory_travels_in_messages(void **state)
{
    mp_shared_memory *m = make_memory(.anonymous = true, .size = 4), *kept;
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(a, mp_list("here", m)), 0);
    bytes_of(m)[3] = 33;
    mp_shared_memory_free(m); /* the message holds it */
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(mp_unpack(&message, NULL, &m), 0);
    assert_int_equal(bytes_of(m)[3], 33);
    kept = mp_shared_memory_keep(m);
    assert_ptr_equal(kept, m);
    mp_message_clear(&message);
    assert_int_equal(bytes_of(kept)[3], 33);
    mp_shared_memory_free(kept);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* Makes memory, gives it to the parent, and ends before that reads it. */
static int give(mp_call *call)
{
    mp_connection *line;
    mp_shared_memory *m = mp_shared_memory_new(.anonymous = true, .size = 5);
    int r;

    if (!m || mp_unpack(call, &line))
        return 99;
    memcpy(mp_shared_memory_buf(m), "hello", 5);
    r = mp_connection_send(line, m);
    mp_shared_memory_free(m);
    return r < 0;
}

static void a_child_gives_memory_that_outlives_it(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    mp_process *p = start_with_line(give, &line);
    mp_shared_memory *m;

    (void)state;
    assert_int_equal(finish(p), 0);
    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &m), 0);
    assert_memory_equal(bytes_of(m), "hello", 5);
    mp_message_clear(&message);
    mp_connection_free(line);
}

static int sum_part(mp_call *call)
{
    mp_shared_memory *m;
    size_t from, to;
    long sum = 0;

    if (mp_unpack(call, &m, &from, &to))
        return -1;
    for (size_t i = from; i < to; i++)
        sum += bytes_of(m)[i];
    return mp_return(call, sum);
}

static void tasks_of_a_pool_read_one_buffer(void **state)
{
    mp_pool *pool = mp_pool_new(.processes = 3);
    mp_shared_memory *m = make_memory(.anonymous = true, .size = 1000, .readonly = true);
    msgpack_object parts[10];
    msgpack_object part[10][3];
    long sums[10];

    (void)state;
    assert_non_null(pool);
    memset(bytes_of(m), 3, 1000);
    for (unsigned i = 0; i < 10; i++) {
        part[i][0] = mp__from_handle(m);
        part[i][1] = mp__from_unsigned(100 * i);
        part[i][2] = mp__from_unsigned(100 * (i + 1));
        parts[i] = mp__list(3, part[i]);
    }
    assert_int_equal(mp_pool_starmap(pool, sum_part, MP_ITEMS(parts, 10), MP_ITEMS(sums, 10)), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(sums[i], 300);
    mp_shared_memory_free(m);
    mp_pool_free(pool);
}

static mp_shared_memory *kept;

static int keep_it(mp_call *call)
{
    if (mp_unpack(call, &kept))
        return 99;
    (void)mp_shared_memory_keep(kept);
    return 0;
}

static int read_kept(mp_call *call)
{
    size_t i;

    return mp_unpack(call, &i) ? -1 : mp_return(call, bytes_of(kept)[i]);
}

static void workers_keep_what_their_initializer_got(void **state)
{
    mp_shared_memory *m = make_memory(.anonymous = true, .size = 100, .readonly = true);
    mp_pool *pool = mp_pool_new(.processes = 2, .initializer = keep_it, .initargs = MP_ARGS(m));
    size_t in[100];
    int out[100];

    (void)state;
    assert_non_null(pool);
    for (size_t i = 0; i < 100; i++) {
        in[i] = i;
        bytes_of(m)[i] = (char)i;
    }
    assert_int_equal(mp_pool_map(pool, read_kept, MP_ITEMS(in, 100), MP_ITEMS(out, 100)), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(out[i], i);
    mp_shared_memory_free(m);
    mp_pool_free(pool);
}

static int answer_with_memory(mp_call *call)
{
    mp_shared_memory *m = mp_shared_memory_new(.anonymous = true, .size = 2 * MIB);
    int r;

    if (!m)
        return mp_raise(call, mp_last_error()->code, "%s", mp_last_error()->text);
    memset(bytes_of(m), 11, 2 * MIB);
    r = mp_return(call, m);
    mp_shared_memory_free(m);
    return r;
}

static void a_task_answers_with_memory(void **state)
{
    mp_pool *pool = mp_pool_new(.processes = 1);
    mp_message answer = MP_MESSAGE_INIT;
    mp_shared_memory *m;

    (void)state;
    assert_non_null(pool);
    assert_int_equal(mp_pool_apply(pool, answer_with_memory, MP_ARGS(), &answer), 0);
    assert_int_equal(mp_unpack(&answer, &m), 0);
    assert_int_equal(mp_shared_memory_size(m), 2 * MIB);
    assert_int_equal(bytes_of(m)[2 * MIB - 1], 11);
    mp_message_clear(&answer);
    mp_pool_free(pool);
}

static mp_shared_memory *global;

static int use_global(mp_call *call)
{
    (void)call;
    bytes_of(global)[0]++;
    mp_shared_memory_free(global); /* its copy: the name is the creator's */
    return 0;
}

static void a_child_made_by_fork_inherits_memory(void **state)
{
    (void)state;
    global = make_memory(.create = true, .size = 1);
    assert_int_equal(finish(start_process(.target = use_global)), 0);
    assert_int_equal(bytes_of(global)[0], 1);
    assert_true(exists(mp_shared_memory_name(global)));
    mp_shared_memory_free(global);
    global = make_memory(.anonymous = true, .size = 1);
    assert_int_equal(finish(start_process(.target = use_global)), 0);
    assert_int_equal(bytes_of(global)[0], 1);
    mp_shared_memory_free(global);
}

/* ---- read only ---- */

static int write_to_it(mp_call *call)
{
    struct rlimit none = { 0, 0 };
    mp_shared_memory *m;

    if (mp_unpack(call, &m))
        return 99;
    if (!mp_shared_memory_readonly(m) || bytes_of(m)[0] != 21)
        return 98;
    if (mp_shared_memory_grow(m, 10 * MIB) != MP_EPERM)
        return 97;
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGSEGV, SIG_DFL); /* a sanitizer would make an exit code of it */
    bytes_of(m)[0] = 22;
    return 0;
}

static int pass_on(mp_call *call)
{
    mp_shared_memory *m;
    mp_process *p;
    int code;

    if (mp_unpack(call, &m))
        return 99;
    p = mp_process_new(.target = write_to_it, .args = MP_ARGS(m));
    if (!p || mp_process_start(p) < 0 || mp_process_join(p, PATIENCE) < 0)
        return 96;
    code = mp_process_exitcode(p);
    mp_process_free(p);
    return code == -SIGSEGV ? 5 : code;
}

static void a_receiver_of_read_only_memory_cannot_write(void **state)
{
    mp_shared_memory *m = make_memory(.anonymous = true, .size = 8192, .readonly = true);

    (void)state;
    assert_false(mp_shared_memory_readonly(m)); /* the creator fills it */
    bytes_of(m)[0] = 21;
    assert_int_equal(finish(start_process(.target = write_to_it, .args = MP_ARGS(m))), -SIGSEGV);
    assert_int_equal(finish(start_process(.target = pass_on, .args = MP_ARGS(m))), 5);
    assert_int_equal(bytes_of(m)[0], 21);
    assert_int_equal(mp_shared_memory_grow(m, 2 * MIB), 0);
    bytes_of(m)[2 * MIB - 1] = 1;
    mp_shared_memory_free(m);
}

/* ---- the end of its creator ---- */

/* Makes three names, unlinks one, tells them, and waits for ever. */
static int create_and_wait(mp_call *call)
{
    static mp_shared_memory *m[3]; /* no leak to a sanitizer */
    mp_connection *line;

    if (mp_unpack(call, &line))
        return 99;
    for (int i = 0; i < 3; i++)
        if (!(m[i] = mp_shared_memory_new(.create = true, .size = 4096)))
            return 98;
    if (mp_shared_memory_unlink(m[1]) < 0)
        return 97;
    if (say(line, mp_shared_memory_name(m[0])) < 0 || say(line, mp_shared_memory_name(m[2])) < 0)
        return 96;
    wait_for_end(line);
    return 0; /* nothing is freed */
}

static void check_names_go(mp_function target, int sig)
{
    mp_connection *line;
    mp_process *p = start_with_line(target, &line);
    char names[2][32];

    for (int i = 0; i < 2; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "%.31s", hear(line));
        assert_true(exists(names[i]));
    }
    if (sig) {
        assert_int_equal(kill(mp_process_pid(p), sig), 0);
        assert_int_equal(finish(p), -sig);
    }
    mp_connection_free(line);
    if (!sig)
        assert_int_equal(finish(p), 0);
    for (int i = 0; i < 2; i++)
        assert_true(sig ? goes(names[i]) : !exists(names[i]));
}

static void names_go_when_their_creator_is_killed(void **state)
{
    (void)state;
    check_names_go(create_and_wait, SIGKILL);
    check_names_go(create_and_wait, SIGTERM);
}

static void names_go_when_their_creator_exits(void **state)
{
    (void)state;
    check_names_go(create_and_wait, 0);
}

/* Its copy shares all but the ownership, and lives as long as there is somebody to talk to. */
static int create_fork_and_wait(mp_call *call)
{
    mp_shared_memory *m[2];
    mp_connection *line;
    pid_t pid;

    if (mp_unpack(call, &line))
        return 99;
    for (int i = 0; i < 2; i++)
        if (!(m[i] = mp_shared_memory_new(.create = true, .size = 1)))
            return 98;
    pid = fork();
    if (pid == 0) {
        wait_for_end(line);
        mp_shared_memory_free(m[0]);
        _exit(0);
    }
    if (say(line, mp_shared_memory_name(m[0])) < 0 || say(line, mp_shared_memory_name(m[1])) < 0)
        return 96;
    for (;;)
        (void)pause();
}

static void a_copy_of_the_creator_does_not_hold_its_names(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(create_fork_and_wait, &line);
    char names[2][32];

    (void)state;
    for (int i = 0; i < 2; i++)
        (void)snprintf(names[i], sizeof(names[i]), "%.31s", hear(line));
    assert_true(exists(names[0]));
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    assert_true(goes(names[0])); /* while the copy lives */
    assert_true(goes(names[1]));
    mp_connection_free(line); /* ends the copy */
}

static int create_untracked(mp_call *call)
{
    mp_connection *line;
    mp_shared_memory *m = mp_shared_memory_new(.create = true, .size = 1, .track = MP_NO);

    if (mp_unpack(call, &line) || !m || say(line, mp_shared_memory_name(m)) < 0)
        return 99;
    wait_for_end(line);
    return 0;
}

static void an_untracked_name_outlives_its_killed_creator(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(create_untracked, &line);
    mp_shared_memory *m = make_memory(.name = hear(line));

    (void)state;
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    mp_connection_free(line);
    assert_int_equal(mp_shared_memory_unlink(m), 0); /* it was there */
    mp_shared_memory_free(m);
}

/* The tracker of this process, or 0. */
static pid_t find_tracker(void)
{
    char mine[64], path[300], title[64];
    DIR *processes = opendir("/proc");
    pid_t found = 0;

    (void)snprintf(mine, sizeof(mine), "resource_tracker of %ld", (long)getpid());
    for (struct dirent *e = readdir(processes); e && !found; e = readdir(processes)) {
        FILE *file;

        (void)snprintf(path, sizeof(path), "/proc/%.64s/cmdline", e->d_name);
        memset(title, 0, sizeof(title));
        if (atoi(e->d_name) <= 0 || !(file = fopen(path, "re")))
            continue;
        if (fread(title, 1, sizeof(title) - 1, file) > 0 && strcmp(title, mine) == 0)
            found = (pid_t)atoi(e->d_name);
        (void)fclose(file);
    }
    (void)closedir(processes);
    return found;
}

/* Whether it ends before patience does. */
static bool tracker_ends(void)
{
    for (int i = 0; i < PATIENCE * 1000 && find_tracker(); i++)
        (void)poll(NULL, 0, 1);
    return !find_tracker();
}

/* Kills it and waits until it has closed all it had: its name in /proc goes earlier. */
static bool kill_tracker(pid_t tracker)
{
    struct pollfd end = { .fd = (int)syscall(SYS_pidfd_open, tracker, 0), .events = POLLIN };
    bool ended =
        end.fd >= 0 && kill(tracker, SIGKILL) == 0 && poll(&end, 1, (int)(PATIENCE * 1000)) == 1;

    if (end.fd >= 0)
        (void)close(end.fd);
    return ended;
}

/* Does something to its tracker between one name and the next. */
static int hurt_the_tracker(mp_call *call)
{
    mp_shared_memory *m[3];
    mp_connection *line;
    sigset_t before, after;
    pid_t tracker;
    int sig;

    if (mp_unpack(call, &line, &sig))
        return 99;
    memset(&before, 0, sizeof(before)); /* only a part of it is filled in */
    memset(&after, 0, sizeof(after));
    (void)pthread_sigmask(SIG_SETMASK, NULL, &before);
    if (!(m[0] = mp_shared_memory_new(.create = true, .size = 1)))
        return 98;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &after);
    if (memcmp(&before, &after, sizeof(before)) != 0)
        return 97;
    tracker = find_tracker();
    if (!tracker || (sig != SIGKILL && kill(tracker, sig) < 0))
        return 96;
    if (sig == SIGKILL && !kill_tracker(tracker))
        return 95;
    for (int i = 1; i < 3; i++)
        if (!(m[i] = mp_shared_memory_new(.create = true, .size = 1)))
            return 94;
    if ((find_tracker() == tracker) != (sig != SIGKILL))
        return 93;
    mp_shared_memory_free(m[1]);
    if (say(line, mp_shared_memory_name(m[0])) < 0 || say(line, mp_shared_memory_name(m[2])) < 0)
        return 92;
    wait_for_end(line);
    return 0;
}

static void check_hurt(int sig)
{
    mp_connection *line, *theirs;
    mp_process *p;
    char names[2][32];

    assert_int_equal(mp_pipe(&line, &theirs), 0);
    p = start_process(.target = hurt_the_tracker, .args = MP_ARGS(theirs, sig));
    mp_connection_free(theirs);
    for (int i = 0; i < 2; i++)
        (void)snprintf(names[i], sizeof(names[i]), "%.31s", hear(line));
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    assert_true(goes(names[0]));
    assert_true(goes(names[1]));
    mp_connection_free(line);
}

static void the_tracker_survives_an_interrupt(void **state)
{
    (void)state;
    check_hurt(SIGINT);
    check_hurt(SIGTERM);
}

static void a_killed_tracker_is_replaced_and_told_everything(void **state)
{
    (void)state;
    check_hurt(SIGKILL);
}

static void the_tracker_is_nobodys_child_and_stays(void **state)
{
    mp_shared_memory *m;
    pid_t tracker;

    (void)state;
    assert_int_equal(find_tracker(), 0);
    mp_shared_memory_free(make_memory(.create = true, .size = 1));
    tracker = find_tracker();
    assert_true(tracker > 0);
    m = make_memory(.create = true, .size = 1);
    assert_int_equal(find_tracker(), tracker);
    errno = 0;
    assert_int_equal(wait(NULL), -1); /* a program that waits for all its children ends */
    assert_int_equal(errno, ECHILD);
    mp_shared_memory_free(m);
    mp__resource_tracker_stop();
    assert_true(tracker_ends());
}

enum { MANY = 700 };

/* More names than the socket of the tracker holds. */
static int make_many(mp_call *call)
{
    static mp_shared_memory *m[MANY];
    mp_connection *line;

    if (mp_unpack(call, &line))
        return 99;
    for (int i = 0; i < MANY; i++)
        if (!(m[i] = mp_shared_memory_new(.create = true, .size = 1)))
            return 98;
    for (int i = 0; i < MANY; i++)
        if (say(line, mp_shared_memory_name(m[i])) < 0)
            return 97;
    wait_for_end(line);
    return 0;
}

static void many_names_go_when_their_creator_is_killed(void **state)
{
    static char names[MANY][16];
    mp_connection *line;
    mp_process *p = start_with_line(make_many, &line);

    (void)state;
    for (int i = 0; i < MANY; i++)
        (void)snprintf(names[i], sizeof(names[i]), "%.15s", hear(line));
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    for (int i = 0; i < MANY; i++)
        assert_true(goes(names[i]));
    mp_connection_free(line);
}

/* Nobody waits for it for long, and it harms nobody when it goes on. */
static void a_stopped_tracker_does_not_stop_its_owner(void **state)
{
    mp_shared_memory *m = make_memory(.create = true, .size = 1);
    pid_t tracker = find_tracker();

    (void)state;
    assert_int_equal(kill(tracker, SIGSTOP), 0);
    for (int i = 0; i < 3000; i++)
        mp_shared_memory_free(make_memory(.create = true, .size = 1));
    assert_int_equal(find_tracker(), tracker);
    assert_int_equal(kill(tracker, SIGCONT), 0);
    assert_true(exists(mp_shared_memory_name(m)));
    mp_shared_memory_free(m);
    mp__resource_tracker_stop();
    assert_true(tracker_ends());
}

/* Everybody of a group is killed at once: only who stepped aside is left to clean up. */
static int lead_a_group(mp_call *call)
{
    return setpgid(0, 0) < 0 ? 99 : create_and_wait(call);
}

static void names_go_when_a_whole_group_is_killed(void **state)
{
    mp_connection *line;
    mp_process *p = start_with_line(lead_a_group, &line);
    char names[2][32];

    (void)state;
    for (int i = 0; i < 2; i++)
        (void)snprintf(names[i], sizeof(names[i]), "%.31s", hear(line));
    assert_int_equal(kill(-mp_process_pid(p), SIGKILL), 0);
    assert_int_equal(finish(p), -SIGKILL);
    assert_true(goes(names[0]));
    assert_true(goes(names[1]));
    mp_connection_free(line);
}

static void a_program_without_its_guard_has_names_and_no_tracker(void **state)
{
    static outcome out;
    const char *argv[] = { program_path("shared_unguarded"), NULL };

    (void)state;
    run_program(argv, NULL, PATIENCE, &out);
    assert_int_equal(out.status, 0);
    assert_int_equal(strlen(out.output), 12); /* a name, and no child */
    assert_false(exists(out.output));         /* it went at exit */
}

/* ---- limits ---- */

/* In a mount namespace whose /dev/shm has a MiB; 77: that cannot be had here. */
static int fill_a_small_mount(void)
{
    mp_shared_memory *m, *other;
    int r = 0;

    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/dev/shm", "tmpfs", 0, "size=1m") < 0)
        return 77;
    m = mp_shared_memory_new(.create = true, .name = "mp-test-full", .size = 4 * MIB);
    if (m || mp_last_error()->code != MP_ENOSPC || !strstr(mp_last_error()->text, "/dev/shm"))
        return 1;
    if (exists("mp-test-full"))
        return 2;
    m = mp_shared_memory_new(.create = true, .name = "mp-test-full", .size = MIB / 2);
    if (!m)
        return 3;
    other = mp_shared_memory_new(.create = true, .size = 3 * MIB / 4);
    if (other || mp_last_error()->code != MP_ENOSPC)
        return 4;
    if (mp_shared_memory_grow(m, 2 * MIB) != MP_ENOSPC || mp_shared_memory_size(m) != MIB / 2)
        return 5;
    memset(bytes_of(m), 1, MIB / 2);
    if (mp_shared_memory_grow(m, 3 * MIB / 4) < 0)
        return 6;
    memset(bytes_of(m), 1, 3 * MIB / 4); /* no SIGBUS */
    mp_shared_memory_free(m);
    for (int i = 0; i < 20 && r == 0; i++) { /* nothing of what failed is left */
        m = mp_shared_memory_new(.create = true, .size = 3 * MIB / 4, .track = MP_NO);
        r = m && mp_shared_memory_unlink(m) == 0 ? 0 : 7;
        mp_shared_memory_free(m);
    }
    return r;
}

static void a_full_file_system_is_an_error_when_memory_is_made(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        _exit(fill_a_small_mount());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("SKIPPED: no file system can be mounted here\n");
        return;
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static bool is_beyond_limit(const void *object)
{
    return !object && mp_last_error()->code == -EFBIG && strstr(mp_last_error()->text, "ulimit -f");
}

/* What would exceed ulimit -f is an error; the signal the system has for it would kill. */
static int exceed_the_limit(void)
{
    struct rlimit limit = { MIB, MIB };
    mp_shared_memory *m;

    (void)signal(SIGXFSZ, SIG_DFL);
    if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
        return 1;
    if (!is_beyond_limit(mp_shared_memory_new(.create = true, .size = 2 * MIB)) ||
        !is_beyond_limit(mp_shared_memory_new(.anonymous = true, .size = 2 * MIB)) ||
        !is_beyond_limit(mp_raw_array_new(char, 2 * MIB)))
        return 2;
    m = mp_shared_memory_new(.anonymous = true, .size = MIB);
    if (!m || mp_shared_memory_grow(m, MIB + 1) != -EFBIG)
        return 3;
    memset(bytes_of(m), 1, MIB);
    mp_shared_memory_free(m);
    return 0;
}

static void more_than_a_file_may_have_is_an_error(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        _exit(exceed_the_limit());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void memory_that_cannot_be_had_leaves_nothing(void **state)
{
    int before = count_descriptors();

    (void)state;
    if (!HAS_64_BITS)
        skip(); /* it can be had */
    assert_null(mp_shared_memory_new(.anonymous = true, .size = PTRDIFF_MAX));
    assert_true(mp_last_error()->code == MP_ENOMEM || mp_last_error()->code == MP_ENOSPC);
    assert_int_equal(count_descriptors(), before);
    refused(MP_ENOSPC, .create = true, .name = "mp-test-huge", .size = PTRDIFF_MAX);
    assert_false(exists("mp-test-huge"));
    mp__resource_tracker_stop();
    assert_int_equal(count_descriptors(), before);
}

/* Makes one of each with so many descriptors left. Returns how many succeeded. */
static int try_with_descriptors(int left)
{
    struct rlimit old, tight;
    int fds[8], count = 0, done = 0;
    mp_shared_memory *m[2];

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    for (int i = 0; i < left; i++)
        fds[count++] = dup(0);
    tight = old;
    tight.rlim_cur = (rlim_t)dup(0) + 1;
    (void)close((int)tight.rlim_cur - 1);
    tight.rlim_cur--;
    for (int i = 0; i < count; i++)
        (void)close(fds[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    m[0] = mp_shared_memory_new(.create = true, .name = "mp-test-tight", .size = 10);
    m[1] = mp_shared_memory_new(.anonymous = true, .size = 10);
    for (int i = 0; i < 2; i++) {
        done += m[i] != NULL;
        mp_shared_memory_free(m[i]);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_false(exists("mp-test-tight"));
    mp__resource_tracker_stop();
    return done;
}

static void without_descriptors_memory_is_an_error_or_whole(void **state)
{
    int before = count_descriptors();

    (void)state;
    mp_log_to_stderr(MP_LOG_ERROR); /* that there is no tracker is expected */
    assert_int_equal(try_with_descriptors(0), 0);
    assert_int_equal(mp_last_error()->code, MP_EMFILE);
    for (int left = 1; left < 8; left++)
        (void)try_with_descriptors(left);
    assert_int_equal(try_with_descriptors(8), 2);
    assert_int_equal(count_descriptors(), before);
}

static void thousands_come_and_go(void **state)
{
    int before = count_descriptors();

    (void)state;
    for (int i = 0; i < 10000; i++)
        mp_shared_memory_free(make_memory(.anonymous = true, .size = 1));
    for (int i = 0; i < 2000; i++) {
        mp_shared_memory *m = make_memory(.create = true, .size = 1, .track = MP_NO);

        assert_int_equal(mp_shared_memory_unlink(m), 0);
        mp_shared_memory_free(m);
    }
    assert_int_equal(count_descriptors(), before);
}

static void *create_and_free(void *argument)
{
    atomic_int *failures = argument;

    for (int i = 0; i < 50; i++) {
        mp_shared_memory *m = mp_shared_memory_new(.create = true, .size = 100);

        if (m)
            memset(mp_shared_memory_buf(m), 1, 100);
        else
            (*failures)++;
        mp_shared_memory_free(m);
    }
    return NULL;
}

static void threads_make_names_at_once(void **state)
{
    atomic_int failures = 0;
    pthread_t threads[4];

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, create_and_free, &failures), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(failures, 0);
}

enum { RIVALS = 4, RACES = 100 };

static pthread_barrier_t barrier;
static mp_shared_memory *winners[RIVALS];

static void *race(void *argument)
{
    mp_shared_memory **mine = argument;

    for (int i = 0; i < RACES; i++) {
        (void)pthread_barrier_wait(&barrier);
        *mine = mp_shared_memory_new(.create = true, .name = "mp-test-rivals", .size = 5000);
        if (!*mine && mp_last_error()->code != MP_EEXIST)
            return "another error";
        (void)pthread_barrier_wait(&barrier); /* the main thread looks who won */
        (void)pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void of_rivals_for_a_name_one_wins(void **state)
{
    pthread_t threads[RIVALS];
    void *wrong;

    (void)state;
    assert_int_equal(pthread_barrier_init(&barrier, NULL, RIVALS + 1), 0);
    for (int k = 0; k < RIVALS; k++)
        assert_int_equal(pthread_create(&threads[k], NULL, race, &winners[k]), 0);
    for (int i = 0; i < RACES; i++) {
        int won = 0;

        (void)pthread_barrier_wait(&barrier);
        (void)pthread_barrier_wait(&barrier);
        assert_true(exists("mp-test-rivals")); /* no loser took it away */
        for (int k = 0; k < RIVALS; k++) {
            won += winners[k] != NULL;
            mp_shared_memory_free(winners[k]);
        }
        assert_int_equal(won, 1);
        assert_false(exists("mp-test-rivals"));
        (void)pthread_barrier_wait(&barrier);
    }
    for (int k = 0; k < RIVALS; k++) {
        assert_int_equal(pthread_join(threads[k], &wrong), 0);
        assert_null(wrong);
    }
    (void)pthread_barrier_destroy(&barrier);
}

static void *make_until_told(void *argument)
{
    atomic_int *stop = argument;

    while (!*stop)
        mp_shared_memory_free(mp_shared_memory_new(.create = true, .size = 1));
    return NULL;
}

/* What a copy made by fork does: its own names. A lock held by a thread that it has not hangs it. */
static void make_names_in_a_copy(void)
{
    mp_shared_memory *m;

    (void)alarm((unsigned)PATIENCE);
    (void)signal(SIGALRM, SIG_DFL);
    m = mp_shared_memory_new(.create = true, .size = 1);
    if (!m)
        _exit(1);
    mp_shared_memory_free(m);
    _exit(count_children() ? 2 : 0);
}

static void a_copy_made_while_names_are_made_can_make_its_own(void **state)
{
    atomic_int stop = 0;
    pthread_t thread;

    (void)state;
    if (HAS_TSAN || HAS_ASAN) {
        print_message("SKIPPED: a sanitizer does not know of threads and fork\n");
        return;
    }
    assert_int_equal(pthread_create(&thread, NULL, make_until_told, &stop), 0);
    for (int i = 0; i < 30; i++) {
        int status = 0;
        pid_t pid = fork();

        if (pid == 0)
            make_names_in_a_copy();
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    stop = 1;
    assert_int_equal(pthread_join(thread, NULL), 0);
}

/* ---- nonsense ---- */

/* What a hostile peer could say of the memory it sends. */
static void malformed_memory_is_an_error(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
    } bad[] = { { "", 0 }, { "\2", 1 }, { "\xff", 1 }, { "\0a/b", 4 }, { "\0a\0b", 4 } };
    uint8_t state_of[MP__STATE_MAX] = { 0 };
    int before = count_descriptors();
    mp_shared_memory *m = NULL;
    int fds[2] = { memfd_create("test", MFD_CLOEXEC), -1 };
    void *built = NULL;

    (void)state;
    assert_int_equal(ftruncate(fds[0], 100), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(mp__shared_memory_kind.rebuild(
                             (const uint8_t *)bad[i].bytes, bad[i].size, fds, 1, &built),
            MP_EPROTOCOL);
    assert_int_equal(
        mp__shared_memory_kind.rebuild(state_of, MP__STATE_MAX, fds, 1, &built), MP_EPROTOCOL);
    assert_int_equal(mp__shared_memory_kind.rebuild(state_of, 1, fds, 0, &built), MP_EPROTOCOL);
    assert_int_equal(mp__shared_memory_kind.rebuild(state_of, 1, fds, 2, &built), MP_EPROTOCOL);
    assert_int_equal(mp__shared_memory_kind.rebuild(state_of, 1, &fds[1], 1, &built), MP_EPROTOCOL);
    assert_int_equal(ftruncate(fds[0], 0), 0);
    assert_int_equal(mp__shared_memory_kind.rebuild(state_of, 1, fds, 1, &built), MP_EPROTOCOL);
    assert_int_equal(close(fds[0]), 0);
    fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(mp__shared_memory_kind.rebuild(state_of, 1, fds, 1, &built), MP_EPROTOCOL);
    assert_int_equal(close(fds[0]), 0);
    fds[0] = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fds[0], 1), 0);
    assert_int_equal(mp__shared_memory_kind.rebuild(state_of, 1, fds, 1, &built), 0);
    assert_int_equal(fds[0], -1);
    m = built;
    assert_int_equal(mp_shared_memory_size(m), 1);
    mp_shared_memory_free(m);
    assert_int_equal(count_descriptors(), before);
}

static void another_handle_is_no_memory(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *a, *b;
    mp_shared_memory *m = NULL;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_connection_send(a, b), 0);
    assert_int_equal(mp_connection_recv(b, &message), 0);
    assert_int_equal(mp_unpack(&message, &m), MP_ETYPE);
    assert_null(m);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* ---- a big argument ---- */

/* Bytes of physical memory that this process has, its share of what others have too. */
static size_t proportional_memory(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "re");
    char line[256];
    unsigned long kib = 0;

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "Pss: %lu", &kib) == 1)
            break;
    if (file)
        (void)fclose(file);
    return (size_t)kib * 1024;
}

static unsigned long read_all(const mp_shared_memory *m)
{
    const unsigned char *bytes = mp_shared_memory_buf(m);
    unsigned long sum = 0;

    for (size_t i = 0; i < mp_shared_memory_size(m); i += 4096)
        sum += bytes[i];
    return sum;
}

/* Reads all of it, says so, and how much memory it has when everybody has read it. */
static int hold(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    mp_shared_memory *m;
    int r;

    if (mp_unpack(call, &line, &m))
        return 99;
    r = mp_connection_send(line, read_all(m));
    if (r == 0)
        r = mp_connection_recv(line, &message);
    if (r == 0)
        r = mp_connection_send(line, proportional_memory());
    if (r == 0)
        r = mp_connection_recv(line, &message);
    mp_message_clear(&message);
    return r < 0;
}

static unsigned long hear_number(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;
    unsigned long number = 0;

    assert_int_equal(mp_connection_recv(line, &message), 0);
    assert_int_equal(mp_unpack(&message, &number), 0);
    mp_message_clear(&message);
    return number;
}

/* MP_TEST_BIG=1: the array has a GiB. */
static void a_big_argument_reaches_eight_processes_without_a_copy(void **state)
{
    size_t size = getenv("MP_TEST_BIG") ? 1024 * MIB : 64 * MIB, sum;
    mp_shared_memory *m = make_memory(.anonymous = true, .size = size, .readonly = true);
    mp_connection *lines[8], *theirs;
    mp_process *p[8];

    (void)state;
    for (size_t i = 0; i < size; i += 4096)
        bytes_of(m)[i] = 1;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(mp_pipe(&lines[i], &theirs), 0);
        p[i] = start_process(.target = hold, .args = MP_ARGS(theirs, m));
        mp_connection_free(theirs);
    }
    for (int i = 0; i < 8; i++)
        assert_int_equal(hear_number(lines[i]), size / 4096);
    sum = proportional_memory();
    for (int i = 0; i < 8; i++) {
        assert_int_equal(mp_connection_send(lines[i], 1), 0);
        sum += hear_number(lines[i]);
    }
    if (getenv("MP_TEST_BIG"))
        print_message("%zu MiB of argument, %zu MiB in nine processes\n", size / MIB, sum / MIB);
    if (!HAS_ASAN && !HAS_TSAN)
        assert_in_range(sum, size, size + size / 8 + 16 * MIB);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(mp_connection_send(lines[i], 1), 0);
        assert_int_equal(finish(p[i]), 0);
        mp_connection_free(lines[i]);
    }
    mp_shared_memory_free(m);
}

/* ---- CPython ---- */

/* A Python older than 3.13 would unlink what it only attaches to. */
#define ATTACH                                                       \
    "import sys\n"                                                   \
    "from multiprocessing import shared_memory, resource_tracker\n"  \
    "def attach(name):\n"                                            \
    "    if sys.version_info >= (3, 13):\n"                          \
    "        return shared_memory.SharedMemory(name, track=False)\n" \
    "    m = shared_memory.SharedMemory(name)\n"                     \
    "    resource_tracker.unregister(m._name, 'shared_memory')\n"    \
    "    return m\n"

static void python_reads_and_writes_our_memory(void **state)
{
    static outcome out;
    mp_shared_memory *m = make_memory(.create = true, .size = 11);
    const char *name = mp_shared_memory_name(m);

    (void)state;
    memcpy(bytes_of(m), "hello world", 11);
    if (run_python(ATTACH "m = attach(sys.argv[1])\n"
                          "print(m.size, bytes(m.buf[:11]).decode(), m.name)\n"
                          "m.buf[:5] = b'HELLO'\n"
                          "m.close()\n",
            name, &out)) {
        char expected[64];

        (void)snprintf(expected, sizeof(expected), "11 hello world %s\n", name);
        assert_string_equal(out.output, expected);
        assert_memory_equal(bytes_of(m), "HELLO world", 11);
        assert_true(exists(name));
    }
    mp_shared_memory_free(m);
}

static void python_finds_our_names_taken_and_gone(void **state)
{
    static outcome out;
    mp_shared_memory *m = make_memory(.create = true, .size = 11);

    (void)state;
    if (run_python(ATTACH "try:\n"
                          "    shared_memory.SharedMemory(sys.argv[1], create=True, size=1)\n"
                          "except FileExistsError:\n"
                          "    print('taken')\n"
                          "m = attach(sys.argv[1])\n"
                          "resource_tracker.register(m._name, 'shared_memory')\n"
                          "m.unlink()\n"
                          "m.close()\n",
            mp_shared_memory_name(m), &out)) {
        assert_string_equal(out.output, "taken\n");
        assert_false(exists(mp_shared_memory_name(m)));
        assert_int_equal(mp_shared_memory_unlink(m), MP_ENOENT);
    }
    mp_shared_memory_free(m);
}

static void we_read_and_write_memory_of_python(void **state)
{
    static outcome out;
    mp_shared_memory *m;
    char name[64];

    (void)state;
    if (!run_python("from multiprocessing import shared_memory, resource_tracker\n"
                    "m = shared_memory.SharedMemory(create=True, size=4097)\n"
                    "m.buf[4096] = 77\n"
                    "resource_tracker.unregister(m._name, 'shared_memory')\n"
                    "print(m.name, end='')\n"
                    "m.close()\n",
            NULL, &out))
        return;
    (void)snprintf(name, sizeof(name), "%.63s", out.output);
    m = make_memory(.name = name);
    assert_int_equal(mp_shared_memory_size(m), 4097);
    assert_int_equal((unsigned char)bytes_of(m)[4096], 77);
    bytes_of(m)[0] = 78;
    assert_true(run_python(ATTACH "m = attach(sys.argv[1])\nprint(m.buf[0])\n", name, &out));
    assert_string_equal(out.output, "78\n");
    mp_shared_memory_close(m);
    assert_true(exists(name)); /* it is not ours */
    assert_int_equal(mp_shared_memory_unlink(m), 0);
    mp_shared_memory_free(m);
}

/* What the header warns of: its tracker takes the name away, and the memory stays. */
static void a_python_that_attaches_may_take_our_name_away(void **state)
{
    static outcome out;
    mp_shared_memory *m = make_memory(.create = true, .size = 1);

    (void)state;
    if (run_python("import sys\n"
                   "from multiprocessing import shared_memory\n"
                   "m = shared_memory.SharedMemory(sys.argv[1])\n"
                   "m.buf[0] = 5\n"
                   "m.close()\n",
            mp_shared_memory_name(m), &out)) {
        assert_int_equal(bytes_of(m)[0], 5);
        if (exists(mp_shared_memory_name(m)))
            print_message("this CPython leaves names alone that it attaches to\n");
    }
    mp_shared_memory_free(m); /* without an error, whoever took the name */
}

/* Anybody may make one there; to open it must not wait for its other end. */
static void a_fifo_is_no_shared_memory(void **state)
{
    char path[64];
    const char *name = path + strlen("/dev/shm/");

    (void)state;
    (void)snprintf(path, sizeof(path), "/dev/shm/mp-test-fifo-%ld", (long)getpid());
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_null(mp_shared_memory_new(.name = name, .readonly = true));
    assert_null(mp_shared_memory_new(.name = name));
    assert_int_equal(unlink(path), 0);
}

static const struct CMUnitTest tests[] = {
    ONCE(a_fifo_is_no_shared_memory),
    ONCE(a_name_leads_to_the_same_bytes),
    ONCE(names_are_taken_and_missing_and_unlinked_once),
    ONCE(wrong_sizes_and_wishes_are_refused),
    ONCE(names_are_checked),
    ONCE(names_may_hold_any_character_but_a_slash),
    ONCE(names_are_generated_as_python_does),
    ONCE(a_generated_name_that_is_taken_is_replaced),
    ONCE(closing_takes_the_memory_and_leaves_the_name),
    ONCE(freeing_leaves_a_name_that_is_somebody_elses_by_now),
    ONCE(a_name_that_nobody_tracks_stays),
    ONCE(anonymous_memory_has_no_name),
    ONCE(memory_grows_for_each_who_asks),
    ONCE(read_only_memory_is_attached_by_name),
    ONCE(memory_without_a_size_yet_is_to_be_tried_again),
    UNDER_EACH(a_child_writes_into_memory_in_its_arguments),
    UNDER_EACH(a_child_attaches_by_name_and_owns_nothing),
    UNDER_EACH(memory_with_a_name_travels_after_it_was_unlinked),
    ONCE(memory_travels_in_messages),
    UNDER_EACH(a_child_gives_memory_that_outlives_it),
    UNDER_EACH(tasks_of_a_pool_read_one_buffer),
    UNDER_EACH(workers_keep_what_their_initializer_got),
    UNDER_EACH(a_task_answers_with_memory),
    UNDER(a_child_made_by_fork_inherits_memory, "fork"),
    UNDER_EACH(a_receiver_of_read_only_memory_cannot_write),
    UNDER_EACH(names_go_when_their_creator_is_killed),
    UNDER_EACH(names_go_when_their_creator_exits),
    UNDER_EACH(names_go_when_a_whole_group_is_killed),
    UNDER_EACH(a_copy_of_the_creator_does_not_hold_its_names),
    UNDER_EACH(an_untracked_name_outlives_its_killed_creator),
    UNDER_EACH(the_tracker_survives_an_interrupt),
    UNDER_EACH(a_killed_tracker_is_replaced_and_told_everything),
    ONCE(the_tracker_is_nobodys_child_and_stays),
    ONCE(a_stopped_tracker_does_not_stop_its_owner),
    UNDER(many_names_go_when_their_creator_is_killed, "spawn"),
    ONCE(a_program_without_its_guard_has_names_and_no_tracker),
    ONCE(a_full_file_system_is_an_error_when_memory_is_made),
    ONCE(more_than_a_file_may_have_is_an_error),
    ONCE(memory_that_cannot_be_had_leaves_nothing),
    ONCE(without_descriptors_memory_is_an_error_or_whole),
    ONCE(thousands_come_and_go),
    ONCE(threads_make_names_at_once),
    ONCE(of_rivals_for_a_name_one_wins),
    ONCE(a_copy_made_while_names_are_made_can_make_its_own),
    ONCE(malformed_memory_is_an_error),
    ONCE(another_handle_is_no_memory),
    UNDER_EACH(a_big_argument_reaches_eight_processes_without_a_copy),
    ONCE(python_reads_and_writes_our_memory),
    ONCE(python_finds_our_names_taken_and_gone),
    ONCE(we_read_and_write_memory_of_python),
    ONCE(a_python_that_attaches_may_take_our_name_away),
};

TESTS_MAIN(tests)
