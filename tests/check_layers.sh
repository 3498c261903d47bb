#!/bin/sh
# A file of lib/ includes only headers of files that stand above it in lib/ORDER.
set -eu
awk '
    FILENAME == "lib/ORDER" { if (!/^#/ && NF) rank[$1] = ++n; next }
    FNR == 1 {
        me = FILENAME; sub(/^lib\//, "", me); sub(/\.[ch]$/, "", me); sub(/_internal$/, "", me)
        if (!(me in rank)) sub(/_(linux|posix)$/, "", me)
        if (me == "popen") me = "popen_fork"
        if (!(me in rank)) { print FILENAME ": not in lib/ORDER"; bad = 1 }
    }
    /^#include "/ {
        other = $2; gsub(/"/, "", other); sub(/_internal\.h$/, "", other); sub(/_posix\.c$/, "", other)
        if (other == "popen") other = "popen_fork"
        if (!(other in rank)) { print FILENAME ": includes " other ", which is not in lib/ORDER"; bad = 1 }
        else if (rank[other] > rank[me]) { print FILENAME ": includes " other " from above"; bad = 1 }
    }
    /msgpack\.h|msgpack\/(pack|unpack)/ && me != "value_message" { print FILENAME ": only value_message knows msgpack-c"; bad = 1 }
    END { exit bad }
' lib/ORDER lib/*.c lib/*.h
echo "layers: every include goes down"
