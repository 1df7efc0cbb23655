#!/bin/bash
# Installs the .deb of target/dist into an empty Debian in a folder, and runs tests of tests/it with the installed program:
# `make deb-check`. The program runs as the user of its systemd unit, with the unit's command line. Needs root and debootstrap.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
deb=$(ls "$target"/dist/tidegate_*.deb)
readonly work=$target/deb-check root=$target/deb-check/root
readonly unit=$work/root/usr/lib/systemd/system/tidegate.service
deploy/debian/base.sh
rm -rf "$root" && mkdir -p "$root" && tar -C "$root" -xf "$target/debian-base.tar"

started=$(date +%s%N)
cp "$deb" "$root/tmp/tidegate.deb"
chroot "$root" dpkg -i /tmp/tidegate.deb
echo "installed in $(( ($(date +%s%N) - started) / 1000000 )) ms, $(stat -c %s "$deb") bytes"
chroot "$root" tidegate --version
mode() { chroot "$root" stat -c '%U:%G %a' "$1"; }
[[ $(mode /etc/tidegate) == 'root:tidegate 750' && $(mode /etc/tidegate/tidegate.toml) == 'root:tidegate 640' ]]
chroot "$root" dpkg-query --show --showformat '${Conffiles}\n' tidegate | grep -q ' /etc/tidegate/tidegate.toml '
# The example is parsed completely: the start fails because there is no Kafka (exit code 69), not because of its content (64).
status=0
chroot --userspec=tidegate:tidegate "$root" tidegate check --config /etc/tidegate/tidegate.toml >/dev/null 2>&1 || status=$?
[[ $status == 69 ]] || { echo "check of the example ended with $status" >&2; exit 1; }
if command -v systemd-analyze >/dev/null; then
    # The program isn't installed here, so another file replaces it. Unknown keys are only warnings to systemd, so warnings fail
    # too.
    sed 's|^ExecStart=.*|ExecStart=/bin/true|' "$unit" >"$work/tidegate.service"
    warnings=$(systemd-analyze verify "$work/tidegate.service" 2>&1 | grep -F tidegate.service || true)
    [[ -z $warnings ]] || { echo "$warnings" >&2; exit 1; }
    systemd-analyze security --offline=true --threshold=15 "$unit" | tail -n 1
fi

# A wrapper for the tests. It copies the test's configuration to the path that the unit's command line names.
cat >"$work/tidegate" <<'RUN'
#!/bin/sh
set -e
[ "$1 $2" = 'run --config' ]
install -o root -g "$(stat -c %g "$ROOT/etc/tidegate")" -m 0640 "$3" "$ROOT/etc/tidegate/tidegate.toml"
shift 3
exec chroot --userspec=tidegate:tidegate "$ROOT" $(sed -n 's/^ExecStart=//p' "$ROOT/usr/lib/systemd/system/tidegate.service") "$@"
RUN
chmod +x "$work/tidegate"
ROOT=$root TIDEGATE_PROGRAM=$work/tidegate RUST_TEST_THREADS=1 cargo test --locked --workspace --test it -- \
    delivery:: crash::asked_to_end --nocapture

chroot "$root" dpkg --purge tidegate
[[ ! -e $root/etc/tidegate && ! -e $root/usr/bin/tidegate ]]
rm -rf "$root"
