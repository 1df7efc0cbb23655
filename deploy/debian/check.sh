#!/bin/bash
# Installs the .deb of target/dist into an empty Debian in a folder, measures the time until the first row, and runs tests of
# tests/it with the installed program: `make deb-check`. The program runs as the user of its systemd unit, with the unit's command
# line. Needs root and debootstrap.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
deb=$(ls "$target"/dist/tidegate_*.deb)
readonly work=$target/deb-check root=$target/deb-check/root
readonly unit=$work/root/usr/lib/systemd/system/tidegate.service
deploy/debian/base.sh "$root"

# A stand-in for the daemon's program in the tests. The unit's command line names the package's configuration file, so the stand-in
# replaces this file by the configuration of the test.
cat >"$work/tidegate" <<'RUN'
#!/bin/sh
set -e
[ "$1 $2" = 'run --config' ]
install -o root -g "$(stat -c %g "$ROOT/etc/tidegate")" -m 0640 "$3" "$ROOT/etc/tidegate/tidegate.toml"
shift 3
exec chroot --userspec=tidegate:tidegate "$ROOT" $(sed -n 's/^ExecStart=//p' "$ROOT/usr/lib/systemd/system/tidegate.service") "$@"
RUN
cat >"$work/install" <<'INSTALL'
#!/bin/bash
set -euo pipefail
apt() { chroot "$ROOT" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@"; }
case $1 in
    download)
        cp "$DEB" "$ROOT/tmp/tidegate.deb"
        apt update
        apt install -y --download-only /tmp/tidegate.deb
        ;;
    install)
        apt install -y /tmp/tidegate.deb
        # Each test installs a configuration of its own here. The package's is put back for the checks below.
        mv "$ROOT/etc/tidegate/tidegate.toml" "$ROOT/tmp/tidegate.toml"
        ;;
esac
INSTALL
chmod +x "$work/tidegate" "$work/install"
export ROOT=$root DEB=$deb TIDEGATE_PROGRAM=$work/tidegate TIDEGATE_INSTALL=$work/install
deploy/debian/installed.sh .deb

mv "$root/tmp/tidegate.toml" "$root/etc/tidegate/tidegate.toml"
chroot "$root" tidegate --version
mode() { chroot "$root" stat -c '%U:%G %a' "$1"; }
[[ $(mode /etc/tidegate) == 'root:tidegate 750' && $(mode /etc/tidegate/tidegate.toml) == 'root:tidegate 640' ]]
chroot "$root" dpkg-query --show --showformat '${Conffiles}\n' tidegate | grep -q ' /etc/tidegate/tidegate.toml '
# The example is parsed completely: the check fails because no Kafka is at that address (exit code 69), not because of its
# content (64).
status=0
TIDEGATE__KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:1 chroot --userspec=tidegate:tidegate "$root" \
    tidegate check --config /etc/tidegate/tidegate.toml >/dev/null 2>&1 || status=$?
[[ $status == 69 ]] || { echo "check of the example ended with $status" >&2; exit 1; }
if command -v systemd-analyze >/dev/null; then
    # The program isn't installed here, so another file replaces it. Unknown keys are only warnings to systemd, so warnings fail
    # too.
    sed 's|^ExecStart=.*|ExecStart=/bin/true|' "$unit" >"$work/tidegate.service"
    warnings=$(systemd-analyze verify "$work/tidegate.service" 2>&1 | grep -F tidegate.service || true)
    [[ -z $warnings ]] || { echo "$warnings" >&2; exit 1; }
    systemd-analyze security --offline=true --threshold=15 "$unit" | tail -n 1
fi

chroot "$root" dpkg --purge tidegate
[[ ! -e $root/etc/tidegate && ! -e $root/usr/bin/tidegate ]]
rm -rf "$root"
