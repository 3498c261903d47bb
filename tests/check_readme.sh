#!/bin/sh
# The program in README.md compiles, and prints what README.md says, under each start method.
set -eu
B=${B:-build}
CC=${CC:-cc}
mkdir -p "$B/readme"
awk '/^```c$/ { c = 1; next } /^```/ { c = 0 } c' README.md > "$B/readme/program.c"
awk '/^```c$/ { c = 1 } /^```$/ { if (c) { c = 0; n = 1; next } if (n == 1) { n = 2; next } if (n == 2) exit } n == 2' \
    README.md > "$B/readme/expected.txt"
flags=$(pkg-config --cflags --libs msgpack 2>/dev/null || pkg-config --cflags --libs msgpack-c)
$CC -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Werror -Iinclude "$B/readme/program.c" \
    "$B/libmultiprocessing.a" -o "$B/readme/program" $flags -pthread
for method in fork spawn forkserver; do
    MP_START_METHOD=$method timeout 60 "$B/readme/program" | diff "$B/readme/expected.txt" - ||
        { echo "readme: other output under $method"; exit 1; }
done
echo "readme: its program prints what it says"
