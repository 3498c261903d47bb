/* SPDX-License-Identifier: MIT
 *
 * process.c - a function in another process, as Python's manual begins:
 *
 *     def f(name):
 *         info('function f')
 *         print('hello', name)
 *
 *     if __name__ == '__main__':
 *         info('main line')
 *         p = Process(target=f, args=('bob',))
 *         p.start()
 *         p.join()
 */
#include <multiprocessing.h>
#include <stdio.h>

static void info(const char *title)
{
    mp_process *parent = mp_parent_process();

    printf("%s\n", title);
    printf("  process: %s\n", mp_process_name(mp_current_process()));
    printf("  parent process: %s\n", parent ? mp_process_name(parent) : "none of ours");
}

/* Runs in the child. What it returns is the exit code. */
static int f(mp_call *call)
{
    const char *name;
    long main_pid;

    if (mp_unpack(call, &name, &main_pid) < 0)
        return mp_perror("f"), 1;
    info("function f");
    printf("  the parent's pid is that of the main line: %s\n",
        mp_process_pid(mp_parent_process()) == main_pid ? "yes" : "no");
    printf("  its own pid is another: %s\n",
        mp_process_pid(mp_current_process()) != main_pid ? "yes" : "no");
    printf("hello %s\n", name);
    return 0;
}

int main(void)
{
    MP_MAIN () { /* if __name__ == '__main__': */
        long pid = mp_process_pid(mp_current_process());
        mp_process *p = mp_process_new(.target = f, .args = MP_ARGS("bob", pid));

        info("main line");
        if (!p || mp_process_start(p) < 0 || mp_process_join(p, MP_FOREVER) < 0)
            return mp_perror("process"), 1;
        printf("exit code %d\n", mp_process_exitcode(p));
        mp_process_free(p);
    }
    return 0;
}
