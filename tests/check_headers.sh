#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Each public header compiles alone, in C11, C17 and C++17, with all warnings; so
# do the programs in the documents, at -O0 and -O2. A compiler that is not there
# is skipped, with a word.
msgpack=msgpack-c
pkg-config --exists 'msgpack-c >= 4' 2>/dev/null || msgpack=msgpack
includes="-Iinclude $(pkg-config --cflags $msgpack)"
c="-Wall -Wextra -Wpedantic -Wconversion -Werror"
cxx="-std=c++17 -Wall -Wextra -Wpedantic -Werror -x c++"
headers=$(cd include && echo multiprocessing.h multiprocessing/*.h)
failed= skipped= count=0

# check WHAT COMPILER... : the source is on stdin
check() {
    what=$1
    shift
    count=$((count + 1))
    output=$("$@" $includes -c -o /dev/null - 2>&1) && return
    echo "$what with $*:"
    echo "$output" | head -n 20
    failed=yes
}

check_c() {
    for standard in c11 c17; do
        for header in $headers; do
            check "$header" "$1" -std=$standard $c -x c <<EOF
#include <$header>
EOF
        done
    done
    for level in -O0 -O2; do
        for program in tests/programs/design.c tests/programs/design_pool.c; do
            check $program "$1" -std=c11 $c $level -x c < $program
        done
    done
}

check_cxx() {
    for header in $headers; do
        check "$header" "$1" $cxx <<EOF
#include <$header>
EOF
    done
}

for compiler in gcc clang; do
    if command -v $compiler >/dev/null 2>&1; then check_c $compiler; else skipped="$skipped $compiler"; fi
done
for compiler in g++ clang++; do
    if command -v $compiler >/dev/null 2>&1; then check_cxx $compiler; else skipped="$skipped $compiler"; fi
done
[ -z "$failed" ] || exit 1
echo "headers: $count compilations${skipped:+, skipped without$skipped}"
