/* SPDX-License-Identifier: MIT
 *
 * test_forkserver.c - the fork server's own life: ahead of time, interrupted,
 * killed, orphaned.
 */
#include "support.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "popen_server_internal.h"

static int return_code(mp_call *call)
{
    int code;

    return mp_unpack(call, &code) ? 99 : code;
}

static atomic_bool enough;

static int return_code_of_two(mp_call *call)
{
    int code;

    return mp_unpack(call, &code, NULL) ? 99 : code;
}

/* Says that it runs, then waits for the end of the connection. */
static int say_and_wait(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int r;

    if (mp_unpack(call, &line) || mp_connection_send(line, "running"))
        return 99;
    r = mp_connection_recv(line, &message);
    mp_message_clear(&message);
    return r == MP_EEOF ? 7 : 98;
}

static mp_process *start_waiting(mp_connection **line)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *theirs;
    mp_process *p;

    assert_int_equal(mp_pipe(line, &theirs), 0);
    p = start_process(.target = say_and_wait, .args = MP_ARGS(theirs));
    mp_connection_free(theirs);
    assert_int_equal(mp_connection_recv(*line, &message), 0);
    mp_message_clear(&message);
    return p;
}

/* The child of a process that is not the one known: of ours the server, of the server the spare. */
static pid_t other_child(pid_t pid, pid_t known)
{
    char path[64];
    long child = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%ld/task/%ld/children", (long)pid, (long)pid);
    file = fopen(path, "re");
    while (file && fscanf(file, "%ld", &child) == 1 && child == known)
        child = 0;
    if (file)
        (void)fclose(file);
    return (pid_t)child;
}

static pid_t only_child(pid_t pid)
{
    return other_child(pid, 0);
}

/* Waits until a process is gone. */
static bool ends(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd one = { .fd = fd, .events = POLLIN };
    int n = fd < 0 ? 1 : poll(&one, 1, (int)(PATIENCE * 1000));

    if (fd >= 0)
        (void)close(fd);
    return n == 1;
}

static void it_can_be_started_ahead_of_time(void **state)
{
    pid_t server;

    (void)state;
    assert_int_equal(count_children(), 0);
    assert_int_equal(mp_forkserver_ensure_running(), 0);
    server = only_child(getpid());
    assert_true(server > 0);
    assert_int_equal(mp_forkserver_ensure_running(), 0);
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    assert_int_equal(count_children(), 1);
    assert_int_equal(only_child(getpid()), server);
}

static void it_survives_an_interrupt(void **state)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line);
    pid_t server = only_child(getpid());

    (void)state;
    assert_int_equal(kill(server, SIGINT), 0);
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    mp_connection_free(line);
    assert_int_equal(finish(p), 7);
    assert_int_equal(only_child(getpid()), server);
}

static void its_children_survive_its_death_and_the_next_start_renews_it(void **state)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line);
    pid_t server = only_child(getpid());

    (void)state;
    assert_int_equal(kill(server, SIGKILL), 0);
    assert_true(ends(server));
    do /* one that was forked just then may keep its channel open for a moment */
        assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    while (only_child(getpid()) == server);
    mp_connection_free(line);
    assert_int_equal(finish(p), 7);
}

static void an_exit_code_nobody_could_tell_is_255(void **state)
{
    mp_connection *line;
    mp_process *p = start_waiting(&line);
    pid_t server = only_child(getpid());

    (void)state;
    assert_int_equal(kill(server, SIGKILL), 0);
    assert_true(ends(server));
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), 255);
    mp_connection_free(line);
}

/* The server, when it has two spares. */
static pid_t find_spares(pid_t spares[2])
{
    pid_t server = only_child(getpid());

    spares[1] = 0;
    while (!spares[1]) {
        spares[0] = only_child(server);
        spares[1] = other_child(server, spares[0]);
    }
    return server;
}

static void killed_spares_are_replaced(void **state)
{
    pid_t server, spares[2];

    (void)state;
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    server = find_spares(spares);
    for (int i = 0; i < 2; i++)
        (void)kill(spares[i], SIGKILL); /* one of them may be the child that has just ended */
    for (int i = 0; i < 2; i++)
        assert_true(ends(spares[i]));
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(4))), 4);
    assert_int_equal(only_child(getpid()), server);
}

static void await_sleep(pid_t pid)
{
    char path[64], text[512];
    size_t n;

    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
    do {
        FILE *file = fopen(path, "re");

        assert_non_null(file);
        n = fread(text, 1, sizeof(text) - 1, file);
        (void)fclose(file);
        text[n] = '\0';
        assert_non_null(strrchr(text, ')'));
    } while (strrchr(text, ')')[2] != 'S');
}

/* Waits until the server has offered two. */
static void await_offers(void)
{
    int fd = mp_connection_fileno(mp__server_current()->channel), size = 0;

    while (size < 2 * (int)sizeof(mp__offer))
        assert_int_equal(ioctl(fd, FIONREAD, &size), 0);
}

/* Its spares do not need it, nor does a child that tells itself how it ends. */
static void a_stopped_server_stops_no_start_for_which_there_is_a_spare(void **state)
{
    pid_t server;

    (void)state;
    assert_int_equal(mp_forkserver_ensure_running(), 0);
    await_offers();
    server = only_child(getpid());
    assert_int_equal(kill(server, SIGSTOP), 0);
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(4))), 4);
    assert_int_equal(kill(server, SIGCONT), 0);
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(5))), 5);
    assert_int_equal(only_child(getpid()), server);
}

/* Kills the server, or its youngest child, until it is told to stop. */
static void *kill_at_random(void *argument)
{
    const bool *server_too = argument;
    unsigned random = 1;

    while (!atomic_load(&enough)) {
        pid_t server = only_child(getpid()), victim = server ? only_child(server) : 0;

        random = random * 1103515245 + 12345;
        if (*server_too && random >> 16 & 1)
            victim = server;
        if (victim > 0)
            (void)kill(victim, SIGKILL);
        (void)poll(NULL, 0, (int)(random >> 20 & 3));
    }
    return NULL;
}

/*
 * A child that is killed while it is told has ended, or another one is told; what fails
 * says why; and each has its own exit code. Returns how many did not.
 */
static void *start_many(void *argument)
{
    static char bytes[1 << 20];
    const bool *server_too = argument;
    intptr_t wrong = 0;

    for (int i = 0, started = 0; i < 100 || started < 10; i++) {
        int code = 1 + i % 90;
        mp_process *p =
            mp_process_new(.target = return_code_of_two, .args = MP_ARGS(code, mp_struct(&bytes)));
        int r = mp_process_start(p);

        wrong += r != 0 && r != MP_EFORKSERVER;
        if (r == 0 && mp_process_join(p, PATIENCE) == 0) {
            r = mp_process_exitcode(p);
            wrong += r != code && r != -SIGKILL && !(*server_too && r == 255);
            started++;
        } else {
            wrong += r == 0;
        }
        mp_process_free(p);
    }
    return (void *)wrong;
}

static void start_under_fire(bool server_too)
{
    pthread_t killer, starters[3];
    void *wrong;
    int code;

    atomic_store(&enough, false);
    assert_int_equal(mp_forkserver_ensure_running(), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&starters[i], NULL, start_many, &server_too), 0);
    assert_int_equal(pthread_create(&killer, NULL, kill_at_random, &server_too), 0);
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(starters[i], &wrong);
        assert_ptr_equal(wrong, NULL);
    }
    atomic_store(&enough, true);
    (void)pthread_join(killer, NULL);
    do /* one that was killed may take a request before it is dead */
        code = finish(start_process(.target = return_code, .args = MP_ARGS(4)));
    while (code == -SIGKILL);
    assert_int_equal(code, 4);
}

static void spares_killed_while_they_are_told_are_replaced(void **state)
{
    (void)state;
    start_under_fire(false);
}

static void servers_killed_at_any_moment_are_replaced(void **state)
{
    (void)state;
    start_under_fire(true);
}

/* Ctrl-C is not for them, also not later, when they are children. */
static void an_interrupt_of_spares_is_nobodys(void **state)
{
    pid_t server, spares[2];

    (void)state;
    assert_int_equal(mp_forkserver_ensure_running(), 0);
    await_offers();
    server = find_spares(spares);
    for (int i = 0; i < 20; i++) {
        await_sleep(spares[i % 2]);
        assert_int_equal(kill(spares[i % 2], SIGINT), 0);
        await_sleep(spares[i % 2]);
    }
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(4))), 4);
    assert_int_equal(only_child(getpid()), server);
}

static void children_killed_at_any_moment_report_their_signal(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        mp_process *p = start_process(.target = return_code, .args = MP_ARGS(3));
        int code;

        assert_int_equal(mp_process_kill(p), 0);
        code = finish(p);
        assert_true(code == 3 || code == -SIGKILL);
    }
}

/* An owner: tells the pids of its server, of the spare and of a child, and is killed. */
static int own_a_server(mp_call *call)
{
    mp_connection *line, *keep, *theirs;
    mp_process *p;
    pid_t server, spare = 0;

    if (mp_unpack(call, &line) || mp_pipe(&keep, &theirs))
        return 1;
    p = mp_process_new(.target = say_and_wait, .args = MP_ARGS(theirs), .daemon = true,
        .context = mp_get_context("forkserver"));
    if (!p || mp_process_start(p))
        return 2;
    server = only_child(getpid());
    (void)mp_connection_poll(keep, PATIENCE);
    while (!spare)
        spare = other_child(server, mp_process_pid(p));
    if (mp_connection_send(line, mp_list((long)server, (long)spare, (long)mp_process_pid(p))))
        return 3;
    (void)mp_process_join(p, MP_FOREVER);
    return 4;
}

static void nothing_of_it_outlives_a_killed_owner(void **state)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *here, *there;
    long server, spare, daemon;
    mp_process *p;

    (void)state;
    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = own_a_server, .args = MP_ARGS(there));
    assert_int_equal(mp_connection_recv(here, &message), 0);
    assert_int_equal(mp_unpack(&message, &server, &spare, &daemon), 0);
    assert_int_equal(mp_process_kill(p), 0);
    assert_int_equal(finish(p), -SIGKILL);
    assert_true(ends((pid_t)server));
    assert_true(ends((pid_t)spare));
    assert_true(ends((pid_t)daemon));
    mp_message_clear(&message);
    mp_connection_free(here);
    mp_connection_free(there);
}

/* Whether the socket of that inode has a name or listens. */
static bool can_be_reached(unsigned long inode)
{
    FILE *file = fopen("/proc/net/unix", "re");
    char line[512], path[256];
    bool found = false;

    while (file && fgets(line, sizeof(line), file)) {
        unsigned long flags = 0, number = 0;
        int n;

        *path = '\0';
        n = sscanf(line, "%*s %*s %*s %lx %*s %*s %lu %255s", &flags, &number, path);
        if (n >= 2 && number == inode)
            found |= flags & 0x10000 || *path;
    }
    if (file)
        (void)fclose(file);
    return found;
}

/* Nobody but its owner can ask it for processes, so it needs no key. */
static void it_has_no_address_to_connect_to(void **state)
{
    char path[300], target[128];
    struct dirent *entry;
    unsigned long inode;
    int sockets = 0;
    DIR *directory;
    pid_t server;

    (void)state;
    assert_int_equal(finish(start_process(.target = return_code, .args = MP_ARGS(3))), 3);
    server = only_child(getpid());
    (void)snprintf(path, sizeof(path), "/proc/%ld/fd", (long)server);
    directory = opendir(path);
    assert_non_null(directory);
    while ((entry = readdir(directory))) {
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/proc/%ld/fd/%s", (long)server, entry->d_name);
        n = readlink(path, target, sizeof(target) - 1);
        if (n > 0 && atoi(entry->d_name) > 2 && sscanf(target, "socket:[%lu]", &inode) == 1) {
            sockets++;
            assert_false(can_be_reached(inode));
        }
    }
    (void)closedir(directory);
    assert_true(sockets > 0);
}

static const struct CMUnitTest tests[] = {
    UNDER(it_can_be_started_ahead_of_time, "forkserver"),
    UNDER(it_survives_an_interrupt, "forkserver"),
    UNDER(its_children_survive_its_death_and_the_next_start_renews_it, "forkserver"),
    UNDER(an_exit_code_nobody_could_tell_is_255, "forkserver"),
    UNDER(killed_spares_are_replaced, "forkserver"),
    UNDER(a_stopped_server_stops_no_start_for_which_there_is_a_spare, "forkserver"),
    UNDER(spares_killed_while_they_are_told_are_replaced, "forkserver"),
    UNDER(servers_killed_at_any_moment_are_replaced, "forkserver"),
    UNDER(an_interrupt_of_spares_is_nobodys, "forkserver"),
    UNDER(children_killed_at_any_moment_report_their_signal, "forkserver"),
    UNDER_EACH(nothing_of_it_outlives_a_killed_owner),
    UNDER(it_has_no_address_to_connect_to, "forkserver"),
};

TESTS_MAIN(tests)
