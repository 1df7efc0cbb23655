#!/bin/bash
# Measures an installation, then runs tests of tests/it on it: `installed.sh NAME`. `$TIDEGATE_INSTALL download` and
# `$TIDEGATE_INSTALL install` install $TIDEGATE_PROGRAM. The clock starts when the servers of the tests run, and stops when the program
# has written the first row.
set -euo pipefail
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() { # NUMBER OF TESTS, arguments of the test program
    RUST_TEST_THREADS=1 cargo test --locked --workspace --test it -- --nocapture "${@:2}" >"$log" 2>&1 \
        && grep -q "^test result: ok. $1 passed;" "$log" || { cat "$log" >&2; exit 1; }
}
run 1 --ignored installed::the_first_row
sed -n "s/^.*first row: /first row, $1: /p" "$log"
run 3 delivery:: crash::ended_in_the_middle compression::
grep -o '10,000 rows .*' "$log"
