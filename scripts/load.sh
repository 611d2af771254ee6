# shellcheck shell=bash
# What the load suite and the experiment share: the worker, the gateway's settings, and how k6 is called.
# shellcheck disable=SC2034,SC2154

# The worker of all runs: 25 ms a token when full, some 30 answers per second.
worker='--slots 32 --kv-tokens 131072 --prefill-rate 40000 --token-time 15ms --token-time-per-seq 300us'
k6=("$tools/bin/k6" run --quiet --no-usage-report --address '')
# More for scripts/with-dam.
options=()

need_load() {
    "$root/scripts/need" k6
    # The extension is built in: k6 is not to ask its makers for another build, and serves no control port of its own.
    export K6_AUTO_EXTENSION_RESOLUTION=false
}

# with_load [--workers N] -- COMMAND...: beside such workers and a gateway.
with_load() {
    "$root/scripts/with-dam" "${options[@]}" --worker "$worker" --config "$root/k6/suite.yaml" "$@"
}
