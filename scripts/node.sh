# shellcheck shell=bash
# Two Kubernetes nodes beside the API server of cluster.sh: containerd, kubelet, kube-proxy and, for policies, kube-router
# on each, all of them real. Sourced after lib.sh and cluster.sh, as root, in namespaces of its own for mounts, network
# and processes (scripts/kubernetes-node makes them; the second node has its own once more): outside of these nothing is
# seen of it, but for control groups.
# shellcheck disable=SC2154 # lib.sh says where the tools are

# The control plane and the first node share an address.
control=10.77.0.1
pods=10.244.0.0/16
address_of() { echo "10.77.0.$1"; }
pods_of() { echo "10.244.$1.0/24"; }
ctr=(ctr --address /run/containerd/containerd.sock --namespace k8s.io)

# own_places FOLDER: folders and settings of the machine that a node writes to are replaced by its own.
own_places() {
    # Kubelet wants mounts that spread into containers. They spread no further: this namespace has no peer.
    mount --make-rshared /
    mkdir -p "$1"/{log,lib,lib.work,sys}
    mount -t tmpfs -o mode=755 tmpfs /run
    mount --bind "$1/log" /var/log
    mount -t overlay -o "lowerdir=/var/lib,upperdir=$1/lib,workdir=$1/lib.work" overlay /var/lib
    # Kubelet writes these if they differ. They are the machine's, whatever the namespace, so it finds what it wants.
    local setting file
    for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
        file=$1/sys/$(basename "${setting%=*}")
        printf '%s\n' "${setting#*=}" >"$file"
        mount --bind "$file" "/proc/sys/${setting%=*}"
    done
}

# networks: a bridge between the nodes, at which the first one is, and a namespace `node-2` with the second one's end.
# Each knows by which node the other's Pods are reached.
networks() {
    ip link set lo up
    ip link add bridge type bridge
    ip address add "$control/24" dev bridge
    ip link set bridge up
    # The addresses of Services leave by it, too: kube-proxy rewrites them.
    ip route add default dev bridge
    ip route add "$(pods_of 2)" via "$(address_of 2)"
    ip netns add node-2
    ip link add node-2 type veth peer name bridge netns node-2
    ip link set node-2 master bridge up
    local inside=(ip -netns node-2)
    "${inside[@]}" link set lo up
    "${inside[@]}" address add "$(address_of 2)/24" dev bridge
    "${inside[@]}" link set bridge up
    "${inside[@]}" route add default via "$control"
    echo 1 >/proc/sys/net/ipv4/ip_forward
    nsenter --net=/run/netns/node-2 sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# containerd_runs FOLDER NUMBER IMAGE.tar...: with these images and no others; one of them is stand-in-pause.
containerd_runs() {
    local folder=$1 number=$2 tick image
    shift 2
    mkdir -p "$folder"/cni
    # Not the plugin `bridge`: on a bridge, answers go from Pod to Pod past the rules that rewrite the addresses of
    # Services, unless the kernel has br_netfilter.
    cat >"$folder/cni/10-pods.conflist" <<JSON
{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{ "type": "ptp", "ipMasq": false,
    "ipam": { "type": "host-local", "ranges": [[{ "subnet": "$(pods_of "$number")" }]], "routes": [{ "dst": "0.0.0.0/0" }] } }]
}
JSON
    # A machine without CAP_SYS_RESOURCE cannot make a process less likely to be killed for want of memory.
    cat >"$folder/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
[plugins."io.containerd.internal.v1.opt"]
  path = "$folder/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/stand-in-pause:latest"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$folder/cni"
TOML
    start containerd containerd --config "$folder/containerd.toml"
    for ((tick = 0; ; tick++)); do
        "${ctr[@]}" version >/dev/null 2>&1 && break
        ((tick < 150)) || fail "containerd did not come up"
        sleep 0.2
    done
    for image in "$@"; do "${ctr[@]}" images import "$image" >/dev/null; done
}

# node_ready NUMBER: waits until that node exists and is ready.
node_ready() {
    local tick
    for ((tick = 0; ; tick++)); do
        "$kubectl" wait --for=condition=Ready "node/node-$1" --timeout=1s >/dev/null 2>&1 && break
        { ((tick < 120)) && kill -0 "${started[@]}" 2>/dev/null; } || fail "node-$1 did not become ready"
        sleep 0.5
    done
}

# node_runs FOLDER NUMBER CGROUP: what makes Pods of the API server's objects; their control groups lie below CGROUP.
node_runs() {
    local kubelet='' health='' address
    address=$(address_of "$2")
    for name in kubelet health; do free_port "$name"; done
    # Half of this is for machines with the first version of control groups and without CAP_SYS_RESOURCE.
    cat >"$1/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
port: 10250
healthzPort: $kubelet
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: $1/plugins
clusterDNS: [$control]
clusterDomain: cluster.local
resolvConf: ""
cgroupDriver: cgroupfs
cgroupRoot: $3
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
evictionHard: { memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi }
YAML
    start kubelet kubelet --config "$1/kubelet.yaml" --kubeconfig "$KUBECONFIG" --node-ip "$address" \
        --hostname-override "node-$2" --root-dir "$1/kubelet" --cert-dir "$1/kubelet-certs"
    cat >"$1/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: { kubeconfig: "$KUBECONFIG" }
hostnameOverride: node-$2
clusterCIDR: $pods
healthzBindAddress: "127.0.0.1:$health"
conntrack: { maxPerCore: 0, min: 0 }
YAML
    start kube-proxy kube-proxy --config "$1/kube-proxy.yaml"
    node_ready "$2"
    # Of this the policies alone: who may reach which Pod. It must find its node.
    start kube-router kube-router --kubeconfig "$KUBECONFIG" --hostname-override "node-$2" --run-firewall=true \
        --run-router=false --run-service-proxy=false --run-loadbalancer=false --service-cluster-ip-range 10.96.0.0/16
}
