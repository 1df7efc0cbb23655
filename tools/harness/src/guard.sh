# Waits until standard input ends, and then ends the processes that the harness started. Only the harness can write to standard
# input. So the input ends when the harness closes it, and also when the harness ends, for whatever reason.
#
# $1 is the folder to remove at the end; if $1 is empty, no folder is removed. Each line on standard input is an order:
# `watch PID SIGNAL` adds a process to be ended, and `forget PID` removes it. SIGNAL is a number. The process gets this signal
# first, and SIGKILL two seconds later. The reason is Postgres: if it is killed at once, it leaves shared memory behind.

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

# Kills a process and its descendants. A parent is stopped before its children are listed, so that it can't start another
# child.
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

# A dying process may still write a file after the removal. So check whether the folder exists, and remove it again.
tries=20
while [ -n "$1" ] && [ -e "$1" ] && [ "$tries" -gt 0 ]; do
    rm -rf -- "$1" || sleep 0.05
    tries=$((tries - 1))
done
