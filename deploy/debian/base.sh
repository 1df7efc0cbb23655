#!/bin/bash
# Creates target/debian-base.tar if it doesn't exist: an empty Debian of this machine's release. Needs root.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
[[ -f $target/debian-base.tar ]] && exit
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# The source from which this machine gets its packages.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)}
command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=adduser,ca-certificates "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 \
    || { tail -n 20 "$work/log" >&2; exit 1; }
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
tar -C "$work/root" -cf "$target/debian-base.tar.part" . && mv "$target/debian-base.tar.part" "$target/debian-base.tar"
