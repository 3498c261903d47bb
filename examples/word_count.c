/* SPDX-License-Identifier: MIT
 *
 * word_count.c - counts the lines, words and bytes of a tree of text files, and
 * its most frequent words, with a process per CPU, under each start method in
 * turn; all must find what a single process finds.
 *
 * The parent walks the tree and cuts the list of files into batches. A worker
 * receives the names of a batch through a pipe, sends back what it counted, and
 * gets the next. A worker that dies has its batch counted by another one.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* nftw, realpath, getopt: POSIX */
#endif
#include <multiprocessing.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TOP 10
#define BATCHES_PER_WORKER 16
#define WORKERS_MAX 256

static void fail(const char *what)
{
    fprintf(stderr, "word_count: %s\n", what);
    exit(1);
}

static void *grow(void *old, size_t size)
{
    void *p = realloc(old, size);

    if (!p)
        fail("out of memory");
    return p;
}

/* ---- what is counted: numbers, and a hash table of words ---- */

struct totals {
    size_t files, unreadable, binary, lines, words, bytes;
};

/* Plain, so that it can be sent as bytes: the word is a piece of the tally's text. */
struct word {
    size_t offset, length, hash, count;
};

struct tally {
    struct totals totals;
    char *text; /* the words, one after the other */
    size_t text_size, text_capacity;
    struct word *words; /* in order of appearance */
    size_t count;
    size_t *slots; /* the hash table: 0 is free, else 1 + an index of words */
    size_t slot_count;
};

static void tally_free(struct tally *t)
{
    free(t->text);
    free(t->words);
    free(t->slots);
    *t = (struct tally){ .text = NULL };
}

static size_t hash_of(const char *text, size_t length)
{
    size_t hash = 5381;

    for (size_t i = 0; i < length; i++)
        hash = hash * 33 + (unsigned char)text[i];
    return hash ^ hash >> 15;
}

/* The slot of a word, or the free one where it belongs. */
static size_t *find_slot(const struct tally *t, const char *text, size_t length, size_t hash)
{
    for (size_t i = hash;; i++) {
        size_t *slot = &t->slots[i & (t->slot_count - 1)];
        const struct word *w = *slot ? &t->words[*slot - 1] : NULL;

        if (!w || (w->hash == hash && w->length == length &&
                      memcmp(t->text + w->offset, text, length) == 0))
            return slot;
    }
}

/* Keeps at least half of the slots free. Their number is a power of two. */
static void make_room(struct tally *t)
{
    if (2 * t->count < t->slot_count)
        return;
    t->slot_count = t->slot_count ? 2 * t->slot_count : 1024;
    t->words = grow(t->words, t->slot_count / 2 * sizeof(*t->words));
    t->slots = grow(t->slots, t->slot_count * sizeof(*t->slots));
    memset(t->slots, 0, t->slot_count * sizeof(*t->slots));
    for (size_t i = 0; i < t->count; i++) {
        const struct word *w = &t->words[i];

        *find_slot(t, t->text + w->offset, w->length, w->hash) = i + 1;
    }
}

static void add_word(struct tally *t, const char *text, size_t length, size_t hash, size_t count)
{
    size_t *slot;

    make_room(t);
    slot = find_slot(t, text, length, hash);
    if (*slot) {
        t->words[*slot - 1].count += count;
        return;
    }
    if (t->text_capacity - t->text_size < length) {
        t->text_capacity = 2 * t->text_capacity + length;
        t->text = grow(t->text, t->text_capacity);
    }
    memcpy(t->text + t->text_size, text, length);
    t->words[t->count++] = (struct word){ t->text_size, length, hash, count };
    t->text_size += length;
    *slot = t->count;
}

/* Adds another tally, which may have come in a message: its words need not be aligned. */
static void add_tally(
    struct tally *t, const struct totals *totals, const char *text, const void *words, size_t count)
{
    t->totals.unreadable += totals->unreadable;
    t->totals.binary += totals->binary;
    t->totals.files += totals->files;
    t->totals.lines += totals->lines;
    t->totals.words += totals->words;
    t->totals.bytes += totals->bytes;
    for (size_t i = 0; i < count; i++) {
        struct word w;

        memcpy(&w, (const char *)words + i * sizeof(w), sizeof(w));
        add_word(t, text + w.offset, w.length, w.hash, w.count);
    }
}

static bool same(const struct tally *a, const struct tally *b)
{
    if (memcmp(&a->totals, &b->totals, sizeof(a->totals)) != 0 || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct word *w = &a->words[i];
        const size_t *slot = find_slot(b, a->text + w->offset, w->length, w->hash);

        if (!*slot || b->words[*slot - 1].count != w->count)
            return false;
    }
    return true;
}

/* ---- counting files ---- */

/* A word is a run of letters, digits, '_' and bytes beyond ASCII, and begins with no digit. */
static bool in_word(char c)
{
    unsigned char u = (unsigned char)c;

    return isalnum(u) || u == '_' || u >= 128;
}

static void count_text(struct tally *t, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        size_t begin = i;

        while (i < size && in_word(text[i]))
            i++;
        if (i > begin && !isdigit((unsigned char)text[begin])) {
            t->totals.words++;
            add_word(t, text + begin, i - begin, hash_of(text + begin, i - begin), 1);
        }
        t->totals.lines += i < size && text[i] == '\n';
    }
    t->totals.bytes += size;
}

/* Reads a whole file into a buffer that is kept for the next one. Returns its size, or -1. */
static ssize_t read_file(const char *name, char **buffer, size_t *capacity)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    size_t size = 0;
    ssize_t n = fd < 0 ? -1 : 1;

    while (n > 0) {
        if (size == *capacity) {
            *capacity = 2 * *capacity + 65536;
            *buffer = grow(*buffer, *capacity);
        }
        n = read(fd, *buffer + size, *capacity - size);
        if (n > 0)
            size += (size_t)n;
        else if (n < 0 && errno == EINTR)
            n = 1;
    }
    if (fd >= 0)
        (void)close(fd);
    return n < 0 ? -1 : (ssize_t)size;
}

/* Counts files by their names, each of which ends with a NUL. */
static void count_files(struct tally *t, const char *names, size_t size)
{
    char *buffer = NULL;
    size_t capacity = 0;

    for (const char *name = names; name < names + size; name += strlen(name) + 1) {
        ssize_t n = read_file(name, &buffer, &capacity);

        if (n < 0)
            t->totals.unreadable++;
        else if (n > 0 && memchr(buffer, '\0', (size_t)n))
            t->totals.binary++; /* no text */
        else
            count_text(t, buffer, (size_t)n);
        t->totals.files++;
    }
    free(buffer);
}

/* ---- the files of the tree, in batches ---- */

struct batch {
    size_t begin, size; /* its part of the names */
    size_t files;
};

static struct {
    char *names; /* all of them, each with its NUL */
    size_t size, capacity, files, unreadable;
    struct batch *batches;
    size_t batch_count;
} tree;

static int visit(const char *path, const struct stat *status, int type, struct FTW *where)
{
    size_t length = strlen(path) + 1;

    (void)where;
    tree.unreadable += type == FTW_DNR || type == FTW_NS;
    if (type != FTW_F || !S_ISREG(status->st_mode))
        return 0;
    if (tree.capacity - tree.size < length) {
        tree.capacity = 2 * tree.capacity + length;
        tree.names = grow(tree.names, tree.capacity);
    }
    memcpy(tree.names + tree.size, path, length);
    tree.size += length;
    tree.files++;
    return 0;
}

/* Symbolic links are not followed, but for the folder itself. */
static void walk(const char *folder)
{
    char *path = realpath(folder, NULL);

    if (!path || nftw(path, visit, 32, FTW_PHYS) != 0) {
        perror(folder);
        exit(1);
    }
    free(path);
}

/* Several for each worker, so that all are busy to the end though files differ. */
static void cut_into_batches(int workers)
{
    size_t most = tree.files / ((size_t)workers * BATCHES_PER_WORKER) + 1;
    struct batch *b = NULL;

    tree.batches = grow(NULL, (tree.files / most + 1) * sizeof(*tree.batches));
    for (size_t at = 0; at < tree.size; at = b->begin + b->size) {
        if (!b || b->files == most) {
            b = &tree.batches[tree.batch_count++];
            *b = (struct batch){ .begin = at };
        }
        b->size += strlen(tree.names + at) + 1;
        b->files++;
    }
}

static void free_tree(void)
{
    free(tree.names);
    free(tree.batches);
}

/* ---- a worker: names in, counts out ---- */

static int send_tally(mp_connection *parent, const struct tally *t)
{
    return mp_connection_send(
        parent, mp_list(mp_struct(&t->totals), mp_bytes(t->text, t->text_size),
                    mp_bytes(t->words, t->count * sizeof(*t->words))));
}

/* Counts batches until the parent closes its end. */
static int work(mp_call *call)
{
    mp_message names = MP_MESSAGE_INIT;
    mp_connection *parent;
    int r = mp_unpack(call, &parent);

    while (r == 0 && (r = mp_connection_recv_bytes(parent, &names, MP_ANY_LENGTH)) == 0) {
        struct tally t = { .text = NULL };

        count_files(&t, names.data, names.size);
        r = send_tally(parent, &t);
        tally_free(&t);
    }
    mp_message_clear(&names);
    return r == MP_EEOF ? 0 : (mp_perror("worker"), 1);
}

/* ---- the parent ---- */

struct worker {
    mp_process *process;
    mp_connection *connection; /* NULL: it has died */
    struct batch *batch;       /* what it counts; NULL: nothing */
};

struct run {
    const char *method;
    struct worker workers[WORKERS_MAX];
    int count, alive;
    struct batch **waiting; /* batches for whoever is free, the next one last */
    size_t waiting_count, unanswered, files_done;
    struct tally tally;
};

static bool show_progress, kill_one;

/* A line that is rewritten, and cleared at the end. */
static void progress(const struct run *run)
{
    if (!show_progress)
        return;
    if (run->unanswered)
        fprintf(stderr, "\r%s: %zu of %zu files", run->method, run->files_done, tree.files);
    else
        fprintf(stderr, "\r\033[K");
}

static void start_worker(struct run *run, struct worker *w)
{
    mp_connection *there = NULL;

    *w = (struct worker){ .process = NULL };
    if (mp_pipe(&w->connection, &there) == 0)
        w->process = mp_process_new(.target = work, .args = MP_ARGS(there), .daemon = true,
            .context = mp_get_context(run->method));
    if (!w->process || mp_process_start(w->process) < 0) {
        mp_perror("cannot start a worker");
        exit(1);
    }
    mp_connection_free(there); /* the worker's alone now: when it dies, we read the end */
    run->alive++;
}

/* Its batch waits for another worker; nothing of it was counted yet. */
static void bury(struct run *run, struct worker *w)
{
    mp_connection_free(w->connection); /* ends it too if only the connection is broken */
    w->connection = NULL;
    (void)mp_process_join(w->process, MP_FOREVER);
    fprintf(stderr, "%s: %s ended with exit code %d; its files go to another worker\n", run->method,
        mp_process_name(w->process), mp_process_exitcode(w->process));
    if (w->batch)
        run->waiting[run->waiting_count++] = w->batch;
    w->batch = NULL;
    if (--run->alive == 0)
        fail("all workers have died");
}

static void feed(struct run *run, struct worker *w)
{
    if (!run->waiting_count)
        return;
    w->batch = run->waiting[--run->waiting_count];
    if (mp_connection_send_bytes(w->connection, tree.names + w->batch->begin, w->batch->size) < 0)
        bury(run, w);
}

/* Adds what a worker sent. */
static int merge(struct tally *t, mp_message *message)
{
    struct totals totals;
    mp_bytes_view text, words;
    int r = mp_unpack(message, &totals, &text, &words);

    if (r == 0)
        add_tally(t, &totals, text.data, words.data, words.size / sizeof(struct word));
    return r;
}

/* Receives an answer, keeps the worker busy, then adds the answer up. */
static void receive(struct run *run, struct worker *w, mp_message *message)
{
    if (mp_connection_recv(w->connection, message) < 0) {
        bury(run, w);
        return;
    }
    run->unanswered--;
    run->files_done += w->batch->files;
    w->batch = NULL;
    feed(run, w);
    if (merge(&run->tally, message) < 0) {
        mp_perror("an answer");
        exit(1);
    }
    progress(run);
}

/* Gives work to all who have none, and waits for somebody to answer or to die. */
static void turn(struct run *run, mp_message *message)
{
    mp_wait_item items[WORKERS_MAX];
    struct worker *who[WORKERS_MAX];
    size_t count = 0;

    for (int i = 0; i < run->count; i++) {
        struct worker *w = &run->workers[i];

        if (w->connection && !w->batch)
            feed(run, w);
        if (w->connection && w->batch) {
            items[count] = MP_WAIT(w->connection);
            who[count++] = w;
        }
    }
    if (count && mp_wait(items, count, MP_FOREVER) < 0) {
        mp_perror("wait");
        exit(1);
    }
    for (size_t i = 0; i < count; i++)
        if (items[i].ready)
            receive(run, who[i], message);
}

static void finish_workers(struct run *run)
{
    for (int i = 0; i < run->count; i++)
        mp_connection_free(run->workers[i].connection); /* a worker ends with its input */
    for (int i = 0; i < run->count; i++) {
        (void)mp_process_join(run->workers[i].process, MP_FOREVER);
        mp_process_free(run->workers[i].process);
    }
}

/* Counts all files with processes of one start method. */
static struct tally count_parallel(const char *method, int workers)
{
    struct run run = { .method = method, .count = workers, .unanswered = tree.batch_count };
    mp_message message = MP_MESSAGE_INIT;

    run.waiting = grow(NULL, (tree.batch_count + 1) * sizeof(struct batch *));
    for (size_t i = tree.batch_count; i-- > 0;)
        run.waiting[run.waiting_count++] = &tree.batches[i];
    for (int i = 0; i < workers; i++)
        start_worker(&run, &run.workers[i]);
    if (kill_one)
        (void)mp_process_kill(run.workers[0].process);
    while (run.unanswered)
        turn(&run, &message);
    finish_workers(&run);
    mp_message_clear(&message);
    free(run.waiting);
    return run.tally;
}

/* ---- what is printed ---- */

/* More often first, then by alphabet. */
static bool comes_before(const struct tally *t, const struct word *a, const struct word *b)
{
    size_t common = a->length < b->length ? a->length : b->length;
    int order = memcmp(t->text + a->offset, t->text + b->offset, common);

    if (a->count != b->count)
        return a->count > b->count;
    return order ? order < 0 : a->length < b->length;
}

static void print_result(const struct tally *t)
{
    const struct word *top[TOP + 1];
    size_t count = 0;

    printf("%zu lines, %zu words, %zu bytes in %zu files\n", t->totals.lines, t->totals.words,
        t->totals.bytes, t->totals.files - t->totals.unreadable - t->totals.binary);
    printf("skipped: %zu not readable, %zu not text\n", t->totals.unreadable + tree.unreadable,
        t->totals.binary);
    for (size_t i = 0; i < t->count; i++) {
        size_t at = count < TOP ? count++ : TOP;

        for (; at > 0 && comes_before(t, &t->words[i], top[at - 1]); at--)
            top[at] = top[at - 1];
        top[at] = &t->words[i];
    }
    for (size_t i = 0; i < count; i++)
        printf("%10zu  %.*s\n", top[i]->count, (int)top[i]->length, t->text + top[i]->offset);
}

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

struct options {
    const char *folder, *only; /* only: the one method to use, or NULL */
    int workers;
    bool quiet;
};

/* The same steps in this process. */
static struct tally count_serially(void)
{
    struct tally all = { .text = NULL };

    for (size_t i = 0; i < tree.batch_count; i++) {
        const struct batch *b = &tree.batches[i];
        struct tally t = { .text = NULL };

        count_files(&t, tree.names + b->begin, b->size);
        add_tally(&all, &t.totals, t.text, t.words, t.count);
        tally_free(&t);
    }
    return all;
}

static void print_row(const char *name, int processes, double seconds, double serial)
{
    printf("%-10s %9d %9.3f %9.2f\n", name, processes, seconds, serial / seconds);
}

/* Counts with one method. Returns whether it finds the expected. */
static bool try_method(
    const char *method, const struct options *o, const struct tally *expected, double serial)
{
    double begin = now();
    struct tally tally = count_parallel(method, o->workers);
    double seconds = now() - begin;
    bool agrees = same(&tally, expected);

    if (!o->quiet)
        print_row(method, o->workers, seconds, serial);
    if (!agrees)
        fprintf(stderr, "word_count: %s and one process disagree; did a file change meanwhile?\n",
            method);
    tally_free(&tally);
    return agrees;
}

static int compare_methods(const struct options *o)
{
    static const char *const methods[] = { "fork", "spawn", "forkserver" };
    struct tally expected = count_serially(); /* also has the system read the files once */
    bool agree = true;
    double serial = 0;

    if (!o->quiet) {
        double begin = now();
        struct tally again = count_serially();

        serial = now() - begin;
        tally_free(&again);
        printf("%-10s %9s %9s %9s\n", "method", "processes", "seconds", "speed-up");
        print_row("serial", 1, serial, serial);
    }
    for (int i = 0; i < 3; i++)
        if (!o->only || strcmp(o->only, methods[i]) == 0)
            agree = try_method(methods[i], o, &expected, serial) && agree;
    if (agree)
        print_result(&expected);
    tally_free(&expected);
    return agree ? 0 : 1;
}

static void usage(void)
{
    fail("usage: word_count [-m fork|spawn|forkserver] [-n workers] [-q] [-k] [folder]\n"
         "  -m  only this start method\n"
         "  -n  as many workers (as there are CPUs)\n"
         "  -q  print only what was counted\n"
         "  -k  kill a worker of each run: nothing may be missing");
}

static struct options parse(int argc, char **argv)
{
    struct options o = { .folder = "/usr/include", .workers = mp_cpu_count() };
    int c;

    while ((c = getopt(argc, argv, "m:n:qk")) != -1) {
        if (c == 'm' && mp_get_context(optarg))
            o.only = optarg;
        else if (c == 'n' && atoi(optarg) > 0)
            o.workers = atoi(optarg);
        else if (c == 'q')
            o.quiet = true;
        else if (c == 'k')
            kill_one = true;
        else
            usage();
    }
    if (optind < argc)
        o.folder = argv[optind];
    if (o.workers > WORKERS_MAX)
        o.workers = WORKERS_MAX;
    return o;
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        struct options o = parse(argc, argv);
        int code;

        show_progress = !o.quiet && isatty(STDERR_FILENO);
        walk(o.folder);
        cut_into_batches(o.workers);
        code = compare_methods(&o);
        free_tree();
        return code;
    }
    return 0;
}
