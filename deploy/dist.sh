#!/bin/bash
# Builds the release archive for this platform, its list of components (CycloneDX) and checksums, in target/dist: `make dist`.
# Needs cargo-cyclonedx (`cargo install cargo-cyclonedx`).
set -euo pipefail
cd "$(dirname "$0")/.."
readonly target=${CARGO_TARGET_DIR:-target}
readonly dist=$target/dist
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
host=$(rustc -vV | sed -n 's/^host: //p')
name=tidegate-$version-$host
# The archive depends only on the sources: its file times are the time of the commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

cargo build --release --locked -p tidegate
rm -rf "$dist" && mkdir -p "$dist/$name"
# Line tables are useless without the sources. The symbols are kept, so that a backtrace has names.
strip --strip-debug -o "$dist/tidegate" "$target/release/tidegate"

cp "$dist/tidegate" LICENSE README.md CHANGELOG.md SECURITY.md config/tidegate.toml deploy/debian/tidegate.service "$dist/$name"
cp -r docs "$dist/$name/docs" && rm -rf "$dist/$name/docs/demo"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$dist" -cf - "$name" \
    | gzip -9n >"$dist/$name.tar.gz"
rm -r "${dist:?}/$name"

# cargo-cyclonedx writes its files beside each Cargo.toml, so it works on a copy.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard -- '*.toml' '*.rs' Cargo.lock \
    | xargs -0 cp --parents -t "$copy" --
cargo cyclonedx --quiet --manifest-path "$copy/Cargo.toml" --format json --spec-version 1.5 --target "$host"
# Remove the copy's path, which has no meaning in a release.
sed "s|$copy|.|g" "$copy/tidegate.cdx.json" >"$dist/$name.cdx.json"
components=$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["components"]))' "$dist/$name.cdx.json")

(cd "$dist" && sha256sum "$name.tar.gz" "$name.cdx.json" >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
printf '%s: %s bytes, %s unpacked, %s components\n' "$dist/$name.tar.gz" "$(stat -c %s "$dist/$name.tar.gz")" \
    "$(stat -c %s "$dist/tidegate")" "$components"
