#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Runs the test programs given, two at a time, then the scripts that check the whole.
# Any failure fails the run, and what failed is said last, where nobody misses it. A program
# that hangs is ended with its children; one that crashes has no summary.
if [ "$1" = --one ]; then
    name=$(basename "$2")
    rm -f "$2.failed"
    output=$(timeout -k 10 "${TEST_TIMEOUT:-900}" "$2" 2>&1)
    status=$?
    if [ $status -eq 0 ] && echo "$output" | grep -q '\[  PASSED  \]'; then
        echo "$name: $(echo "$output" | sed -n 's/^\[  PASSED  \] \([0-9]*\).*/\1 passed/p' | tail -n 1)"
        exit 0
    fi
    printf '%s\n%s: FAILED with status %s\n' "$output" "$name" "$status" > "$2.failed"
    cat "$2.failed"
    exit 1
fi
# Two at once only where each has names of shared memory of its own: see support.c.
[ -n "$JOBS" ] || JOBS=$(unshare -m true 2> /dev/null && echo 2 || echo 1)
failed=
printf '%s\n' "$@" | xargs -P "$JOBS" -n 1 sh "$0" --one || failed=" tests"
for check in "sh tests/check_layers.sh" "sh tests/check_parity.sh" "sh tests/check_headers.sh" \
    "sh tests/check_examples.sh $B" "sh tests/check_readme.sh" "sh tests/check_links.sh $B"; do
    [ -f "$(echo "$check" | cut -d' ' -f2)" ] || continue
    [ -z "$SAN" ] || [ "$check" = "sh tests/check_examples.sh $B" ] || continue
    $check || failed="$failed $check"
done
[ -n "$SAN" ] || sh tests/check_exports.sh "$B/libmultiprocessing.so" || failed="$failed exports"
[ -n "$failed" ] || { echo "all tests passed"; exit 0; }
for program in "$@"; do
    [ ! -f "$program.failed" ] || grep -v '\[ *\(RUN\|OK\) *\]' "$program.failed" | tail -n 40
done
echo "FAILED:$failed"
exit 1
