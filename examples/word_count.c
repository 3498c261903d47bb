/* SPDX-License-Identifier: MIT
 *
 * word_count.c - counts the lines, words and bytes of a tree of text files, and
 * its most frequent words, with a pool of processes, under each start method in
 * turn; all must find what a single process finds.
 *
 * The parent walks the tree and cuts the list of files into batches, which a pool
 * takes as it gets on. A worker that dies has its batch counted by another one.
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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TOP 10
#define BATCHES_PER_WORKER 16

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

/* ---- a task: names in, counts out ---- */

static int count_batch(mp_call *call)
{
    struct tally t = { .text = NULL };
    mp_bytes_view names;
    int r;

    if (mp_unpack(call, &names))
        return -1;
    count_files(&t, names.data, names.size);
    r = mp_return(call, mp_list(mp_struct(&t.totals), mp_bytes(t.text, t.text_size),
                            mp_bytes(t.words, t.count * sizeof(*t.words))));
    tally_free(&t);
    return r;
}

/* ---- the parent ---- */

static bool show_progress, kill_one;

/* A line that is rewritten, and cleared at the end. */
static void progress(const char *method, size_t files)
{
    if (!show_progress)
        return;
    if (files < tree.files)
        fprintf(stderr, "\r%s: %zu of %zu files", method, files, tree.files);
    else
        fprintf(stderr, "\r\033[K");
}

/* The input of the pool, which asks when it has room for more. */
static int next_batch(void *state, mp_call *item)
{
    size_t *next = state;
    const struct batch *b = &tree.batches[*next];

    if (*next == tree.batch_count)
        return MP_EEOF;
    ++*next;
    return mp_return(item, mp_bytes(tree.names + b->begin, b->size));
}

/* Adds what a task answered. */
static int merge(struct tally *t, mp_message *answer)
{
    struct totals totals;
    mp_bytes_view text, words;
    int r = mp_unpack(answer, &totals, &text, &words);

    if (r == 0)
        add_tally(t, &totals, text.data, words.data, words.size / sizeof(struct word));
    return r;
}

static void kill_a_worker(mp_pool *pool)
{
    pid_t pid;

    if (mp_pool_pids(pool, &pid, 1) > 0)
        (void)kill(pid, SIGKILL);
}

/* Counts all files with the processes of one start method. */
static struct tally count_parallel(const char *method, int workers)
{
    mp_pool *pool = mp_pool_new(.processes = workers, .context = mp_get_context(method));
    struct tally all = { .text = NULL };
    mp_message answer = MP_MESSAGE_INIT;
    size_t next = 0, files = 0;
    mp_imap *answers;
    int r;

    if (!pool)
        goto failed;
    /* A batch whose worker died is counted again by another: nothing of it has arrived. */
    answers =
        mp_pool_imap_unordered(pool, count_batch, MP_GENERATE(next_batch, &next), .retries = 3);
    if (!answers)
        goto failed;
    if (kill_one)
        kill_a_worker(pool);
    while ((r = mp_imap_next(answers, &answer, MP_FOREVER)) == 0) {
        if (merge(&all, &answer) < 0)
            goto failed;
        files += tree.batches[mp_imap_index(answers)].files;
        progress(method, files);
    }
    if (r != MP_EEOF)
        goto failed;
    mp_imap_free(answers);
    mp_message_clear(&answer);
    mp_pool_free(pool);
    return all;
failed:
    mp_perror(method);
    exit(1); /* ends the pool too */
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
