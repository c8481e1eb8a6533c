#!/bin/bash
# The classic table of RDMA: round trips per second and mean latency of a ping-pong, on one host and between two, over
# TCP and by bare RDMA writes; and beside them what unmodified TCP programs get under this project's library.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${RDMA_BUILD:-build}
base=18500 # TCP, under the library, RDMA: this port and the two after it
seconds=2
size=64
server=
host=
addresses=()
declare -A started=()

usage() {
    echo "usage: examples/classic-table.sh [options]                 on one host only"
    echo "       examples/classic-table.sh --server                  on the other host, until interrupted"
    echo "       examples/classic-table.sh --host ADDRESS [options]  on one host, and to the server at ADDRESS"
    echo
    echo "  --size BYTES   of a message [$size]"
    echo "  --seconds S    for each measurement [$seconds]"
    echo "  --port PORT    the first of three ports of the server [$base]"
    echo "  --poll         TCP programs spin instead of sleeping, as the RDMA one does"
    echo
    echo "The last column needs an agent on each host (and RDMA_AGENT_DIR, if it is not the system's); the RDMA column"
    echo "an RDMA device. What is not there is shown as -. Exit status: 0 done, 1 something failed, 2 wrong usage."
}

fail() {
    echo "classic-table: $*" >&2
    exit 1
}

clean_up() {
    local pid
    for pid in "${!started[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

poll=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --server) server=yes ;;
    --poll) poll=(--poll) ;;
    --host | --size | --seconds | --port)
        [[ $# -gt 1 ]] || { usage >&2; exit 2; }
        case $1 in
        --host) host=$2 ;;
        --size) size=$2 ;;
        --seconds) seconds=$2 ;;
        --port) base=$2 ;;
        esac
        shift
        ;;
    --help) usage; exit ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done
[[ -x $build/examples/pingpong-client ]] || fail "nothing is built in $build; run scons"

has_agent() {
    "$build/rdmactl" stats >/dev/null 2>&1
}

# The address of the first active device; nothing if there is none.
device_address() {
    "$build/rdmactl" doctor 2>/dev/null | sed -n 's/^ok .*RDMA device .* is active, at \(.*\)/\1/p' |
        tr ' ' '\n' | grep -v '^fe80' | head -1 || true
}

start() { # COMMAND...
    "$@" >/dev/null &
    started[$!]=1
}

start_servers() {
    start "$build/examples/pingpong-server" --quiet --host "$1" --port "$base" "${poll[@]}"
    if has_agent; then
        start "$build/rdmactl" run -- "$build/examples/pingpong-server" --quiet --host "$1" --port $((base + 1)) "${poll[@]}"
    fi
    if [[ $(device_address) ]]; then
        start "$build/examples/verbs-pingpong" --server --port $((base + 2))
    fi
    sleep 0.5
}

# measure COMMAND...: "ROUND TRIPS PER SECOND, MEAN LATENCY", or "-"
measure() {
    local line
    line=$(timeout 60 "$@" --json --size "$size" --seconds "$seconds" 2>>"$log" | tail -1) || true
    if [[ $line =~ \"per_second\":([0-9]+).*\"mean\":([0-9.]+) ]]; then
        printf '%s/s, %.1f us' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    else
        printf -- '-'
    fi
}

ring_bytes() {
    "$build/rdmactl" stats --json | sed -n 's/.*"tx": *\([0-9]*\).*/\1/p' | head -1
}

accelerated() { # ADDRESS
    local before result
    has_agent || { printf -- '-'; return; }
    before=$(ring_bytes)
    result=$(measure "$build/rdmactl" run -- "$build/examples/pingpong-client" --host "$1" --port $((base + 1)) \
        "${poll[@]}")
    [[ $result = - || $(ring_bytes) != "$before" ]] || result="$result (TCP!)"
    printf '%s' "$result"
}

row() { # TITLE TCP-ADDRESS RDMA-ADDRESS
    local tcp rdma=- ours
    tcp=$(measure "$build/examples/pingpong-client" --host "$2" --port "$base" "${poll[@]}")
    [[ -z $3 ]] || rdma=$(measure "$build/examples/verbs-pingpong" --host "$3" --port $((base + 2)))
    ours=$(accelerated "$2")
    printf '%-10s %-26s %-26s %-26s\n' "$1" "$tcp" "$rdma" "$ours"
}

if [[ $server ]]; then
    start_servers 0.0.0.0
    echo "serving at ports $base to $((base + 2)); interrupt to end"
    wait
    exit
fi

log=$(mktemp)
trap 'clean_up; rm -f "$log"' EXIT
own=$(device_address)
[[ $own ]] || echo "note: no RDMA device here, so no RDMA figures; rdmactl doctor tells more"
has_agent || echo "note: no agent answers here, so no figures with the library; start rdma-agent"
printf '%-10s %-26s %-26s %-26s\n' "$size bytes" TCP "RDMA writes" "TCP programs, accelerated"
start_servers 127.0.0.1
row localhost 127.0.0.1 "$own"
[[ -z $host ]] || row network "$host" "${own:+$host}"
if [[ -s $log ]]; then
    sed 's/^/    /' "$log" | sort -u | head -5
fi
