/* SPDX-License-Identifier: MIT
 *
 * lock.c - an account in a file, and processes that deposit into it: a lock keeps
 * them apart. One of them is killed while it holds the lock; the next one is told,
 * puts the account in order, and goes on.
 */
#include <multiprocessing.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { DEPOSITORS = 4, DEPOSITS = 50 };

/* Two copies: they differ while a deposit is half done. */
typedef struct account {
    long balance, copy;
} account;

static int load(const char *path, account *a)
{
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(a, sizeof(*a), 1, file) : 0;

    if (file)
        (void)fclose(file);
    return n == 1 ? 0 : -1;
}

static int store(const char *path, const account *a)
{
    FILE *file = fopen(path, "wb");
    size_t n = file ? fwrite(a, sizeof(*a), 1, file) : 0;

    return file && fclose(file) == 0 && n == 1 ? 0 : -1;
}

/* Acquires the lock; whoever is told that its last holder died looks at what it guards. */
static int enter(mp_lock *lock, const char *path)
{
    account a;
    int r = mp_lock_acquire(lock, MP_FOREVER);

    if (r != MP_EOWNERDEAD)
        return r;
    printf("the holder of the lock died; ");
    if (load(path, &a) < 0)
        return -1;
    printf("the account %s\n", a.balance == a.copy ? "is in order" : "is put in order");
    a.balance = a.copy;
    return store(path, &a);
}

static int deposit(mp_lock *lock, const char *path, bool die)
{
    account a;

    if (enter(lock, path) < 0 || load(path, &a) < 0)
        return -1;
    a.balance++;
    if (store(path, &a) < 0)
        return -1;
    if (die)
        (void)raise(SIGKILL); /* half done, and holding the lock */
    a.copy++;
    return store(path, &a) < 0 || mp_lock_release(lock) < 0 ? -1 : 0;
}

/* Runs in a child. */
static int depositor(mp_call *call)
{
    const char *path;
    mp_lock *lock;
    int count;
    bool die;

    if (mp_unpack(call, &lock, &path, &count, &die) < 0)
        return mp_perror("depositor"), 1;
    for (int i = 0; i < count; i++)
        if (deposit(lock, path, die) < 0)
            return mp_perror("deposit"), 1;
    return 0;
}

static mp_process *start(mp_lock *lock, const char *path, int count, bool die)
{
    mp_process *p = mp_process_new(.target = depositor, .args = MP_ARGS(lock, path, count, die));

    if (!p || mp_process_start(p) < 0)
        mp_perror("start");
    return p;
}

/* Its exit code. */
static int end(mp_process *p)
{
    int code;

    (void)mp_process_join(p, MP_FOREVER);
    code = mp_process_exitcode(p);
    mp_process_free(p);
    return code;
}

static int run(mp_lock *lock, const char *path)
{
    mp_process *depositors[DEPOSITORS];
    account a = { 0, 0 };
    int failed = 0;

    if (store(path, &a) < 0)
        return perror(path), 1;
    printf("one is killed: exit code %d\n", end(start(lock, path, 1, true)));
    if (enter(lock, path) < 0 || mp_lock_release(lock) < 0)
        return mp_perror("lock"), 1;
    for (int i = 0; i < DEPOSITORS; i++)
        depositors[i] = start(lock, path, DEPOSITS, false);
    for (int i = 0; i < DEPOSITORS; i++)
        failed |= end(depositors[i]) != 0;
    if (load(path, &a) < 0)
        return perror(path), 1;
    printf("%d processes, %d deposits each: %ld\n", DEPOSITORS, DEPOSITS, a.balance);
    return failed;
}

int main(void)
{
    MP_MAIN () {
        char path[] = "/tmp/lock-example-XXXXXX";
        mp_lock *lock = mp_lock_new();
        int fd = mkstemp(path);
        int r = 1;

        if (!lock)
            mp_perror("lock");
        if (fd >= 0)
            (void)close(fd);
        if (lock && fd >= 0)
            r = run(lock, path);
        (void)unlink(path);
        mp_lock_free(lock);
        return r;
    }
    return 0;
}
