# shellcheck shell=bash
# An etcd and a Kubernetes API server, as scripts/kubernetes and tests/kubernetes/discovery use them. Sourced after lib.sh.
# shellcheck disable=SC2154 # lib.sh says where the tools are

kubectl=$tools/bin/kubectl

# api_server FOLDER ADDRESS [OPTION...]: starts both, waits until they serve, and points KUBECONFIG at them. The command
# of the API server stays in `api_command`, its URL in `api_url`. API_PORT is its port, if it must be a certain one.
api_server() {
    local folder=$1 address=$2 etcd='' peer='' port='' tick
    shift 2
    for name in etcd peer port; do free_port "$name"; done
    port=${API_PORT:-$port}
    start etcd etcd --data-dir "$folder/etcd-data" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$etcd" \
        --advertise-client-urls "http://127.0.0.1:$etcd" --listen-peer-urls "http://127.0.0.1:$peer" \
        --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer"
    wait_for "$etcd" /health 200
    openssl genrsa -out "$folder/sa.key" 2048 2>/dev/null
    echo 'a-token-for-a-test,admin,1,system:masters' >"$folder/tokens.csv"
    api_url=https://$address:$port
    api_command=("$tools/bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd" --secure-port="$port" \
        --bind-address="$address" --cert-dir="$folder/certs" --authorization-mode=RBAC \
        --token-auth-file="$folder/tokens.csv" --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$folder/sa.key" --service-account-signing-key-file="$folder/sa.key" \
        --service-cluster-ip-range=10.96.0.0/16 "$@")
    start kube-apiserver "${api_command[@]}"
    export KUBECONFIG=$folder/kubeconfig
    cat >"$KUBECONFIG" <<YAML
apiVersion: v1
kind: Config
clusters: [{ name: c, cluster: { server: "$api_url", insecure-skip-tls-verify: true } }]
users: [{ name: u, user: { token: a-token-for-a-test } }]
contexts: [{ name: x, context: { cluster: c, user: u } }]
current-context: x
YAML
    for ((tick = 0; ; tick++)); do
        "$kubectl" get --raw /readyz >/dev/null 2>&1 && break
        { ((tick < 600)) && kill -0 "${started[-1]}" 2>/dev/null; } || fail "the API server did not come up"
        sleep 0.2
    done
}

# restricted NAMESPACE: makes it, with the Pod Security standard "restricted".
restricted() {
    "$kubectl" create namespace "$1" >/dev/null
    "$kubectl" label namespace "$1" pod-security.kubernetes.io/enforce=restricted \
        pod-security.kubernetes.io/enforce-version=latest >/dev/null
}
