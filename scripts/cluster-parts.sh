# shellcheck shell=bash
# What a cluster has once, besides the API server of cluster.sh and the nodes of node.sh: a controller manager and a
# scheduler, CoreDNS, a metrics-server, Prometheus, and Traefik for Ingress and Gateway API. All of them are real; each
# runs as a process at the address of the control plane, where it would be in Pods elsewhere. Sourced after these two.
# shellcheck disable=SC2154 # these say where the cluster is

# planes_run FOLDER: what a cluster has once, besides the API server.
planes_run() {
    local manager='' scheduler=''
    for name in manager scheduler; do free_port "$name"; done
    start kube-controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false \
        --bind-address 127.0.0.1 --secure-port "$manager" --service-account-private-key-file "$1/sa.key" \
        --root-ca-file "$1/certs/apiserver.crt"
    start kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --bind-address 127.0.0.1 \
        --secure-port "$scheduler"
}

# names_run FOLDER: CoreDNS with the settings that kubeadm gives it, but for the health checks.
names_run() {
    cat >"$1/Corefile" <<COREFILE
.:53 {
    bind $control
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $KUBECONFIG
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loadbalance
}
COREFILE
    start coredns coredns -conf "$1/Corefile"
    # Whoever is on this node asks it, too.
    echo "nameserver $control" >"$1/resolv.conf"
    mount --bind "$1/resolv.conf" /etc/resolv.conf
}

# aggregation FOLDER: sets `aggregation` to options for an API server that lets others answer for a group of resources.
aggregation() {
    openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=front -keyout "$1/front.key" -out "$1/front.crt" 2>/dev/null
    # shellcheck disable=SC2034 # for the caller
    aggregation=(--requestheader-client-ca-file="$1/front.crt" --proxy-client-cert-file="$1/front.crt"
        --proxy-client-key-file="$1/front.key" --requestheader-extra-headers-prefix=X-Remote-Extra-
        --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User
        --enable-aggregator-routing=true)
}

# answers_for_metrics PORT: the API server has metrics.k8s.io from whoever listens at PORT.
answers_for_metrics() {
    "$kubectl" apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: { name: metrics-server, namespace: kube-system }
spec: { ports: [{ name: https, port: 443, targetPort: $1 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: metrics-server, namespace: kube-system, labels: { kubernetes.io/service-name: metrics-server } }
addressType: IPv4
ports: [{ name: https, port: $1, protocol: TCP }]
endpoints: [{ addresses: [$control], conditions: { ready: true } }]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: { name: v1beta1.metrics.k8s.io }
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: { name: metrics-server, namespace: kube-system }
YAML
    "$kubectl" wait --for=condition=Available apiservice/v1beta1.metrics.k8s.io --timeout=60s >/dev/null ||
        fail "nobody answers for metrics.k8s.io"
}

# metrics_run FOLDER: the metrics-server, by which an HPA knows how busy Pods are.
metrics_run() {
    local port=''
    free_port port
    start metrics-server metrics-server --kubeconfig "$KUBECONFIG" --authentication-kubeconfig "$KUBECONFIG" \
        --authorization-kubeconfig "$KUBECONFIG" --secure-port "$port" --cert-dir "$1/metrics-certs" \
        --kubelet-insecure-tls --kubelet-preferred-address-types InternalIP --metric-resolution 15s
    answers_for_metrics "$port"
}

# prometheus_runs FOLDER TOKEN: at port 9090, with the gateways as targets. Debian's knows no Kubernetes, but DNS.
prometheus_runs() {
    cat >"$1/prometheus.yml" <<YAML
global: { scrape_interval: 2s }
scrape_configs:
  - job_name: traffic-dam
    authorization: { credentials: $2 }
    dns_sd_configs: [{ names: [llm-traffic-dam-metrics.llm.svc.cluster.local], type: A, port: 8081, refresh_interval: 2s }]
YAML
    start prometheus prometheus --config.file "$1/prometheus.yml" --storage.tsdb.path "$1/prometheus" \
        --web.listen-address "$control:9090"
    export PROMETHEUS=http://$control:9090
}

# traefik_runs: serves Ingresses of the class `traefik` and HTTPRoutes of the Gateway `traefik` at port 8000.
traefik_runs() {
    "$kubectl" apply --server-side -f "$tools/kubernetes-crds" >/dev/null
    "$kubectl" wait --for=condition=Established crd --all --timeout=60s >/dev/null
    start traefik "$tools/balancers/bin/traefik" --entrypoints.web.address="$control:8000" --log.level=INFO \
        --global.checknewversion=false --global.sendanonymoususage=false \
        --providers.kubernetesingress=true --providers.kubernetesgateway=true
    "$kubectl" apply -f - >/dev/null <<YAML
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: { name: traefik }
spec: { controller: traefik.io/ingress-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: traefik }
spec: { controllerName: traefik.io/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: traefik, namespace: llm }
spec:
  gatewayClassName: traefik
  listeners: [{ name: web, protocol: HTTP, port: 8000 }]
YAML
}
