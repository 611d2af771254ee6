# shellcheck shell=bash
# Shared by the scripts: paths, error messages, and servers that are always stopped at the end.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$root/.tools
export PATH="$tools/bin:$PATH:/usr/sbin:/sbin"

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# built_dam PROFILE: builds the gateway and sets `dam` to it. TRAFFIC_DAM sets another binary.
built_dam() {
    dam=${TRAFFIC_DAM:-}
    [[ $dam ]] && return
    local build=(cargo build --quiet --locked --release --bin traffic-dam)
    # The binary that `cargo test` builds for the integration tests. `cargo build` would compile
    # most of it again, because the tests' dependencies switch on more features.
    if [[ $1 == debug ]]; then build=(cargo test --quiet --locked --workspace --no-run --test floors); fi
    "${build[@]}" --manifest-path "$root/Cargo.toml"
    dam=${CARGO_TARGET_DIR:-$root/target}/$1/traffic-dam
}

# built_rig EXAMPLE BUILD: sets `rig` to BUILD or, if empty, to a new release build of EXAMPLE.
built_rig() {
    rig=$2
    [[ $rig ]] && return
    cargo build --quiet --locked --release --manifest-path "$root/Cargo.toml" --example "$1"
    rig=${CARGO_TARGET_DIR:-$root/target}/release/examples/$1
}

# free_port NAME: sets NAME to a free TCP port on loopback, below the kernel's ephemeral range.
taken=" "
free_port() {
    local candidate try
    for try in {1..200}; do
        candidate=$((20000 + (RANDOM * try) % 12000))
        [[ $taken == *" $candidate "* ]] && continue
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; then
            taken+="$candidate "
            printf -v "$1" %s "$candidate"
            return
        fi
    done
    fail "no free port was found"
}

# Prints the status of GET $2 at port $1; nothing without an answer.
http_status() {
    local version status
    {
        exec 3<>"/dev/tcp/127.0.0.1/$1" &&
            printf 'GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' "$2" >&3 &&
            read -r -t 2 version status _ <&3 && [[ $version == HTTP/* ]] && printf %s "$status"
    } 2>/dev/null
}

# Servers started by `start`, newest last: process ids, names, and the folder of their logs.
started=()
names=()
logs=

# start NAME COMMAND...: runs a server in the background; `stop_all` ends it when the script ends.
start() {
    local name=$1
    shift
    [[ $logs ]] || logs=$(mktemp -d)
    "$@" >"$logs/$name" 2>&1 </dev/null &
    started+=($!)
    names+=("$name")
}

# wait_for PORT PATH STATUS [SECONDS]: waits (30 s) until the newest server answers with STATUS.
wait_for() {
    local name=${names[-1]} pid=${started[-1]} tick
    for ((tick = 0; tick < ${4:-30} * 10; tick++)); do
        [[ $( (http_status "$1" "$2") ) == "$3" ]] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    printf '%s did not come up; the end of its log:\n' "$name" >&2
    tail -n 20 "$logs/$name" >&2
    exit 1
}

# Stops the servers of `start`, newest first: SIGTERM, and after 10 s SIGKILL.
stop_all() {
    local status=$? index pid tick
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do
        pid=${started[index]}
        kill -TERM "$pid" 2>/dev/null || continue
        for ((tick = 0; tick < 100; tick++)); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    if ((status != 0)) && [[ $logs ]]; then
        for index in "${!names[@]}"; do
            printf -- '--- the end of the log of %s:\n' "${names[index]}" >&2
            tail -n 10 "$logs/${names[index]}" >&2
        done
    fi
    [[ $logs ]] && rm -rf "$logs"
    return "$status"
}
trap stop_all EXIT
trap 'exit 130' INT TERM
