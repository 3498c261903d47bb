#!/bin/sh
# Runs each example under each start method and compares what it prints with examples/expected.
# usage: sh tests/check_examples.sh BUILD_FOLDER
B=${1:-build}
expected=examples/expected
printed=$(mktemp) || exit 1
picture=$(mktemp) || exit 1
trap 'rm -f "$printed" "$picture"' EXIT
failed=
runs=0
case $B in *thread*) export MP_LOG=error ;; esac # TSan has a thread of its own, which fork warns of

# check NAME METHOD [ARGUMENTS]: output as expected, nothing on stderr, exit code 0.
check() {
    name=$1 method=$2
    shift 2
    MP_START_METHOD=$method timeout -k 5 60 "$B/examples/$name" "$@" > "$printed" 2>&1
    status=$?
    runs=$((runs + 1))
    diff -u "$expected/$name.txt" "$printed" && [ $status -eq 0 ] && return
    echo "example $name under $method: FAILED with status $status"
    failed="$failed $name"
}

for source in examples/*.c; do
    name=$(basename "$source" .c)
    for method in fork spawn forkserver; do
        case $name in
        word_count) check word_count $method -q -n 3 -m $method $expected/tree ;;
        mandelbrot) check mandelbrot $method -q "$picture" 100 ;;
        *) check "$name" $method ;;
        esac
    done
done

# A worker of each run is killed, which it says on stderr; the result must be the same.
timeout -k 5 60 "$B/examples/word_count" -q -k -n 3 $expected/tree 2> /dev/null |
    diff -u $expected/word_count.txt - || failed="$failed word_count -k"

[ -z "$failed" ] || { echo "check_examples: FAILED:$failed"; exit 1; }
echo "check_examples: $runs runs of the examples print what they should"
