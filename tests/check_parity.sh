#!/bin/sh
# Every test that tests/PARITY.md names exists and is listed in its program.
set -eu
sed -n 's/^| [^|]* | [^|]* | \(test_[a-z_]*\.c\): \([A-Za-z0-9_]*\).*/\1 \2/p' tests/PARITY.md | sort -u | {
    bad=0
    n=0
    while read -r file name; do
        n=$((n + 1))
        grep -q "^static void $name(" "tests/$file" 2>/dev/null &&
            grep -Eq "(UNDER_EACH|UNDER|ONCE)\($name[,)]" "tests/$file" ||
            { echo "PARITY.md names $name in $file: there is no such test"; bad=1; }
    done
    [ "$(grep -c '^| ' tests/PARITY.md)" -ge 277 ] || { echo "PARITY.md lacks rows"; bad=1; }
    [ "$bad" = 0 ] && echo "parity: $n tests named by PARITY.md exist"
    exit $bad
}
