#!/bin/bash
# Installs into an empty Debian in a folder, as a user would, and measures the time until the first row: `make install-check`.
# First the release archive of `make dist`, then the newest commit by `cargo install`, from a git repository and from a clone, with
# the packages that README.md names. Needs root, debootstrap and the network. A build from source takes many minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
readonly target work=$target/install-check
export ROOT=$work/root RUN_AS=0:0 TIDEGATE_INSTALL=$work/install TIDEGATE_PROGRAM=$PWD/deploy/debian/in-root.sh
mkdir -p "$work"

measure() { # NAME, PROGRAM; the script that installs is on standard input; keeps the folder ROOT for further steps
    deploy/debian/base.sh "$ROOT"
    { printf '#!/bin/bash\nset -euo pipefail\n'; cat; } >"$TIDEGATE_INSTALL"
    chmod +x "$TIDEGATE_INSTALL"
    PROGRAM=$2 deploy/debian/installed.sh "$1"
}

export ARCHIVE
ARCHIVE=$(ls "$target"/dist/tidegate-*.tar.gz)
measure 'release archive' /usr/local/bin/tidegate <<'INSTALL'
[[ $1 == install ]] || exit 0
tar -C "$ROOT/opt" -xzf "$ARCHIVE"
ln -s "/opt/$(basename "$ARCHIVE" .tar.gz)/tidegate" "$ROOT/usr/local/bin/tidegate"
INSTALL

SOURCE=$PWD RUST=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
export SOURCE RUST
measure 'cargo install' /root/.cargo/bin/tidegate <<'INSTALL'
# Runs a command in $ROOT, with /proc, which rustup and compilers read. The mount ends together with the command's namespace. The
# environment is empty, because the cargo that runs the tests has set variables for its own toolchain.
in_root() {
    unshare --mount sh -c 'mount -t proc proc "$ROOT/proc" && exec chroot "$ROOT" env -i "$@"' sh HOME=/root \
        PATH=/root/.cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_TARGET_DIR=/tmp/target DEBIAN_FRONTEND=noninteractive "$@"
}
case $1 in
    download)
        in_root apt-get update -qq
        in_root apt-get install -qq -y gcc g++ make perl ca-certificates curl git
        # A mirror may have a certificate of an authority that only this machine knows.
        cp /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/ca-certificates.crt"
        host=$(uname -m)-unknown-linux-gnu
        in_root curl -fsS -o /tmp/rustup-init "https://static.rust-lang.org/rustup/dist/$host/rustup-init"
        chmod +x "$ROOT/tmp/rustup-init"
        in_root /tmp/rustup-init -q -y --profile minimal --default-toolchain "$RUST"
        ;;
    install)
        git clone -q --bare "$SOURCE" "$ROOT/src.git"
        in_root cargo install --locked --git file:///src.git tidegate
        ;;
    again)
        # CARGO_TARGET_DIR still has the compiled dependencies, so only Tidegate's own crates are compiled.
        git clone -q "$SOURCE" "$ROOT/src"
        in_root cargo install --locked --force --path /src
        ;;
esac
INSTALL
"$TIDEGATE_INSTALL" again
chroot "$ROOT" /root/.cargo/bin/tidegate --version
rm -rf "$ROOT"
