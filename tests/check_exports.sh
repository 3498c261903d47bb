#!/bin/sh
# The shared library exports exactly the names of lib/exports.txt.
set -eu
nm -D --defined-only "$1" | awk '{ print $3 }' | grep -v '^_init$\|^_fini$' | sort |
    diff lib/exports.txt - || { echo "exports: lib/exports.txt (<) and the library (>) differ"; exit 1; }
echo "exports: as in lib/exports.txt"
