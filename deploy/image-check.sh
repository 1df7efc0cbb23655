#!/bin/bash
# For machines without Docker: applies the steps of the Dockerfile's last stage to an empty Debian in a folder. Then measures the time
# from unpacking the image's layers until the first row, and runs tests of tests/it with the program in that folder. `make
# image-check` calls it. Requires root, debootstrap, and the result of `make dist`, which is stripped as in the Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
readonly work=$target/image-check root=$target/image-check/root
deploy/debian/base.sh "$root"
before=$(du -sb "$root" | cut -f 1)

# These are COPY and USER of the stages `runtime` and `tidegate`. `make dist` has made the files that the build stage leaves in
# /out.
sed -n '/ AS runtime$/,/ AS fleet$/p; / AS tidegate$/,$p' Dockerfile | while read -r step arguments; do
    [[ $step == COPY ]] || continue
    mode=755 from=
    for word in $arguments; do
        case $word in
            --from=*) from=build ;;
            --chmod=*) mode=${word#*=} ;;
        esac
    done
    read -r source destination <<<"$(tr ' ' '\n' <<<"$arguments" | grep -v '^--' | paste -sd ' ')"
    case $from:$source in
        build:/out/tidegate) source=$target/dist/tidegate ;;
        build:/etc/*) mode=644 ;;
        build:*) echo "the build stage leaves no $source" >&2; exit 1 ;;
        *) [[ -x $source ]] || mode=644 ;;
    esac
    install -D -m "$mode" "$source" "$root$destination"
done
user=$(sed -n 's/^USER //p' Dockerfile)
[[ $(sed -n '/ AS tidegate$/,$s/^ENTRYPOINT //p' Dockerfile) == '["tidegate"]' ]]
echo "the image adds $(( $(du -sb "$root" | cut -f 1) - before )) bytes to its base"

# One archive, compressed as an image's layers are. Docker unpacks it when it pulls the image.
tar -C "$root" -cf - . | gzip -1 >"$work/image.tar.gz"
echo "the image has $(stat -c %s "$work/image.tar.gz") bytes compressed, $(du -sb "$root" | cut -f 1) unpacked"
rm -rf "$root"
cat >"$work/install" <<'INSTALL'
#!/bin/sh
set -e
[ "$1" = install ] || exit 0
mkdir "$ROOT" && tar -C "$ROOT" -xzf "$ROOT/../image.tar.gz"
INSTALL
chmod +x "$work/install"
export ROOT=$root RUN_AS=$user PROGRAM=tidegate TIDEGATE_INSTALL=$work/install TIDEGATE_PROGRAM=$PWD/deploy/debian/in-root.sh
deploy/debian/installed.sh image
rm -rf "$root"
