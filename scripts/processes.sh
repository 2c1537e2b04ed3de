# shellcheck shell=bash
# Sourced by scripts that start daemons: what names a process for ever, and how it is ended.

start_time() { # PID: its start, in clock ticks since boot; nothing if there is none. With the pid it names a process for ever.
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20 || true
}

runs() { # PID START-TIME: is that process still there?
    [ -n "${2:-}" ] && [ "$(start_time "$1")" = "$2" ]
}

end_process() { # PID START-TIME SECONDS: ask it to end, and wait so long; fails when it does not
    runs "$1" "$2" || return 0
    "${as_root[@]}" kill "$1" 2>/dev/null || true
    for _ in $(seq $(($3 * 10))); do
        runs "$1" "$2" || return 0
        sleep 0.1
    done
    return 1
}
