/* SPDX-License-Identifier: MIT
 *
 * test_failures.c - the first, second, third... call the system could refuse
 * fails, in turn: each is an error of the library, and nothing is left behind.
 *
 * The functions below stand in for those of the C library, in this program only.
 */
#include "support.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean_internal.h"
#include "popen_internal.h"
#include "resource_tracker_internal.h"

static bool armed;
static int countdown; /* calls until one fails */
static int failed;    /* calls that did */

static bool starving; /* only calls for memory fail, and all from that one on */

/* Whether this call is the one that fails. */
static bool fails(void)
{
    if (!armed || starving || --countdown != 0)
        return false;
    failed++;
    return true;
}

/* The C library's own function of that name, put into a pointer to it. */
static void find_real(void *pointer, const char *name)
{
    char large[64]; /* its name where off_t has 64 bits and long has not */
    void *real;

    (void)snprintf(large, sizeof(large), "%s64", name);
    real = dlsym(RTLD_NEXT, large);
    if (!real)
        real = dlsym(RTLD_NEXT, name);
    memcpy(pointer, &real, sizeof(real));
}

static bool barren; /* no fork succeeds in this process */

pid_t fork(void)
{
    pid_t (*real)(void);
    pid_t pid;

    find_real(&real, "fork");
    if (barren || fails()) {
        errno = EAGAIN;
        return -1;
    }
    pid = real();
    if (pid == 0)
        armed = false; /* what fails is the parent's */
    return pid;
}

int pipe2(int fds[2], int flags)
{
    int (*real)(int *, int);

    find_real(&real, "pipe2");
    if (!fails())
        return real(fds, flags);
    errno = EMFILE;
    return -1;
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
    int (*real)(int, int, int, int *);

    find_real(&real, "socketpair");
    if (!fails())
        return real(domain, type, protocol, fds);
    errno = EMFILE;
    return -1;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t (*real)(int, const struct msghdr *, int);

    find_real(&real, "sendmsg");
    if (!fails())
        return real(fd, message, flags);
    errno = ENOBUFS;
    return -1;
}

int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
    const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *,
        const posix_spawnattr_t *, char *const[], char *const[]);

    find_real(&real, "posix_spawn");
    if (!fails())
        return real(pid, path, actions, attributes, argv, envp);
    return EAGAIN;
}

int ftruncate(int fd, off_t size)
{
    int (*real)(int, off_t);

    find_real(&real, "ftruncate");
    if (!fails())
        return real(fd, size);
    errno = EFBIG;
    return -1;
}

int memfd_create(const char *name, unsigned flags)
{
    int (*real)(const char *, unsigned);

    find_real(&real, "memfd_create");
    if (!fails())
        return real(name, flags);
    errno = EMFILE;
    return -1;
}

int posix_fallocate(int fd, off_t offset, off_t size)
{
    int (*real)(int, off_t, off_t);

    find_real(&real, "posix_fallocate");
    return fails() ? ENOSPC : real(fd, offset, size);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    int (*real)(int, const char *, int, const char *, int);

    find_real(&real, "linkat");
    if (!fails())
        return real(from, old, to, new, flags);
    errno = EACCES;
    return -1;
}

#if !HAS_ASAN && !HAS_TSAN
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    void *(*real)(void *, size_t, int, int, int, off_t);

    find_real(&real, "mmap");
    if (!(flags & MAP_SHARED) || !fails())
        return real(at, size, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

#ifdef __GLIBC__
static bool lacks_memory(void)
{
    if (!starving)
        return fails();
    if (!armed || --countdown > 0)
        return false;
    failed++;
    return true;
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size)
{
    if (!lacks_memory())
        return __libc_malloc(size);
    errno = ENOMEM;
    return NULL;
}

void *calloc(size_t count, size_t size)
{
    if (!lacks_memory())
        return __libc_calloc(count, size);
    errno = ENOMEM;
    return NULL;
}

void *realloc(void *old, size_t size)
{
    if (!lacks_memory())
        return __libc_realloc(old, size);
    errno = ENOMEM;
    return NULL;
}
#endif
#endif

static int return_three(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line, NULL) ? 99 : 3;
}

/* One whole use of the library. Returns the first code that is not 0. */
static int use(void)
{
    mp_connection *a = NULL, *b = NULL;
    mp_process *p = NULL;
    int r = mp_pipe(&a, &b);

    if (r == 0) {
        p = mp_process_new(.target = return_three, .args = MP_ARGS(b, "text"), .daemon = true);
        r = p ? mp_process_start(p) : mp_last_error()->code;
    }
    armed = false; /* the child has its own; joining needs nothing */
    if (r == 0)
        r = mp_process_join(p, PATIENCE);
    if (r == 0 && mp_process_exitcode(p) != 3)
        r = MP_EIO;
    mp_process_free(p);
    mp_connection_free(a);
    mp_connection_free(b);
    return r;
}

/* The same for what is shared: made, sent, received, and used. */
static int use_memory(void)
{
    mp_message message = MP_MESSAGE_INIT, text = MP_MESSAGE_INIT;
    mp_shared_memory *named = mp_shared_memory_new(.create = true, .size = 10), *m;
    mp_shareable_list *list = mp_shareable_list_new(.items = mp_list(1, "text")), *l;
    mp_raw_array *array = mp_raw_array_new(int, 3), *copy = NULL, *a;
    mp_array *own = mp_array_new(int, 3), *given = NULL, *w;
    mp_connection *here = NULL, *there = NULL;
    int r = named && list && array && own ? 0 : mp_last_error()->code;

    if (r == 0)
        r = mp_shared_memory_grow(named, 20);
    if (r == 0)
        r = (copy = mp_raw_array_copy(array)) ? mp_pipe(&here, &there) : MP_ENOMEM;
    if (r == 0)
        r = (given = mp_array_new(int, 3, .lock = mp_array_get_lock(own))) ? 0 : MP_ENOMEM;
    if (r == 0)
        r = mp_connection_send(here, mp_list(named, list, array, 7, given));
    if (r == 0)
        r = mp_connection_recv(there, &message);
    if (r == 0)
        r = mp_unpack(&message, &m, &l, &a, NULL, &w);
    if (r == 0)
        r = mp_shareable_list_get(l, 1, &text);
    if (r == 0)
        r = mp_array_set(w, 1, 5);
    armed = false;
    mp_message_clear(&text);
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
    mp_array_free(own);
    mp_array_free(given);
    mp_raw_array_free(copy);
    mp_raw_array_free(array);
    mp_shareable_list_free(list);
    mp_shared_memory_free(named);
    mp__resource_tracker_stop(); /* the next use needs one anew */
    return r;
}

static void check_each_failure(int (*work)(void))
{
    int descriptors, children, r, nth = 0;

    assert_int_equal(work(), 0); /* what is made once is made */
    mp__forkserver_stop();       /* but for this, which has sockets in stock */
    descriptors = count_descriptors();
    children = count_children();
    do {
        mp_clear_error();
        failed = 0;
        countdown = ++nth;
        armed = true;
        r = work();
        armed = false;
        if (failed && r < 0)
            assert_true(*mp_last_error()->text);
        mp__forkserver_stop();
        assert_int_equal(count_descriptors(), descriptors);
        assert_int_equal(count_children(), children);
    } while (failed);
    if (r < 0)
        print_error("%s\n", mp_last_error()->text);
    assert_int_equal(r, 0);
    assert_true(nth > 2); /* with a sanitizer memory never runs out: few calls are left */
}

static void every_call_fails_in_turn(void **state)
{
    (void)state;
    check_each_failure(use);
}

static void every_call_for_shared_memory_fails_in_turn(void **state)
{
    (void)state;
    mp_log_to_stderr(MP_LOG_ERROR); /* without a tracker it goes on, and says so */
    check_each_failure(use_memory);
    mp_log_to_stderr(MP_LOG_WARNING);
}

static int become_barren(void)
{
    barren = true;
    return 0;
}

static void a_fork_server_that_cannot_fork_says_so(void **state)
{
    mp_process *p = mp_process_new(.target = return_three, .args = MP_ARGS(mp_none(), 1));

    (void)state;
    assert_int_equal(mp_set_forkserver_preload(become_barren), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mp_process_start(p), MP_EAGAIN);
        assert_non_null(strstr(mp_last_error()->text, "cannot fork"));
    }
    mp__forkserver_stop();
    assert_int_equal(mp_set_forkserver_preload(NULL), 0);
    assert_int_equal(mp_process_start(p), 0);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    mp_process_free(p);
}

static int return_number(mp_call *call)
{
    int number;

    return mp_unpack(call, &number) ? 99 : number;
}

/* Whatever cannot be sent: a child is that which start said it is. */
static void each_child_has_its_own_exit_code_after_failures(void **state)
{
    (void)state;
    for (int nth = 1; nth < 12; nth++) {
        mp_process *children[6];

        mp__forkserver_stop();
        countdown = nth;
        for (int i = 0; i < 6; i++) {
            children[i] = mp_process_new(.target = return_number, .args = MP_ARGS(10 + i));
            armed = true;
            if (mp_process_start(children[i]) < 0) {
                armed = false;
                assert_int_equal(mp_process_start(children[i]), 0);
            }
            armed = false;
        }
        for (int i = 0; i < 6; i++)
            assert_int_equal(finish(children[i]), 10 + i);
    }
}

static void a_failed_start_can_be_tried_again(void **state)
{
    mp_connection *a, *b;
    mp_process *p;
    int nth = 0, r;

    (void)state;
    assert_int_equal(use(), 0);
    assert_int_equal(mp_pipe(&a, &b), 0);
    p = mp_process_new(.target = return_three, .args = MP_ARGS(a, 1), .daemon = true);
    assert_non_null(p);
    do {
        countdown = ++nth;
        armed = true;
        r = mp_process_start(p);
        armed = false;
    } while (r < 0);
    assert_int_equal(mp_process_join(p, PATIENCE), 0);
    mp_process_free(p);
    mp_connection_free(a);
    mp_connection_free(b);
}

/* ---- pools ---- */

static int twice(mp_call *call)
{
    int number;

    armed = false; /* what lacks memory is the parent */
    return mp_unpack(call, &number) ? 1 : mp_return(call, 2 * number);
}

/* Memory that does not come back: all is answered even so, or refused. */
static void a_pool_that_starves_says_so(void **state)
{
    static const char *texts[] = { "1", "2", "3" };
    int in[] = { 1, 2, 3 }, out[3], nth = 0, lacks = 0, r;
    mp_pool *pool;

    (void)state;
    if (HAS_ASAN || HAS_TSAN || !HAS_GLIBC(0))
        skip(); /* memory never fails here */
    pool = mp_pool_new(.processes = 1);
    assert_non_null(pool);
    assert_int_equal(mp_pool_map(pool, twice, MP_ITEMS(in, 3), MP_ITEMS(out, 3)), 0);
    starving = true;
    do {
        failed = 0;
        countdown = ++nth;
        armed = true;
        r = mp_pool_map(pool, twice, MP_ITEMS(texts, 3), .timeout = PATIENCE);
        armed = false;
        if (r != MP_ENOMEM && r != MP_ERAISED)
            fail_msg("%d: %s", nth, r ? mp_last_error()->text : "no error");
        lacks += r == MP_ENOMEM;
    } while (failed);
    starving = false;
    assert_true(lacks > 1);
    assert_int_equal(mp_pool_map(pool, twice, MP_ITEMS(in, 3), MP_ITEMS(out, 3)), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(out[i], 2 * in[i]);
    mp_pool_free(pool);
}

/* ---- queues ---- */

/* A small item, one that makes the ring grow, and one with a descriptor; and back. */
static int use_queue(mp_queue *q, mp_connection *line)
{
    static char bytes[100000];
    mp_message message = MP_MESSAGE_INIT;
    int r = mp_queue_put(q, 1, 0);

    if (r == 0)
        r = mp_queue_put(q, mp_struct(&bytes), 0);
    if (r == 0)
        r = mp_queue_put(q, line, 0);
    for (int i = 0; i < 3 && r == 0; i++) {
        r = mp_queue_get(q, &message, 0);
        if (r == 0 && i == 2)
            r = mp_unpack(&message, &line);
    }
    mp_message_clear(&message);
    return r;
}

/* Whatever failed, what was put is there and the next item comes behind it. */
static void check_that_it_works(mp_queue *q)
{
    mp_message message = MP_MESSAGE_INIT;
    int number = 0;

    assert_int_equal(mp_queue_put(q, 7, 0), 0);
    for (int i = 0; number != 7; i++) {
        assert_true(i < 4);
        assert_int_equal(mp_queue_get(q, &message, 0), 0);
        if (mp_unpack(&message, &number) < 0)
            number = 0;
    }
    assert_int_equal(mp_queue_qsize(q), 0);
    mp_message_clear(&message);
}

static void every_call_of_a_queue_fails_in_turn(void **state)
{
    int descriptors, r, nth = 0;
    mp_connection *a, *b;

    (void)state;
    assert_int_equal(mp_pipe(&a, &b), 0);
    descriptors = count_descriptors();
    do {
        mp_queue *q;

        failed = 0;
        countdown = ++nth;
        armed = true;
        q = mp_queue_new();
        r = q ? use_queue(q, a) : mp_last_error()->code;
        armed = false;
        assert_true(failed || r == 0);
        if (q)
            check_that_it_works(q);
        mp_queue_free(q);
        assert_int_equal(count_descriptors(), descriptors);
    } while (failed);
    assert_true(nth > 5);
    mp_connection_free(a);
    mp_connection_free(b);
}

static int start_at_the_limit(mp_call *call)
{
    struct rlimit limit, tight;
    int before, r;
    mp_process *p;

    (void)call;
    (void)mp__clean_prepare(); /* what a process keeps from its first fork on */
    before = count_descriptors();
    for (rlim_t spare = 0; spare < 12; spare++) {
        p = mp_process_new();
        if (!p || getrlimit(RLIMIT_NOFILE, &limit))
            return 1;
        tight = limit;
        tight.rlim_cur = (rlim_t)before + 1 + spare;
        (void)setrlimit(RLIMIT_NOFILE, &tight);
        r = mp_process_start(p);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        if (r == 0 && mp_process_join(p, PATIENCE))
            return 2;
        if (r != 0 && r != MP_EMFILE && r != MP_EFORKSERVER)
            return 3;
        mp_process_free(p);
        if (strcmp(mp_get_start_method(false), "forkserver") != 0 && count_descriptors() != before)
            return 4;
    }
    return 0;
}

static int say_hello(mp_call *call)
{
    mp_connection *line;

    return mp_unpack(call, &line) || mp_connection_send(line, "hello");
}

/* The only descriptor that is free is that of stdin: no child runs of which start says it does not. */
static int start_without_stdin(mp_call *call)
{
    struct rlimit limit = { 64, 64 };
    mp_connection *here, *there;
    int last, more = 0, r;
    mp_process *p;

    (void)call;
    if (mp_pipe(&here, &there) || finish(start_process()))
        return 1;
    p = mp_process_new(.target = say_hello, .args = MP_ARGS(there));
    if (!p || setrlimit(RLIMIT_NOFILE, &limit))
        return 2;
    while ((last = dup(STDERR_FILENO)) >= 0)
        more = last;
    (void)close(STDIN_FILENO);
    r = mp_process_start(p);
    if (r == 0 ? mp_process_join(p, PATIENCE) != 0 : mp_connection_poll(here, 0) != 0)
        return 3;
    for (int fd = more; r && fd > more - 20; fd--)
        (void)close(fd);
    if (r && (mp_process_start(p) || mp_process_join(p, PATIENCE)))
        return 4;
    return mp_connection_poll(here, 0) == 1 ? 0 : 5;
}

static void without_room_above_stdio_no_child_runs(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = start_without_stdin)), 0);
}

static void at_the_limit_of_descriptors_start_fails_clean(void **state)
{
    (void)state;
    assert_int_equal(finish(start_process(.target = start_at_the_limit)), 0);
}

static const struct CMUnitTest tests[] = {
    UNDER_EACH(every_call_fails_in_turn),
    ONCE(every_call_for_shared_memory_fails_in_turn),
    UNDER(a_fork_server_that_cannot_fork_says_so, "forkserver"),
    UNDER_EACH(each_child_has_its_own_exit_code_after_failures),
    UNDER_EACH(a_failed_start_can_be_tried_again),
    UNDER_EACH(a_pool_that_starves_says_so),
    ONCE(every_call_of_a_queue_fails_in_turn),
    UNDER_EACH(at_the_limit_of_descriptors_start_fails_clean),
    UNDER_EACH(without_room_above_stdio_no_child_runs),
};

TESTS_MAIN(tests)
