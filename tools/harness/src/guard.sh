# Ends what the harness started when the harness is gone, however it went.
#
# $1 is the folder of the run, removed at the end unless it is empty. Lines on standard input say which processes to
# watch: `watch PID SIGNAL` and `forget PID`. Standard input ends when its only writer, the harness, does.
# SIGNAL, a number, is tried first and given two seconds: a Postgres that is killed at once leaves shared memory behind.

trap '' INT TERM HUP QUIT
sigkill=9
watched=

while read -r verb pid signal; do
    case $verb in
    watch) watched="$watched $pid:$signal" ;;
    forget)
        kept=
        for entry in $watched; do
            [ "${entry%%:*}" = "$pid" ] || kept="$kept $entry"
        done
        watched=$kept
        ;;
    esac
done

children() {
    cat "/proc/$1/task/$1/children" || pgrep -P "$1"
}

# Parents first and stopped, so that none is born meanwhile.
kill_tree() {
    kill -STOP "$1" || return 0
    for child in $(children "$1"); do
        kill_tree "$child"
    done
    kill -KILL "$1"
}

await_end() {
    tries=$2
    while kill -0 "$1" && [ "$tries" -gt 0 ]; do
        sleep 0.05
        tries=$((tries - 1))
    done
}

for entry in $watched; do
    pid=${entry%%:*}
    signal=${entry##*:}
    if [ "$signal" != "$sigkill" ]; then
        kill "-$signal" "$pid"
        # A stopped process receives no signal but SIGKILL and SIGCONT.
        for one in $(children "$pid") "$pid"; do kill -CONT "$one"; done
    fi
done
for entry in $watched; do
    [ "${entry##*:}" = "$sigkill" ] || await_end "${entry%%:*}" 40
done
for entry in $watched; do kill_tree "${entry%%:*}"; done
for entry in $watched; do await_end "${entry%%:*}" 40; done

# A process that is just dying may still write a file, so look again.
tries=20
while [ -n "$1" ] && [ -e "$1" ] && [ "$tries" -gt 0 ]; do
    rm -rf -- "$1" || sleep 0.05
    tries=$((tries - 1))
done
