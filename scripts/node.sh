# shellcheck shell=bash
# A Kubernetes node beside the API server of cluster.sh: containerd, kubelet, kube-proxy, scheduler and controller manager,
# all of them real. Sourced after lib.sh and cluster.sh, as root, in namespaces of its own for mounts, network and
# processes (scripts/kubernetes-node makes them): outside of these nothing is seen of it, but for control groups.
# shellcheck disable=SC2154 # lib.sh says where the tools are

node_address=10.77.0.1
pods=10.244.0.0/24
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

# own_network: the address of the node, and a way for the addresses of Services to leave by, which kube-proxy rewrites.
own_network() {
    ip link set lo up
    ip link add node type bridge
    ip address add "$node_address/24" dev node
    ip link set node up
    ip route add default dev node
    echo 1 >/proc/sys/net/ipv4/ip_forward
}

# containerd_runs FOLDER IMAGE.tar...: with these images and no others; one of them is stand-in-pause.
containerd_runs() {
    local folder=$1 tick image
    shift
    mkdir -p "$folder"/cni
    # Not the plugin `bridge`: on a bridge, answers go from Pod to Pod past the rules that rewrite the addresses of
    # Services, unless the kernel has br_netfilter.
    cat >"$folder/cni/10-pods.conflist" <<JSON
{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{ "type": "ptp", "ipMasq": false,
    "ipam": { "type": "host-local", "ranges": [[{ "subnet": "$pods" }]], "routes": [{ "dst": "0.0.0.0/0" }] } }]
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

# node_runs FOLDER CGROUP: what makes Pods of the API server's objects; their control groups lie below CGROUP.
node_runs() {
    local manager='' scheduler='' kubelet='' health=''
    for name in manager scheduler kubelet health; do free_port "$name"; done
    start kube-controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false \
        --bind-address 127.0.0.1 --secure-port "$manager" --service-account-private-key-file "$1/sa.key" \
        --root-ca-file "$1/certs/apiserver.crt"
    start kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --bind-address 127.0.0.1 \
        --secure-port "$scheduler"
    # Half of this is for machines with the first version of control groups and without CAP_SYS_RESOURCE.
    cat >"$1/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $node_address
port: 10250
healthzPort: $kubelet
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: $1/plugins
resolvConf: ""
cgroupDriver: cgroupfs
cgroupRoot: $2
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
evictionHard: { memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi }
YAML
    start kubelet kubelet --config "$1/kubelet.yaml" --kubeconfig "$KUBECONFIG" --node-ip "$node_address" \
        --hostname-override node --root-dir "$1/kubelet" --cert-dir "$1/kubelet-certs"
    cat >"$1/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: { kubeconfig: "$KUBECONFIG" }
hostnameOverride: node
clusterCIDR: $pods
healthzBindAddress: "127.0.0.1:$health"
conntrack: { maxPerCore: 0, min: 0 }
YAML
    start kube-proxy kube-proxy --config "$1/kube-proxy.yaml"
    local tick
    for ((tick = 0; ; tick++)); do
        "$kubectl" wait --for=condition=Ready node/node --timeout=1s >/dev/null 2>&1 && break
        { ((tick < 90)) && kill -0 "${started[@]}" 2>/dev/null; } || fail "the node did not become ready"
        sleep 0.5
    done
}
