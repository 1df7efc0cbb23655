#!/bin/bash
# Unpacks an empty Debian of this machine's release into a folder, which is emptied before: `base.sh FOLDER`. The first call makes
# target/debian-base.tar. Needs root.
set -euo pipefail
target=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$0")/../../target}")
readonly target base=$target/debian-base.tar
if ! [[ -f $base ]]; then
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # The source from which this machine gets its packages.
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)}
    command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    debootstrap --variant=minbase "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 \
        || { tail -n 20 "$work/log" >&2; exit 1; }
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    tar -C "$work/root" -cf "$base.part" . && mv "$base.part" "$base"
fi
rm -rf "$1" && mkdir -p "$1" && tar -C "$1" -xf "$base"
cp /etc/resolv.conf "$1/etc/resolv.conf"
