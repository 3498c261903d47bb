/* SPDX-License-Identifier: MIT
 *
 * mandelbrot.c - renders the Mandelbrot set into a picture, a row an item: rows
 * differ a lot in what they cost, so it matters how they are handed out. First in
 * this process, then by a pool with a progress bar; both must be the same picture.
 *
 *     mandelbrot [-q] [picture.pgm [size]]
 *
 * -q: no bar and no times.
 */
#include <multiprocessing.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIZE_MOST 4096
#define DEPTH 2000

struct row {
    unsigned char gray[SIZE_MOST];
};

static unsigned char shade(double cx, double cy)
{
    double x = 0, y = 0;
    int n = 0;

    while (n < DEPTH && x * x + y * y < 4) {
        double next = x * x - y * y + cx;

        y = 2 * x * y + cy;
        x = next;
        n++;
    }
    return n == DEPTH ? 0 : (unsigned char)(255 - n % 256);
}

static void render_row(int size, int number, struct row *row)
{
    double step = 3.0 / size;

    memset(row, 0, sizeof(*row));
    for (int i = 0; i < size; i++)
        row->gray[i] = shade(-2.25 + step * i, -1.5 + step * number);
}

/* Of the picture, in each worker: set once, so that an item need not bring it along. */
static int size_here;

static int set_size(mp_call *call)
{
    return mp_unpack(call, &size_here);
}

static int render(mp_call *call)
{
    static struct row row;
    int number;

    if (mp_unpack(call, &number))
        return -1;
    render_row(size_here, number, &row);
    return mp_return(call, mp_struct(&row));
}

static double now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int render_parallel(int size, struct row *rows, bool quiet)
{
    mp_pool *pool = mp_pool_new(.initializer = set_size, .initargs = MP_ARGS(size));
    int numbers[SIZE_MOST];
    size_t count = (size_t)size;
    int r;

    for (int i = 0; i < size; i++)
        numbers[i] = i;
    r = pool ? mp_pool_map(pool, render, MP_ITEMS(numbers, count), MP_ITEMS(rows, count),
                   .progress = !quiet)
             : mp_last_error()->code;
    mp_pool_free(pool);
    return r;
}

static int write_picture(const char *name, int size, const struct row *rows)
{
    FILE *file = fopen(name, "wb");
    int r = file ? 0 : -1;

    if (file) {
        (void)fprintf(file, "P5\n%d %d\n255\n", size, size);
        for (int i = 0; i < size; i++)
            (void)fwrite(rows[i].gray, 1, (size_t)size, file);
        r = ferror(file) ? -1 : 0;
        r = fclose(file) != 0 ? -1 : r;
    }
    if (r < 0)
        perror(name);
    return r;
}

static int run(const char *name, int size, bool quiet)
{
    struct row *serial = calloc((size_t)size, sizeof(*serial));
    struct row *parallel = calloc((size_t)size, sizeof(*parallel));
    double begin = now(), one, many;
    int r = serial && parallel ? 0 : 1;

    for (int i = 0; i < size && r == 0; i++)
        render_row(size, i, &serial[i]);
    one = now() - begin;
    begin = now();
    if (r == 0 && render_parallel(size, parallel, quiet) < 0) {
        mp_perror("mandelbrot");
        r = 1;
    }
    many = now() - begin;
    if (r == 0 && memcmp(serial, parallel, (size_t)size * sizeof(*serial)) != 0) {
        (void)fprintf(stderr, "the two pictures differ\n");
        r = 1;
    }
    if (r == 0 && !quiet)
        printf("serial %.3f s, %d workers %.3f s: %.2f times faster\n", one, mp_cpu_count(), many,
            one / many);
    if (r == 0 && name)
        r = write_picture(name, size, parallel) < 0;
    if (r == 0)
        printf("%d x %d points, the same in one process and in many\n", size, size);
    free(serial);
    free(parallel);
    return r;
}

int main(int argc, char **argv)
{
    MP_MAIN () {
        bool quiet = argc > 1 && strcmp(argv[1], "-q") == 0;
        const char *name = argc > 1 + quiet ? argv[1 + quiet] : NULL;
        int size = argc > 2 + quiet ? atoi(argv[2 + quiet]) : 400;

        if (size < 1 || size > SIZE_MOST)
            return (void)fprintf(stderr, "a size is 1 to %d\n", SIZE_MOST), 2;
        return run(name, size, quiet);
    }
    return 0;
}
