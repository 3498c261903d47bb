#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Functions are found however a program is linked: position independent or not,
# static, against the shared library, and against the library as "make install"
# leaves it, by pkg-config alone. usage: sh tests/check_links.sh BUILD_FOLDER
set -u
B=${1:-build}
CC=${CC:-cc}
msgpack=msgpack-c
pkg-config --exists 'msgpack-c >= 4' 2>/dev/null || msgpack=msgpack
cflags="-std=c11 -D_GNU_SOURCE -O1 -Iinclude $(pkg-config --cflags $msgpack)"
libs=$(pkg-config --libs $msgpack)
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed= count=0 skipped=

# try NAME ARGUMENT: the program prints what it should under each method.
try() {
    printf 'static in the program: 10 10\n' > "$folder/expected"
    [ -z "$2" ] || printf 'exported by a library: 25 25\nstatic in a library: 125 125\nunloaded: the function cannot be found in the child\n' >> "$folder/expected"
    for method in fork spawn forkserver; do
        count=$((count + 1))
        MP_START_METHOD=$method timeout 60 "$folder/$1" $2 2>&1 | diff "$folder/expected" - ||
            { echo "links: $1 under $method"; failed="$failed $1"; }
    done
}

plugin="$folder/greeter.so"
$CC $cflags -fPIC -shared tests/plugins/greeter.c -o "$plugin" || exit 1

$CC $cflags -fPIE -pie tests/programs/link.c "$B/libmultiprocessing.a" -o "$folder/pie" $libs -pthread -ldl -rdynamic &&
    try pie "" || failed="$failed pie"
$CC $cflags -fno-pie -no-pie tests/programs/link.c "$B/libmultiprocessing.a" -o "$folder/nopie" $libs -pthread -ldl &&
    try nopie "" || failed="$failed nopie"
$CC $cflags -Wl,--build-id=none tests/programs/link.c "$B/libmultiprocessing.a" -o "$folder/noid" $libs -pthread -ldl &&
    try noid "" || failed="$failed noid"
if $CC $cflags -DLINK_STATIC -static tests/programs/link.c "$B/libmultiprocessing.a" -o "$folder/static" $libs -pthread 2>/dev/null; then
    try static ""
else
    skipped=", static skipped: no static libraries here"
fi

# As a user has it. The program and its plugin share one copy of the library.
MAKEFLAGS= make -s install DESTDIR="$folder/installation" PREFIX=/usr B="$B" >/dev/null || exit 1
export PKG_CONFIG_PATH="$folder/installation/usr/lib/pkgconfig" PKG_CONFIG_SYSROOT_DIR=
sed -i "s|^prefix=.*|prefix=$folder/installation/usr|; s|^libdir=.*|libdir=$folder/installation/usr/lib|" \
    "$PKG_CONFIG_PATH/multiprocessing.pc"
export LD_LIBRARY_PATH="$folder/installation/usr/lib"
flags=$(pkg-config --cflags --libs multiprocessing) || exit 1
$CC -fPIC -shared tests/plugins/greeter.c -o "$plugin" $flags || exit 1
$CC tests/programs/link.c -o "$folder/installed" $flags -ldl && try installed "$plugin" || failed="$failed installed"
MAKEFLAGS= make -s uninstall DESTDIR="$folder/installation" PREFIX=/usr >/dev/null
left=$(find "$folder/installation" -type f -o -type l)
[ -z "$left" ] || { echo "links: uninstall leaves $left"; failed="$failed uninstall"; }

[ -z "$failed" ] || { echo "links: FAILED:$failed"; exit 1; }
echo "links: $count runs of programs linked in all ways$skipped"
