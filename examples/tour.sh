#!/bin/bash
# The tour: installs what is missing, builds, starts an agent of its own and real programs under the library, shows
# their connections in rings, and compares them with plain TCP. Stops what it started and leaves nothing behind but the
# build. Asks nothing, and needs root, or sudo without a password, only if packages are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=3        # of each comparison; the middle one counts
patience=30     # seconds after which a client that takes one has failed
build=$PWD/build
scratch=$(mktemp -d "${TMPDIR:-/tmp}/rdma-tour.XXXXXX")
runtime=$scratch/run
declare -A started=()   # process ids

stop() { # PID...: ends what was started, and waits for it
    local pid
    for pid; do
        kill "$pid" 2>/dev/null || true
    done
    for pid; do
        wait "$pid" 2>/dev/null || true
        unset "started[$pid]"
    done
}

clean_up() {
    stop "${!started[@]}"
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

usage() {
    echo "usage: examples/tour.sh [--built]"
    echo "Installs what is missing, builds, and shows the library at work with real programs: a minute after the build."
    echo "  --built    take what is built as it is, and install nothing"
}

heading() {
    if [[ -t 1 ]]; then
        printf '\n\033[1m== %s\033[0m\n' "$*"
    else
        printf '\n== %s\n' "$*"
    fi
}

fail() {
    echo "tour: $*" >&2
    exit 1
}

# ---- what is needed

prepare() {
    heading "Installing what is missing, and building"
    tests/setup.sh build programs
    scons -Q -j"$(nproc)" >"$scratch/build.log" 2>&1 || { tail -30 "$scratch/build.log"; fail "the build failed"; }
    echo "built: build/rdma-agent, build/rdmactl, build/librdma-preload.so"
}

# ---- programs

ctl() {
    "$build/rdmactl" --runtime-dir "$runtime" "$@"
}

# start LOG COMMAND...: starts a program in the background; its id is in $!.
start() {
    local log=$scratch/$1.log
    shift
    : >"$log"
    "$@" >>"$log" 2>&1 </dev/null &
    started[$!]=1
}

# await LOG PATTERN: waits until a program has printed something.
await() {
    local i
    for i in {1..200}; do
        ! grep -q -- "$2" "$scratch/$1.log" || return 0
        sleep 0.05
    done
    cat "$scratch/$1.log" >&2
    fail "$1 did not start"
}

# listening LOG: the port that a server printed.
listening() {
    await "$1" '^listening on '
    sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$scratch/$1.log"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# The prefix of a command, by way: under the library, or not.
# shellcheck disable=SC2034 # used by name
ring=("$build/rdmactl" --runtime-dir "$runtime" run --)
tcp=(env --)

start_agent() {
    heading "An agent of our own, in $runtime"
    start agent "$build/rdma-agent" --runtime-dir "$runtime"
    await agent 'serving'
    ctl doctor | grep -v '^ok' || echo "rdmactl doctor: all is well"
}

# Both kinds of every server, so that the two ways can take turns. Sets port[NAME-WAY].
declare -A port=()
start_servers() {
    heading "Servers, with the library in front: rdmactl run -- SERVER"
    local way
    for way in ring tcp; do
        local -n prefix=$way
        start "pingpong-$way" "${prefix[@]}" "$build/examples/pingpong-server" --quiet
        start "forking-$way" "${prefix[@]}" "$build/examples/forking-pingpong-server"
        start "python-$way" "${prefix[@]}" python3 examples/echo.py server
        port[redis-$way]=$(free_port)
        start "redis-$way" "${prefix[@]}" redis-server --bind 127.0.0.1 --port "${port[redis-$way]}" --save '' \
            --appendonly no --dir "$scratch"
        await "redis-$way" 'Ready to accept'
        for name in pingpong forking python; do
            port[$name-$way]=$(listening "$name-$way")
        done
    done
    echo "redis-server, pingpong-server, forking-pingpong-server, and a Python asyncio server"
}

# ---- the session table

show_sessions() {
    heading "Their clients, while they run: rdmactl list"
    local clients=()
    start client-1 "${ring[@]}" "$build/examples/pingpong-client" --port "${port[pingpong-ring]}" --seconds 3
    clients+=($!)
    start client-2 "${ring[@]}" "$build/examples/pingpong-client" --port "${port[forking-ring]}" --seconds 3 --size 4096
    clients+=($!)
    start client-3 "${ring[@]}" python3 examples/echo.py client --port "${port[python-ring]}" --seconds 3
    clients+=($!)
    start client-4 "${ring[@]}" redis-benchmark -p "${port[redis-ring]}" -t get -c 2 -n 100000000
    clients+=($!)
    sleep 2
    ctl list | tee "$scratch/list"
    grep -qw shm "$scratch/list" || fail "no connection was upgraded; see: $(ctl stats)"
    stop "${clients[@]}"
}

# ---- the comparison

per_second() { # takes it out of pingpong-client's JSON
    sed -n 's/.*"per_second":\([0-9.]*\).*/\1/p'
}

pingpong() { # WAY SERVER OPTIONS...
    local -n prefix=$1
    local at=${port[$2-$1]}
    shift 2
    timeout "$patience" "${prefix[@]}" "$build/examples/pingpong-client" --port "$at" --seconds 0.7 --json "$@" |
        per_second
}

redis() { # WAY CLIENTS REQUESTS
    local -n prefix=$1
    timeout "$patience" "${prefix[@]}" redis-benchmark -p "${port[redis-$1]}" -t get --csv -c "$2" -n "$3" 2>/dev/null |
        sed -n 's/^"GET","\([0-9.]*\)".*/\1/p'
}

python_echo() { # WAY
    local -n prefix=$1
    timeout "$patience" "${prefix[@]}" python3 examples/echo.py client --port "${port[python-$1]}" --seconds 0.7 |
        sed 's/ .*//'
}

middle() { # NUMBER...
    printf '%s\n' "$@" | sort -g | sed -n "$((($# + 1) / 2))p"
}

ring_bytes() {
    ctl stats --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["bytes"]["tx"])'
}

slower=0
compare() { # TITLE FUNCTION ARGUMENTS...: FUNCTION WAY ARGUMENTS... prints a rate
    local title=$1 function=$2 i before a=() b=()
    shift 2
    before=$(ring_bytes)
    for ((i = 0; i < rounds; i++)); do
        a+=("$("$function" tcp "$@")")
        b+=("$("$function" ring "$@")")
    done
    local with without note=
    with=$(middle "${b[@]}")
    without=$(middle "${a[@]}")
    [[ $with && $without ]] || fail "$title: a program printed no result"
    [[ $(ring_bytes) -gt $before ]] || note='  no ring was used!'
    if awk "BEGIN { exit !($with < $without) }"; then
        note="$note  the ring was slower"
        slower=$((slower + 1))
    fi
    printf '%-38s %11.0f %11.0f %8.1f x%s\n' "$title" "$without" "$with" \
        "$(awk "BEGIN { print $with / $without }")" "$note"
}

show_comparison() {
    heading "The same programs over TCP and in a ring"
    printf '%-38s %11s %11s %10s\n' "per second, the middle one of $rounds" TCP ring "ring / TCP"
    compare 'ping-pong, 64 B' pingpong pingpong
    compare 'ping-pong, 64 KiB' pingpong pingpong --size 65536
    compare 'ping-pong, forking server, 64 B' pingpong forking
    compare 'Python asyncio server, 64 B' python_echo
    compare 'redis GET, 1 client' redis 1 20000
    compare 'redis GET, 50 clients' redis 50 100000
    echo
    ctl stats | grep -E '^(sessions|through rings)' || true
    [[ $slower = 0 ]] || echo "In $slower of these the ring was slower than TCP here and now."
    echo "\`scons bench\` measures all of this with care; this was only a look."
}

case "${1:-}" in
--built) [[ -x $build/rdma-agent ]] || fail "nothing is built; run scons, or leave out --built" ;;
'') prepare ;;
--help)
    usage
    exit
    ;;
*)
    usage >&2
    exit 2
    ;;
esac
start_agent
start_servers
show_sessions
show_comparison
heading "Done; everything that was started has been stopped"
