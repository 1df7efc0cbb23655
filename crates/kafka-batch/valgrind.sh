#!/usr/bin/env bash
# Runs this crate's tests under valgrind. An invalid access, a use of undefined memory or a leak fails the run. Arguments, such as
# the name of one test, go to the test binary.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v valgrind >/dev/null; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo -n)
    echo "valgrind is missing: installing it with apt-get" >&2
    { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends valgrind libc6-dbg; } >&2 || {
        echo "valgrind could not be installed: install the packages valgrind and libc6-dbg, and run this again" >&2
        exit 1
    }
fi

# If a message or a queue is not given back, librdkafka may also wait without end when the consumer is closed. So there is a time
# limit.
# The servers that the tests start are not traced: valgrind follows a fork, and an exec only if it is told to.
VALGRIND="timeout ${VALGRIND_SECONDS:-600} valgrind --quiet --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
    --num-callers=30 --suppressions=$PWD/valgrind.supp --error-exitcode=99"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$VALGRIND CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$VALGRIND
exec "${CARGO:-cargo}" test --locked -p tidegate-kafka-batch --lib --test broker -- --test-threads=4 "$@"
