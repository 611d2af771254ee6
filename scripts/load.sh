# shellcheck shell=bash
# Shared by the load suite and the experiment: worker, gateway settings, and k6 command.
# shellcheck disable=SC2034,SC2154

# The worker of all runs: 25 ms per token when full, about 30 answers per second.
worker='--slots 32 --kv-tokens 131072 --prefill-rate 40000 --token-time 15ms --token-time-per-seq 300us'
k6=("$tools/bin/k6" run --quiet --no-usage-report --address '')
# Additional options for scripts/with-dam.
options=()

need_load() {
    "$root/scripts/need" k6
    # The extension is built in: k6 must not download another build, nor open a control port.
    export K6_AUTO_EXTENSION_RESOLUTION=false
}

# with_load [--workers N] -- COMMAND...: runs COMMAND with these workers and a gateway.
with_load() {
    "$root/scripts/with-dam" "${options[@]}" --worker "$worker" --config "$root/k6/suite.yaml" "$@"
}
