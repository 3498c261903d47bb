# SPDX-License-Identifier: MIT
#
# peer.py - CPython's multiprocessing doing the work of bench_process.c and
# bench_connection.c. It reads lines such as "fork 20" from stdin and answers
# each with the microseconds of one operation.
import multiprocessing
import os
import sys
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


def main():
    # Children must not write to the benchmark.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(sys.version.split()[0], sys.executable, file=answers, flush=True)
    for line in sys.stdin:
        name, *arguments = line.split()
        work = {"process": process, "roundtrip": roundtrip, "stream": stream}[name]
        print(work(*arguments) * 1e6, file=answers, flush=True)


if __name__ == "__main__":
    main()
