#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Each fuzzer for a while, two at a time. What it found interesting stays in
# BUILD/fuzz/corpus for the next time; an input that breaks something is named and
# stays, too. usage: sh tests/fuzz/run.sh "HOW LONG, AS LIBFUZZER HAS IT" BUILD/fuzz/fuzz_NAME...
set -u
long=$1
shift
export long UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
printf '%s\n' "$@" | xargs -P 2 -I{} sh -c '
    name=$(basename {}) folder=$(dirname {})
    mkdir -p "$folder/corpus/$name"
    {} $long -timeout=20 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$folder/$name-" "$folder/corpus/$name" >"$folder/$name.log" 2>&1 || {
        tail -n 40 "$folder/$name.log"
        echo "$name: FAILED"
        exit 255
    }
    echo "$name: $(sed -n "s/^stat::number_of_executed_units: *//p" "$folder/$name.log") inputs"' || exit 1
