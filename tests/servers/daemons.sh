#!/bin/bash
# SPDX-License-Identifier: MIT
# Daemons of a test, for the scripts beside this one to source. They live in the folder
# $dir, and no signal ever goes to a process that was not launched from here.
# shellcheck disable=SC2154 # the folder is for the script that sources this to choose

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@" && exit 1; }

# Each daemon has a file NAME.pid with its process and the time that began, in ticks: a
# number that belongs to somebody else by now has another time.
process='' state=''

# state NAME: running, paused or ended, in $state. A zombie has ended, whoever reaps it.
state() {
    local began line fields
    process='' state=ended
    read -r process began 2>/dev/null <"$dir/$1.pid" || return 0
    read -r line 2>/dev/null <"/proc/$process/stat" || return 0
    read -ra fields <<<"${line##*) }"
    if [ "${fields[19]}" != "$began" ]; then return; fi
    case ${fields[0]} in
    Z | X) ;;
    T | t) state=paused ;;
    *) state=running ;;
    esac
}

is() { state "$1" && [ "$state" = "$2" ]; }

# launch NAME COMMAND...: a daemon in a session of its own, without the descriptors of whoever
# called: one of them may be a lock, or a pipe whose end somebody waits for.
launch() {
    local name=$1 process line fields
    shift
    (
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            if [ "$fd" -gt 2 ]; then exec {fd}>&-; fi
        done
        exec setsid "$@" </dev/null >>"$dir/log/$name.out" 2>&1
    ) &
    process=$!
    read -r line <"/proc/$process/stat"
    read -ra fields <<<"${line##*) }"
    echo "$process ${fields[19]}" >"$dir/$name.pid"
}

# end SIGNAL NAME...: ends daemons, also paused ones; what has not ended in 10 s is killed.
end() {
    local signal=$1 name left=1000
    shift
    for name in "$@"; do
        if is "$name" ended; then continue; fi
        { kill -s "$signal" "$process" && kill -s CONT "$process"; } 2>/dev/null || true
    done
    for name in "$@"; do
        until is "$name" ended; do
            sleep 0.01
            if [ $((left -= 1)) = 0 ]; then kill -s KILL "$process" || true; fi
            [ $left -gt -1000 ] || die "$name cannot be ended, not even with SIGKILL: process $process"
        done
        rm -f "$dir/$name.pid"
    done
}

# One that nobody listens on, below those that the kernel gives to who connects.
free_port() {
    local tries port
    for ((tries = 0; tries < 200; tries++)); do
        port=$((20000 + RANDOM % 120 * 100))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port" && return; fi
    done
    die "no port is free between 20000 and 32000"
}
