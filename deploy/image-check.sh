#!/bin/bash
# For machines without Docker: runs the steps of the Dockerfile's last stage as plain commands in a folder, and then runs tests
# of tests/it with the program in that folder. `make image-check` calls it. Requires root, debootstrap, and the result of `make
# dist`, which is stripped as in the Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
readonly work=$target/image-check root=$target/image-check/root
deploy/debian/base.sh
rm -rf "$root" && mkdir -p "$root" && tar -C "$root" -xf "$target/debian-base.tar"
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
        build:/etc/*) source=$root$source ;;
        build:*) echo "the build stage leaves no $source" >&2; exit 1 ;;
        *) [[ -x $source ]] || mode=644 ;;
    esac
    [[ $source == "$root$destination" ]] || install -D -m "$mode" "$source" "$root$destination"
done
user=$(sed -n 's/^USER //p' Dockerfile)
[[ $(sed -n '/ AS tidegate$/,$s/^ENTRYPOINT //p' Dockerfile) == '["tidegate"]' ]]
echo "the image adds $(( $(du -sb "$root" | cut -f 1) - before )) bytes to its base"

cat >"$work/tidegate" <<'RUN'
#!/bin/sh
set -e
[ "$1 $2" = 'run --config' ]
install -D -m 0644 "$3" "$ROOT/etc/tidegate/tidegate.toml"
shift 3
exec chroot --userspec="$RUN_AS" "$ROOT" tidegate run --config /etc/tidegate/tidegate.toml "$@"
RUN
chmod +x "$work/tidegate"
ROOT=$root RUN_AS=$user TIDEGATE_PROGRAM=$work/tidegate RUST_TEST_THREADS=1 \
    cargo test --locked --workspace --test it -- delivery:: crash::asked_to_end --nocapture
rm -rf "$root"
