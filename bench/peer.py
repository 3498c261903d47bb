# SPDX-License-Identifier: MIT
#
# peer.py - CPython's multiprocessing doing the work of bench_process.c,
# bench_connection.c, bench_pool.c, bench_queues.c, bench_shared_memory.c and
# bench_synchronize.c. It reads lines such as "fork 20" from stdin and answers each with
# the microseconds of one operation.
import multiprocessing
import os
import sys
from multiprocessing import shared_memory
from time import perf_counter


def nothing():
    pass


def median(values):
    values = sorted(values)
    n = len(values)
    return (values[n // 2] + values[(n - 1) // 2]) / 2


def process(method, count):
    """Start and join, the median of count."""
    context = multiprocessing.get_context(method)
    times = []
    for _ in range(int(count)):
        begin = perf_counter()
        p = context.Process(target=nothing)
        p.start()
        p.join()
        times.append(perf_counter() - begin)
        p.close()
    return median(times)


VALUE = [42, "a small value of about 64 bytes, all told, packed", 2.5]


def echo(receiver, sender, values, cpu, count):
    pin(cpu)
    for _ in range(count):
        if values:
            sender.send(receiver.recv())
        else:
            sender.send_bytes(receiver.recv_bytes())


def take(receiver, size, count):
    buffer = bytearray(size)
    for _ in range(count):
        receiver.recv_bytes_into(buffer)
    receiver.send_bytes(b"done")


def pin(cpu):
    os.sched_setaffinity(0, {cpu})


def roundtrip(kind, values, my_cpu, its_cpu, count):
    """Messages of 64 bytes, or values, there and back."""
    count, values = int(count), values == "values"
    context = multiprocessing.get_context("fork")
    if kind == "socket":
        here, there = context.Pipe()
        sender, receiver, ends = here, here, (there, there)
    else:
        question, sender = context.Pipe(duplex=False)
        receiver, answer = context.Pipe(duplex=False)
        ends = (question, answer)
    p = context.Process(target=echo, args=(*ends, values, int(its_cpu), count + 10))
    p.start()
    allowed = os.sched_getaffinity(0)
    pin(int(my_cpu))
    message = bytes(64)
    for i in range(count + 10):
        if i == 10:
            begin = perf_counter()
        if values:
            sender.send(VALUE)
            receiver.recv()
        else:
            sender.send_bytes(message)
            receiver.recv_bytes()
    seconds = perf_counter() - begin
    os.sched_setaffinity(0, allowed)
    p.join()
    return seconds / count


def stream(size, count):
    """Messages of size bytes one way, the last one acknowledged."""
    size, count = int(size), int(count)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    message = bytes(size)
    p = context.Process(target=take, args=(there, size, count))
    p.start()
    begin = perf_counter()
    for _ in range(count):
        here.send_bytes(message)
    here.recv_bytes()
    seconds = perf_counter() - begin
    p.join()
    return seconds / count


def square(x):
    return x * x


POOL = None


def the_pool():
    global POOL
    if POOL is None:
        POOL = multiprocessing.get_context("fork").Pool(2)
    return POOL


def pool_map(chunksize, count):
    """One item of a map over count numbers."""
    pool, numbers = the_pool(), list(range(int(count)))
    begin = perf_counter()
    pool.map(square, numbers, int(chunksize) or None)
    return (perf_counter() - begin) / len(numbers)


def pool_apply(count):
    pool = the_pool()
    begin = perf_counter()
    for _ in range(int(count)):
        pool.apply(square, (12,))
    return (perf_counter() - begin) / int(count)


def pool_start(method, workers, count):
    """Start and shutdown, one task between, the median of count."""
    context = multiprocessing.get_context(method)
    times = []
    for _ in range(int(count)):
        begin = perf_counter()
        with context.Pool(int(workers)) as pool:
            pool.apply(nothing)
            pool.close()
            pool.join()
        times.append(perf_counter() - begin)
    return median(times)


def put_numbers(q, count, barrier):
    barrier.wait()
    for i in range(count):
        q.put(i)


def take_numbers(q, count, begin, end):
    begin.wait()
    for _ in range(count):
        q.get()
    end.wait()


def queue(side, count):
    """One item through a queue, side producers and side consumers with count items each."""
    side, count = int(side), int(count)
    context = multiprocessing.get_context("fork")
    q = context.Queue()
    start, end = context.Barrier(2 * side + 1), context.Barrier(side + 1)
    processes = []
    for _ in range(side):
        processes.append(context.Process(target=put_numbers, args=(q, count, start)))
        processes.append(context.Process(target=take_numbers, args=(q, count, start, end)))
    for p in processes:
        p.start()
    start.wait()
    begin = perf_counter()
    end.wait()
    seconds = perf_counter() - begin
    for p in processes:
        p.join()
    return seconds / (side * count)


def acquire_and_release(lock, ready, count):
    ready.wait()
    begin = perf_counter()
    for _ in range(count):
        lock.acquire()
        lock.release()
    return perf_counter() - begin


def lock(kind, processes, count):
    """Acquire and release, by one process or two at once."""
    context, count = multiprocessing.get_context("fork"), int(count)
    it, ready = getattr(context, kind)(), context.Barrier(int(processes))
    if int(processes) == 1:
        return acquire_and_release(it, ready, count) / count
    p = context.Process(target=acquire_and_release, args=(it, ready, count))
    p.start()
    seconds = acquire_and_release(it, ready, count)
    p.join()
    return seconds / count


def meet(mine, its, first, ready, count):
    ready.wait()
    begin = perf_counter()
    for _ in range(count):
        if first:
            mine.set()
        its.wait()
        its.clear()
        if not first:
            mine.set()
    return perf_counter() - begin


def events(count):
    """Two events, there and back."""
    context, count = multiprocessing.get_context("fork"), int(count)
    one, other, ready = context.Event(), context.Event(), context.Barrier(2)
    p = context.Process(target=meet, args=(other, one, False, ready, count))
    p.start()
    seconds = meet(one, other, True, ready, count)
    p.join()
    return seconds / count


def pass_barrier(it, count):
    it.wait()
    begin = perf_counter()
    for _ in range(count):
        it.wait()
    return perf_counter() - begin


def barrier(count):
    context, count = multiprocessing.get_context("fork"), int(count)
    it = context.Barrier(2)
    p = context.Process(target=pass_barrier, args=(it, count))
    p.start()
    seconds = pass_barrier(it, count)
    p.join()
    return seconds / count


def shared_copy(size, count):
    """Bytes into shared memory."""
    data = bytearray(int(size))
    memory = shared_memory.SharedMemory(create=True, size=len(data))
    times = []
    for _ in range(int(count)):
        begin = perf_counter()
        memory.buf[:len(data)] = data
        times.append(perf_counter() - begin)
    memory.close()
    memory.unlink()
    return median(times)


def shared_cycle(count):
    """Make, write to and unlink shared memory of a page."""
    begin = perf_counter()
    for _ in range(int(count)):
        memory = shared_memory.SharedMemory(create=True, size=4096)
        memory.buf[0] = 1
        memory.close()
        memory.unlink()
    return (perf_counter() - begin) / int(count)


def main():
    # Children must not write to the benchmark.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(sys.version.split()[0], sys.executable, file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        work = {
            "process": process,
            "roundtrip": roundtrip,
            "stream": stream,
            "map": pool_map,
            "apply": pool_apply,
            "pool": pool_start,
            "queue": queue,
            "lock": lock,
            "events": events,
            "barrier": barrier,
            "shared_copy": shared_copy,
            "shared_cycle": shared_cycle,
        }[name]
        print(work(*arguments) * 1e6, file=answers, flush=True)


if __name__ == "__main__":
    main()
