/* SPDX-License-Identifier: MIT
 *
 * bench_shared_memory.c - what shared memory costs: copying into it and through it
 * to another process, against memcpy within one process; making and freeing it,
 * against the bare system calls; and CPython doing the same.
 *
 *     bench_shared_memory [--rounds N] [--quick]
 */
#include <multiprocessing.h>

#include <fcntl.h>
#include <sys/mman.h>

#include "bench.h"

#define LARGE ((size_t)16 << 20)
#define CYCLES 50

/* The child copies a part out of the memory when it is told to, and answers. */
static struct {
    mp_connection *line;
    mp_shared_memory *memory;
    char *source, *private, *shared; /* LARGE bytes each */
} here;

static void check(int r, const char *what)
{
    if (r >= 0)
        return;
    mp_perror(what);
    exit(1);
}

static char *get_memory(void)
{
    char *memory = malloc(LARGE);

    bench_check(memory != NULL, "memory");
    memset(memory, 1, LARGE);
    return memory;
}

/* ---- bytes ---- */

static double copy_private(void *argument)
{
    double begin = bench_now();

    (void)argument;
    memcpy(here.private, here.source, LARGE);
    return bench_now() - begin;
}

static double copy_shared(void *argument)
{
    double begin = bench_now();

    (void)argument;
    memcpy(here.shared, here.source, LARGE);
    return bench_now() - begin;
}

static double copy_twice(void *argument)
{
    double begin = bench_now();

    (void)argument;
    memcpy(here.private, here.source, LARGE);
    memcpy(here.source, here.private, LARGE);
    return bench_now() - begin;
}

/* In here, out there. */
static double copy_through(void *argument)
{
    double begin = bench_now();
    char byte = 0;
    size_t size;

    (void)argument;
    memcpy(here.shared, here.source, LARGE);
    check(mp_connection_send_bytes(here.line, &byte, 1), "send");
    check(mp_connection_recv_bytes_into(here.line, &byte, 1, &size), "recv");
    return bench_now() - begin;
}

static int serve(mp_call *call)
{
    char *private = get_memory(), byte;
    mp_shared_memory *memory;
    mp_connection *line;
    size_t size;
    int r = mp_unpack(call, &line, &memory);

    while (r == 0 && (r = mp_connection_recv_bytes_into(line, &byte, 1, &size)) == 0) {
        memcpy(private, mp_shared_memory_buf(memory), LARGE);
        r = mp_connection_send_bytes(line, &byte, 1);
    }
    free(private);
    return r == MP_EEOF ? 0 : 1;
}

/* ---- objects: a page each, written to ---- */

static void touch_and_unmap(int fd)
{
    char *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    bench_check(at != MAP_FAILED, "mmap");
    *at = 1;
    (void)munmap(at, 4096);
    (void)close(fd);
}

static double cycle_memfd(void *argument)
{
    double begin = bench_now();

    (void)argument;
    for (int i = 0; i < CYCLES; i++) {
        int fd = memfd_create("bench", MFD_CLOEXEC);

        bench_check(fd >= 0 && ftruncate(fd, 4096) == 0, "memfd");
        touch_and_unmap(fd);
    }
    return (bench_now() - begin) / CYCLES;
}

static double cycle_anonymous(void *argument)
{
    double begin = bench_now();

    (void)argument;
    for (int i = 0; i < CYCLES; i++) {
        mp_shared_memory *m = mp_shared_memory_new(.anonymous = true, .size = 4096);

        check(m ? 0 : -1, "anonymous");
        *(char *)mp_shared_memory_buf(m) = 1;
        mp_shared_memory_free(m);
    }
    return (bench_now() - begin) / CYCLES;
}

static double cycle_shm(void *argument)
{
    double begin = bench_now();
    char name[64];

    (void)argument;
    for (int i = 0; i < CYCLES; i++) {
        int fd;

        (void)snprintf(name, sizeof(name), "/bench-%ld-%d", (long)getpid(), i);
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        bench_check(fd >= 0 && posix_fallocate(fd, 0, 4096) == 0, "shm_open");
        touch_and_unmap(fd);
        bench_check(shm_unlink(name) == 0, "shm_unlink");
    }
    return (bench_now() - begin) / CYCLES;
}

/* Another name is there all the time, as in a program that has many: its tracker stays. */
static double cycle_named(void *argument)
{
    double begin = bench_now();

    (void)argument;
    for (int i = 0; i < CYCLES; i++) {
        mp_shared_memory *m = mp_shared_memory_new(.create = true, .size = 4096);

        check(m ? 0 : -1, "named");
        *(char *)mp_shared_memory_buf(m) = 1;
        mp_shared_memory_free(m);
    }
    return (bench_now() - begin) / CYCLES;
}

/* ---- all of it ---- */

static struct work {
    bench_row row;
    bench_work floor, library;
    const char *peer; /* the question to CPython, or NULL */
} works[] = {
    { { .name = "copy in, 16 MiB", .bytes = LARGE, .goal = 0.95 }, copy_private, copy_shared,
        "shared_copy 16777216 5" },
    { { .name = "in and out, 16 MiB", .bytes = LARGE, .goal = 0.90 }, copy_twice, copy_through,
        NULL },
    { { .name = "anonymous, one page", .goal = 1.25 }, cycle_memfd, cycle_anonymous, NULL },
    { { .name = "named, one page", .goal = 0 }, cycle_shm, cycle_named, "shared_cycle 50" },
};
#define WORKS ((int)(sizeof(works) / sizeof(works[0])))

static void measure(const bench_options *options, bench_peer *peer)
{
    for (int i = 0; i < WORKS; i++) { /* warms up */
        (void)works[i].floor(NULL);
        (void)works[i].library(NULL);
    }
    for (int r = 0; r < options->rounds; r++)
        for (int i = 0; i < WORKS; i++)
            bench_round(&works[i].row, options->turns, works[i].floor, works[i].library, NULL,
                works[i].peer ? bench_ask(peer, "%s", works[i].peer) : 0);
    bench_print_header("bytes");
    for (int i = 0; i < 2; i++)
        bench_print(&works[i].row);
    bench_print_header("making and freeing");
    for (int i = 2; i < WORKS; i++)
        bench_print(&works[i].row);
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        bench_options options = bench_parse(argc, argv);
        mp_shared_memory *keeper = mp_shared_memory_new(.create = true, .size = 1);
        mp_connection *theirs;
        mp_process *child;
        bench_peer peer;

        here.source = get_memory();
        here.private = get_memory();
        here.memory = mp_shared_memory_new(.anonymous = true, .size = LARGE);
        check(keeper && here.memory ? 0 : -1, "shared memory");
        here.shared = mp_shared_memory_buf(here.memory);
        check(mp_pipe(&here.line, &theirs), "mp_pipe");
        child =
            mp_process_new(.target = serve, .daemon = true, .args = MP_ARGS(theirs, here.memory));
        check(child ? mp_process_start(child) : -1, "start");
        mp_connection_free(theirs);
        peer = bench_peer_open();
        measure(&options, &peer);
        bench_peer_close(&peer);
        mp_connection_free(here.line); /* the end of its line ends the child */
        check(mp_process_join(child, MP_FOREVER), "join");
        mp_process_free(child);
        mp_shared_memory_free(here.memory);
        mp_shared_memory_free(keeper);
        free(here.source);
        free(here.private);
        printf("\nfloor: memcpy in one process, once and twice; memfd_create, shm_open with "
               "posix_fallocate, and mmap\n");
    }
    return 0;
}
