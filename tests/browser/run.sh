#!/usr/bin/env bash
# Tests the live page in a real browser: installs what is missing, and then runs the tests of tests/it/page_browser.rs.
#   run.sh --install   only installs, for a suite that runs the tests itself
# TIDEGATE_SKIP_BROWSER=1 leaves the tests out, and says so.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ "${TIDEGATE_SKIP_BROWSER:-}" = 1 ]; then
    echo "browser tests: left out, TIDEGATE_SKIP_BROWSER=1" >&2
    exit 0
fi

cannot() {
    echo "browser tests: $*" >&2
    echo "browser tests: install it, or set TIDEGATE_SKIP_BROWSER=1 to go on without" >&2
    exit 1
}

chromium=${CHROMIUM:-/usr/bin/chromium}
if ! [ -x "$chromium" ]; then
    command -v apt-get >/dev/null || cannot "there is no $chromium, and no apt-get to install it; CHROMIUM names another one"
    [ "$(id -u)" = 0 ] || cannot "there is no $chromium, and only root may install it: apt-get install chromium; CHROMIUM names another one"
    apt-get update -qq || cannot "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null || cannot "apt-get could not install chromium"
fi
command -v node >/dev/null || cannot "there is no node (20 or later)"
command -v npm >/dev/null || cannot "there is no npm"
# `npm ci` is followed by a copy of the lock file. If the copy is the same as the lock file, all packages are installed.
if ! cmp -s "$here/package-lock.json" "$here/node_modules/.installed-lock.json"; then
    (cd "$here" && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-fund --no-audit --silent) || cannot "npm ci failed in $here"
    cp "$here/package-lock.json" "$here/node_modules/.installed-lock.json"
fi

[ "${1:-}" = --install ] && exit 0
cd "$here/../.."
exec "${CARGO:-cargo}" test --locked -p tidegate --test it page_browser
