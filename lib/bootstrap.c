/* SPDX-License-Identifier: MIT
 *
 * bootstrap.c - how a new process learns what it is, and the guard around it.
 *
 * An exec'd child finds in one environment variable the descriptor of a socket
 * to its parent. The variable is taken away before main(); from then until the
 * guard the process is bootstrapping and may start nothing.
 */
#include "bootstrap_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <multiprocessing/context.h>
#include <multiprocessing/process.h>

#include "error_internal.h"
#include "fd_internal.h"
#include "function_internal.h"
#include "hooks_internal.h"
#include "launch_internal.h"
#include "log_internal.h"
#include "pid_internal.h"
#include "socket_internal.h"

#define VERSION 1 /* of the bootstrap message */
#define DEPTH_MAX 16

enum { ROLE_CHILD, ROLE_SERVER };

extern char **environ;

static enum mp__stage stage;
static bool passed; /* the guard, here or in the process this one is a copy of */
static int channel_fd = -1;
static char *variable; /* as the parent wrote it */

static char *command_line; /* argument after argument, as the kernel has them */
static size_t command_line_size;
static char *executable; /* of mp_set_executable */

/* ---- before main ---- */

static const char never_reached[] =
    "multiprocessing: this process was started as a child (spawn or forkserver), but it left\n"
    "main() without reaching MP_MAIN(), so its function was never called. A child runs the\n"
    "program again up to the guard. Put it into main(), on every way a child can take:\n"
    "\n"
    "    int main(void)\n"
    "    {\n"
    "        MP_MAIN() {\n"
    "            ... start processes here ...\n"
    "        }\n"
    "        return 0;\n"
    "    }\n";

static void complain_if_missed(void)
{
    if (stage != MP__STAGE_BOOTSTRAPPING)
        return;
    (void)fflush(NULL);
    if (write(STDERR_FILENO, never_reached, sizeof(never_reached) - 1) < 0)
        _exit(1);
    _exit(1);
}

/* The arguments before the program can change them. Without /proc there is only a name. */
static void remember_command_line(void)
{
    mp__buffer line = { 0 };
    char some[4096];
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n;

    while (fd >= 0 && (n = mp__fd_read(fd, some, sizeof(some))) > 0)
        if (mp__buffer_append(&line, some, (size_t)n) < 0)
            break;
    mp__fd_close(fd);
    command_line = line.data;
    command_line_size = line.size;
    mp_clear_error();
}

/* Takes the variable out of the environment, not only its value out of the variable. */
static char *take_variable(void)
{
    size_t length = strlen(MP__CHILD_VARIABLE "=");
    char *found = NULL;

    for (char **at = environ; at && *at && !found; at++)
        if (strncmp(*at, MP__CHILD_VARIABLE "=", length) == 0)
            found = *at;
    (void)unsetenv(MP__CHILD_VARIABLE);
    return found;
}

__attribute__((constructor(101))) static void begin(void)
{
    remember_command_line();
    variable = take_variable();
    if (!variable)
        return;
    channel_fd = atoi(variable + strlen(MP__CHILD_VARIABLE "="));
    (void)fcntl(channel_fd, F_SETFD, FD_CLOEXEC); /* a wrong one is found at the guard */
    stage = MP__STAGE_BOOTSTRAPPING;
    mp__pid_mark(variable);
    (void)atexit(complain_if_missed); /* without memory the exit code is still not 0 */
}

/* ---- the guard ---- */

enum mp__stage mp__stage(void)
{
    return stage;
}

void mp__stage_set(enum mp__stage next)
{
    if (stage == MP__STAGE_BOOTSTRAPPING)
        mp__pid_unmark(variable);
    if (next == MP__STAGE_GUARDED || stage == MP__STAGE_BOOTSTRAPPING)
        passed = true;
    stage = next;
}

bool mp__guard_passed(void)
{
    return passed;
}

static unsigned depth_limit(void)
{
    const char *text = getenv("MP_MAX_DEPTH");
    long limit = text ? strtol(text, NULL, 10) : 0;

    return limit > 0 ? (unsigned)limit : DEPTH_MAX;
}

/* A program can be started by its own child with system(): looked for once. */
static int check_recursion(void)
{
    static enum mp__recursion known = MP__RECURSION_NONE;
    static bool looked;

    if (!looked && stage != MP__STAGE_CHILD)
        known = mp__pid_recursion();
    looked = true;
    if (known == MP__RECURSION_BOOTSTRAP)
        return mp__fail(MP_EGUARD, "this program was started by a child of the same program that "
                                   "has not reached its MP_MAIN() yet: move what it does before "
                                   "the guard into the guard, or the starts would never end");
    if (known == MP__RECURSION_DEEP)
        return mp__fail(MP_EDEPTH, "this program runs below itself several times already: its "
                                   "children start it again, and that would never end");
    return 0;
}

int mp__guard_start(enum mp__method method, unsigned depth)
{
    if (stage == MP__STAGE_BOOTSTRAPPING)
        return mp__fail(MP_EGUARD,
            "a process was to be started before this child has finished its bootstrap. The main "
            "guard is missing, or this stands before it: put what starts processes into "
            "MP_MAIN() { ... } in main()");
    if (method != MP__FORK && !passed)
        return mp__fail(MP_EGUARD, "spawn and forkserver need the main guard: put what starts "
                                   "processes into MP_MAIN() { ... } in main()");
    if (depth > depth_limit())
        return mp__fail(MP_EDEPTH,
            "processes are nested deeper than %u; MP_MAX_DEPTH in the "
            "environment changes the limit",
            depth_limit());
    return check_recursion();
}

/* ---- what was started ---- */

int mp__popen_sentinel(const mp__popen *popen)
{
    return popen->descriptor >= 0 ? popen->descriptor : popen->life;
}

void mp__popen_close(mp__popen *popen)
{
    mp__fd_drop(&popen->descriptor);
    mp__fd_drop(&popen->life);
    mp__fd_drop(&popen->lifeline);
}

/* The child ended and is reaped already: something readable stands in for its descriptor. */
static int stand_in(mp__popen *popen)
{
    int fds[2] = { -1, -1 };
    int r = mp__socket_pipe(fds);

    popen->descriptor = fds[0];
    popen->ended = true;
    popen->exitcode = MP_EXITCODE_LOST;
    mp__fd_close(fds[1]);
    return r;
}

void mp__popen_destroy(mp__popen *popen)
{
    int exitcode;

    (void)mp__pid_signal(popen->pid, popen->descriptor, SIGKILL);
    while (mp__pid_reap(popen->pid, popen->descriptor, &exitcode) == 0)
        (void)poll(NULL, 0, 1); /* a killed process may take its time */
    mp__popen_close(popen);
}

int mp__popen_watch(pid_t pid, int *life, mp__popen *popen)
{
    int r = 0;

    popen->pid = pid;
    popen->life = *life;
    *life = -1;
    if (!mp__pid_has_descriptors())
        return 0;
    popen->descriptor = mp__pid_open(pid);
    if (popen->descriptor >= 0)
        return 0;
    r = popen->descriptor;
    popen->descriptor = -1;
    if (r == MP_ECHILD)
        return stand_in(popen);
    mp__popen_destroy(popen);
    return r;
}

/* ---- launching ---- */

int mp_set_executable(const char *path)
{
    char *copy = path ? strdup(path) : NULL;

    if (path && !copy)
        return mp__fail(MP_ENOMEM, "out of memory for the path of the executable");
    mp__lock();
    free(executable);
    executable = copy;
    mp__unlock();
    return 0;
}

static int executable_path(char *path, size_t size)
{
    bool named;

    mp__lock();
    named = executable != NULL;
    if (named)
        (void)snprintf(path, size, "%s", executable);
    mp__unlock();
    return named ? 0 : mp__launch_self(path, size);
}

static char **make_arguments(char *path)
{
    size_t count = 0;
    char **arguments;

    for (size_t i = 0; i < command_line_size; i += strlen(command_line + i) + 1)
        count++;
    arguments = calloc(count + 2, sizeof(*arguments));
    if (!arguments)
        return NULL;
    arguments[0] = path; /* when nothing is known */
    count = 0;
    for (size_t i = 0; i < command_line_size; i += strlen(command_line + i) + 1)
        arguments[count++] = command_line + i;
    return arguments;
}

char **mp__bootstrap_environment(char *addition)
{
    size_t count = 0;
    char **copy;

    while (environ && environ[count])
        count++;
    copy = malloc((count + 2) * sizeof(*copy));
    if (!copy)
        return NULL;
    if (count)
        memcpy(copy, environ, count * sizeof(*copy));
    copy[count] = addition;
    copy[count + 1] = NULL;
    return copy;
}

int mp__bootstrap_launch(mp_connection **channel, pid_t *pid)
{
    char path[4096], addition[32];
    char **arguments = make_arguments(path);
    char **environment = mp__bootstrap_environment(addition);
    mp_connection *ours = NULL;
    int fds[2] = { -1, -1 };
    int r;

    (void)snprintf(addition, sizeof(addition), MP__CHILD_VARIABLE "=%d", MP__LAUNCH_FD);
    r = arguments && environment ? executable_path(path, sizeof(path))
                                 : mp__fail(MP_ENOMEM, "out of memory to start a process");
    if (r == 0)
        r = mp__socket_pair(fds);
    if (r == 0)
        r = mp__connection_adopt_socket(&fds[0], &ours);
    if (r == 0)
        r = mp__launch(path, arguments, environment, fds[1], false, pid);
    if (r == 0) {
        *channel = ours;
        ours = NULL;
    }
    mp_connection_free(ours);
    mp__fd_close_all(fds, 2);
    free(arguments);
    free(environment);
    return r;
}

mp_connection *mp__bootstrap_channel(void)
{
    mp_connection *channel = NULL;
    int fd = channel_fd;

    channel_fd = -1;
    if (fcntl(fd, F_GETFD) < 0) {
        (void)mp__fail(
            MP_EBADF, "the environment variable " MP__CHILD_VARIABLE " names no channel");
        mp__bootstrap_fail();
    }
    if (mp__connection_adopt_socket(&fd, &channel) < 0)
        mp__bootstrap_fail();
    return channel;
}

/* ---- telling ---- */

static int describe(void (*function)(void), mp__function *description)
{
    *description->module = '\0';
    description->offset = 0;
    description->identity_size = 0;
    return function ? mp__function_describe(function, description) : 0;
}

/* Appends a descriptor to what travels; its place is what the receiver is told. */
static int put_descriptor(mp__parcel *parcel, int fd)
{
    if (fd < 0)
        return -1;
    parcel->fds[parcel->count++] = fd;
    return (int)parcel->count - 1;
}

static int send_packed(mp_connection *channel, msgpack_object value, mp__parcel *parcel)
{
    mp__parcel none = { .count = 0 };
    mp__buffer bytes = { 0 };
    int r = mp__value_pack(value, &bytes, &none);

    if (r == 0)
        r = mp__connection_send_packed(channel, bytes.data, bytes.size, parcel);
    mp__buffer_done(&bytes);
    return r;
}

int mp__bootstrap_send(mp_connection *channel, const mp__job *job, const char *directory,
    int lifeline, int life, int parent_fd)
{
    const mp__identity *id = &job->identity;
    mp__function target;
    mp__parcel parcel;
    int r = describe((void (*)(void))job->target, &target);

    if (r < 0)
        return r;
    parcel.count = 0;
    lifeline = put_descriptor(&parcel, lifeline);
    life = put_descriptor(&parcel, life);
    parent_fd = put_descriptor(&parcel, parent_fd);
    r = send_packed(channel,
        mp_list(VERSION, ROLE_CHILD, job->target != NULL, target.module, target.offset,
            mp_bytes(target.identity, target.identity_size), mp_log_get_level(), directory,
            lifeline, life, parent_fd, id->name, id->parent_name,
            mp_bytes(id->path, id->path_length * sizeof(*id->path)),
            mp_bytes(id->authkey, id->authkey_size), id->daemon, id->depth, (int)id->method,
            (long)id->parent),
        &parcel);
    if (r == 0)
        r = mp__connection_send_packed(
            channel, job->arguments->data, job->arguments->size, job->parcel);
    return r;
}

int mp__bootstrap_send_server(mp_connection *channel, int (*hook)(void), int on_error, int report)
{
    mp__function target;
    mp__parcel parcel;
    int r = describe((void (*)(void))hook, &target);

    if (r < 0)
        return r;
    parcel.count = 0;
    report = put_descriptor(&parcel, report);
    return send_packed(channel,
        mp_list(VERSION, ROLE_SERVER, hook != NULL, target.module, target.offset,
            mp_bytes(target.identity, target.identity_size), mp_log_get_level(), on_error, report),
        &parcel);
}

/* ---- being told ---- */

static int take_descriptor(mp_message *message, int place, int *fd)
{
    mp__parcel *parcel = message->own->parcel;

    *fd = -1;
    if (place < 0)
        return 0;
    if (!parcel || (size_t)place >= parcel->count || parcel->fds[place] < 0)
        return mp__fail(MP_EPROTOCOL, "a descriptor is missing in the bootstrap message");
    *fd = parcel->fds[place];
    parcel->fds[place] = -1;
    return 0;
}

static int find(
    const char *module, uint64_t offset, mp_bytes_view identity, void (**function)(void))
{
    mp__function description = { .offset = offset, .identity_size = identity.size };

    if (!module || strlen(module) >= sizeof(description.module) ||
        identity.size > sizeof(description.identity))
        return mp__fail(MP_EPROTOCOL, "malformed function in the bootstrap message");
    (void)strcpy(description.module, module);
    memcpy(description.identity, identity.data, identity.size);
    return mp__function_find(&description, function);
}

/* The parts every bootstrap message begins with. */
typedef struct {
    int role;
    bool has_target;
    const char *module;
    uint64_t offset;
    mp_bytes_view identity;
    int level;
} preface;

static int take_preface(const preface *told, void (**target)(void))
{
    mp_log_to_stderr(told->level);
    *target = NULL;
    return told->has_target ? find(told->module, told->offset, told->identity, target) : 0;
}

static int receive_server(mp_message *message, mp__server_orders *orders)
{
    preface told;
    void (*hook)(void);
    int version, on_error, report;
    int r = mp_unpack(message, &version, &told.role, &told.has_target, &told.module, &told.offset,
        &told.identity, &told.level, &on_error, &report);

    if (r == 0)
        r = take_preface(&told, &hook);
    if (r == 0)
        r = take_descriptor(message, report, &orders->report);
    if (r == 0) {
        orders->hook = (int (*)(void))hook;
        orders->on_error = on_error;
    }
    return r;
}

static int go_to(const char *directory)
{
    if (directory && chdir(directory) < 0)
        return mp__fail(-errno, "cannot work in %s: %s", directory, strerror(errno));
    return 0;
}

static int receive_child(mp_connection *channel, mp_message *message, mp__child *child)
{
    mp__identity *id = &child->identity;
    mp_bytes_view path, authkey;
    const char *directory;
    preface told;
    void (*target)(void);
    int version, method, lifeline, life, parent_fd;
    long parent;
    int r = mp_unpack(message, &version, &told.role, &told.has_target, &told.module, &told.offset,
        &told.identity, &told.level, &directory, &lifeline, &life, &parent_fd, &id->name,
        &id->parent_name, &path, &authkey, &id->daemon, &id->depth, &method, &parent);

    if (r == 0)
        r = take_descriptor(message, lifeline, &child->lifeline);
    if (r == 0)
        r = take_descriptor(message, life, &child->life);
    if (r == 0)
        r = take_descriptor(message, parent_fd, &child->parent_fd);
    if (r == 0)
        r = mp_connection_recv(channel, &child->call.arguments);
    if (r < 0)
        return r;
    child->told = true;
    id->path = path.data;
    id->path_length = path.size / sizeof(*id->path);
    id->authkey = authkey.data;
    id->authkey_size = authkey.size;
    id->method = (enum mp__method)method;
    id->parent = (pid_t)parent;
    mp__log_set_name(id->name);
    r = take_preface(&told, &target);
    child->target = (mp_function)target;
    return r == 0 ? go_to(directory) : r;
}

int mp__bootstrap_receive(mp_connection *channel, mp__child *child, mp__server_orders *orders)
{
    mp_message *message = &child->request;
    const msgpack_object *parts;
    int r = mp_connection_recv(channel, message);

    if (r < 0)
        return r;
    parts = message->value.via.array.ptr;
    if (message->value.type != MSGPACK_OBJECT_ARRAY || message->value.via.array.size < 2 ||
        parts[0].type != MSGPACK_OBJECT_POSITIVE_INTEGER || parts[0].via.u64 != VERSION ||
        parts[1].type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return mp__fail(MP_EPROTOCOL, "the parent uses another version of this library");
    orders->server = parts[1].via.u64 == ROLE_SERVER;
    return orders->server ? receive_server(message, orders)
                          : receive_child(channel, message, child);
}

void mp__bootstrap_clean(void)
{
    struct sigaction standard = { .sa_handler = SIG_DFL }, old;
    sigset_t none;
    int null;

    for (int sig = 1; sig < NSIG; sig++)
        if (sig != SIGHUP)
            (void)sigaction(sig, &standard, NULL); /* fails for the few that cannot change */
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup goes on */
        (void)sigaction(SIGHUP, &standard, NULL);
    sigemptyset(&none);
    (void)pthread_sigmask(SIG_SETMASK, &none, NULL);
    null = open("/dev/null", O_RDONLY);
    if (null > 0) {
        (void)dup2(null, STDIN_FILENO); /* on failure it reads what its parent reads, as it would */
        mp__fd_close(null);
    }
    __fpurge(stdin); /* what the parent has read ahead is the parent's */
}

/*
 * With threads about, a stream may be locked by one that waits for input, for
 * ever: then only stdout and stderr are flushed, and only if they are free.
 */
void mp__bootstrap_flush(void)
{
    FILE *streams[] = { stdout, stderr };

    if (!mp__pid_threaded()) {
        (void)fflush(NULL); /* a full disk is the business of whoever wrote */
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        if (ftrylockfile(streams[i]) != 0)
            continue;
        (void)fflush(streams[i]);
        funlockfile(streams[i]);
    }
}

void mp__bootstrap_fail(void)
{
    mp__log_last_words("cannot begin: %s", mp_last_error()->text);
    (void)fflush(NULL);
    _exit(1);
}
