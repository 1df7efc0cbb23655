#!/bin/sh
# Stands in for the daemon's program in tests of tests/it: runs PROGRAM of the folder ROOT as the user RUN_AS (numeric ids or
# names), with the configuration of the test.
set -e
[ "$1 $2" = 'run --config' ]
install -D -m 0644 "$3" "$ROOT/etc/tidegate/tidegate.toml"
shift 3
exec chroot --userspec="$RUN_AS" "$ROOT" "$PROGRAM" run --config /etc/tidegate/tidegate.toml "$@"
