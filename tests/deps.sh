#!/bin/sh
# Installs what the build and the tests need, where apt-get is; elsewhere says what to install.
set -eu
missing=
need() { # command that tells, package
    sh -c "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need 'command -v gcc || command -v cc' gcc
need 'command -v make' make
need 'command -v pkg-config' pkg-config
need "pkg-config --exists 'msgpack-c >= 4' || pkg-config --exists 'msgpack >= 4'" libmsgpack-dev
need 'pkg-config --exists cmocka' libcmocka-dev
if [ -z "$missing" ]; then
    echo "deps: everything is there"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "deps: please install a C compiler, GNU make, pkg-config, msgpack-c (4 or newer) and cmocka" >&2
    echo "deps: missing here, by Debian's names:$missing" >&2
    exit 1
fi
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
echo "deps: installing$missing"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null
