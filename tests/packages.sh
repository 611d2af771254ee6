#!/usr/bin/env bash
# Run by scripts/packages inside a container with systemd: packages.sh deb|rpm. The packages are in /box/first and /box/next.
set -euo pipefail
kind=$1

fail() {
    echo "$kind, line ${BASH_LINENO[*]}: $*" >&2
    exit 1
}
install() {
    case $kind in
    deb) dpkg -i --force-confdef --force-confold /box/"$1"/*.deb ;;
    rpm) rpm -U --nodeps --force /box/"$1"/*.rpm ;;
    esac >/tmp/said 2>&1 || { cat /tmp/said >&2; fail "the package $1 cannot be installed"; }
}
status() { curl -s -o /dev/null -w '%{http_code}' --max-time 10 "$@" || true; }
asked() {
    status http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
        -d '{"messages":[{"role":"user","content":"hello"}],"max_tokens":4}'
}
pid() { systemctl show -P MainPID traffic-dam; }
until_is() {
    local wanted=$1 have try
    shift
    for try in {1..100}; do
        have=$("$@")
        [[ $have == "$wanted" ]] && return
        sleep 0.1
    done
    fail "$* gave $have for 10 s, and $wanted is right (try $try)"
}

mkdir -p /etc/systemd/system/traffic-dam{,-agent@}.service.d
printf '[Service]\nLimitNOFILE=%s\n' "$NOFILE" | tee /etc/systemd/system/traffic-dam{,-agent@}.service.d/here.conf >/dev/null
install first
grep -q 'systemctl enable --now' /tmp/said || fail "the package does not say how to go on"
[[ $(systemctl is-active traffic-dam) == inactive ]] || fail "it starts before anybody has edited its settings"
[[ $(stat -c '%U:%G %a' /etc/traffic-dam/dam.yaml) == "root:traffic-dam 640" ]] || fail "dam.yaml: $(stat -c '%U:%G %a' /etc/traffic-dam/dam.yaml)"
# A worker in a unit of its own, with the drop-in that brings its agent; Redis for what the agent says.
cat >/etc/systemd/system/sim.service <<'UNIT'
[Service]
User=traffic-dam
ExecStart=/usr/bin/traffic-dam worker --listen 127.0.0.1:8000 --slots 8
UNIT
redis-server --port 6379 --save '' --daemonize yes >/dev/null
echo 'DAM_REDIS_KEY=a-key-of-many-letters-and-digits' >/etc/traffic-dam/environment
printf '%s\n' TRAFFIC_DAM_REDIS_URL=redis://127.0.0.1:6379 TRAFFIC_DAM_REDIS_KEY=a-key-of-many-letters-and-digits \
    'AGENT="--worker http://127.0.0.1:8000 --id sim --slots 8 --max-load 0"' >/etc/traffic-dam/agent-sim.environment
chmod 600 /etc/traffic-dam/*environment
mkdir -p /etc/systemd/system/sim.service.d
cp /usr/share/traffic-dam/worker.service.d/traffic-dam-agent.conf /etc/systemd/system/sim.service.d
systemctl daemon-reload
systemctl start sim
systemctl enable --now --quiet traffic-dam
# `start` came back, so it listens.
[[ $(status http://127.0.0.1:8081/healthz) == 200 ]] || fail "it was started and does not listen"
until_is 200 asked
[[ $(systemctl show -P WatchdogUSec traffic-dam) == 30s ]] || fail "no watchdog"
[[ $(ps -o user= -p "$(pid)") == traffic* ]] || fail "it runs as $(ps -o user= -p "$(pid)")"
for unit in traffic-dam traffic-dam-agent@sim; do
    systemd-analyze security --no-pager --threshold=20 "$unit" >/tmp/security || fail "$(tail -n 1 /tmp/security)"
done
grep -q NoNewPrivs:.1 "/proc/$(pid)/status" || fail "it may gain rights"
grep -q '^CapBnd:.0*$' "/proc/$(pid)/status" || fail "it has capabilities"

# Reloaded: good settings count, bad ones change nothing and are named. The agent's worker is found by its heartbeats.
cat >/etc/traffic-dam/dam.yaml <<'YAML'
listen: 127.0.0.1:8080
admin: { listen: "127.0.0.1:8081" }
workers: { discovery: redis, allow: [127.0.0.1] }
redis: { url: "redis://127.0.0.1:6379", hmac_key: "${DAM_REDIS_KEY}" }
drain: { delay: 0s, timeout: 5s }
YAML
first=$(pid)
systemctl reload traffic-dam
until_is 1 bash -c "curl -s http://127.0.0.1:8081/api/v1/state | grep -c '\"sim\"' || true"
until_is 200 asked
edited=$(sha256sum </etc/traffic-dam/dam.yaml)
echo 'gateways: many' >>/etc/traffic-dam/dam.yaml
if systemctl reload traffic-dam 2>/dev/null; then fail "settings at fault were taken"; fi
journalctl -u traffic-dam --no-pager | grep -q 'gateways: must be' || fail "the fault is not named in the journal"
[[ $(pid) == "$first" && $(asked) == 200 ]] || fail "a reload with a fault disturbed it"
sed -i '$d' /etc/traffic-dam/dam.yaml

# Killed, it comes back; the worker and its agent stop together.
kill -KILL "$(pid)"
until_is 200 asked
systemctl stop sim
[[ $(systemctl is-active traffic-dam-agent@sim) != active ]] || until_is inactive systemctl is-active traffic-dam-agent@sim
systemctl start sim

# With its socket unit a restart refuses nobody, and takes as long as its last request.
systemctl stop traffic-dam
systemctl start traffic-dam.socket
systemctl start traffic-dam
until_is 200 asked
(while [[ ! -e /tmp/restarted ]]; do asked; echo; done >/tmp/codes) &
asking=$!
# By hand as well, it may be started five times a minute; some of them were used up above.
systemctl reset-failed traffic-dam
for _ in 1 2 3; do systemctl restart traffic-dam; done
touch /tmp/restarted
wait "$asking"
[[ $(sort -u /tmp/codes) == 200 ]] || fail "asked during restarts: $(sort /tmp/codes | uniq -c | tr '\n' ' ')"
echo "$kind: $(wc -l </tmp/codes) requests during three restarts, all 200"
systemctl stop traffic-dam.socket traffic-dam
systemctl start traffic-dam
until_is 200 asked

# Upgraded: the edited settings stay, the new ones lie beside them, and the new version runs.
before=$(pid)
install next
[[ $(sha256sum </etc/traffic-dam/dam.yaml) == "$edited" ]] || fail "the upgrade changed the edited settings"
[[ -f /etc/traffic-dam/dam.yaml.dpkg-dist || -f /etc/traffic-dam/dam.yaml.rpmnew ]] || fail "the new settings are not laid beside"
[[ $(pid) != "$before" ]] || fail "the old version runs on"
until_is 200 asked
before=$(pid)
# With settings that the new version refuses, the old one runs on.
echo 'gateways: many' >>/etc/traffic-dam/dam.yaml
install next
grep -q 'refuses these settings' /tmp/said || fail "the upgrade says nothing of refused settings"
[[ $(pid) == "$before" && $(asked) == 200 ]] || fail "the upgrade ended a gateway that it cannot start again"

case $kind in
deb) dpkg -r traffic-dam ;;
rpm) rpm -e traffic-dam ;;
esac >/tmp/said 2>&1 || { cat /tmp/said >&2; fail "it cannot be removed"; }
[[ ! -e /usr/bin/traffic-dam && $(asked) != 200 ]] || fail "it is removed and still serves"
[[ $(systemctl show -P LoadState traffic-dam) != loaded || ! -e /usr/lib/systemd/system/traffic-dam.service ]] || fail "its unit is left"
[[ -f /etc/traffic-dam/dam.yaml || -f /etc/traffic-dam/dam.yaml.rpmsave ]] || fail "edited settings were removed"
if [[ $kind == deb ]]; then
    dpkg -P traffic-dam >/dev/null 2>&1
    [[ ! -e /etc/traffic-dam ]] || fail "a purge leaves settings"
fi
echo "$kind: installed, started (200), reloaded, killed and back, agent beside its worker, upgraded with edited settings kept, removed"
