#!/bin/sh
# Run by the service `settings`: copies settings from the clone into volumes, each readable to the user who needs it.
set -eu
umask 077
from=/from/compose to=/to

# put USER FOLDER FILE...: the volume FOLDER holds exactly these files, and only USER reads them. A file is replaced by a
# rename, so nobody reads half of one; a gateway takes the new one by itself.
put() {
    user=$1 folder=$to/$2
    shift 2
    mkdir -p "$folder"
    chmod 755 "$folder"
    for file in "$@"; do
        new=$folder/.$(basename "$file").new
        cp "$file" "$new"
        chown "$user:$user" "$new"
        chmod 400 "$new"
        mv -f "$new" "$folder/$(basename "$file")"
    done
}

made=$(mktemp -d)
[ -f "$from/tls/cert.pem" ] || { echo "there is no tls/cert.pem: run deploy/compose/prepare" >&2; exit 1; }
cat "$from/tls/cert.pem" "$from/tls/key.pem" >"$made/tls.pem"
put 99 balancer "$from/balancer/haproxy.cfg" "$made/tls.pem"
put 65532 gateway "$from/gateway"/*.yaml

# An ACL file has no variables, so passwords are put in as digests.
digest() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
sed -e "s/@GATEWAY@/$(digest "$REDIS_GATEWAY_PASSWORD")/" -e "s/@WORKER@/$(digest "$REDIS_WORKER_PASSWORD")/" \
    -e "s/@OPERATOR@/$(digest "$REDIS_OPERATOR_PASSWORD")/" "$from/redis/users.acl" >"$made/users.acl"
# What counts is shared with tests, which know no users.
{ cat /from/redis/redis.conf && printf 'bind * -::*\naclfile /etc/redis/users.acl\n'; } >"$made/redis.conf"
put 999 redis "$made/redis.conf" "$from/redis/durable.conf" "$made/users.acl"

put 65534 prometheus /from/prometheus/*.yml
# A URL may have any letters: those that mean something to `sub` are escaped.
awk 'BEGIN { page = ENVIRON["ALERT_WEBHOOK"]; alive = ENVIRON["WATCHDOG_WEBHOOK"]; gsub(/[\\&]/, "\\\\&", page); gsub(/[\\&]/, "\\\\&", alive) }
    page { sub("http://alert-webhook[.]invalid/", page) }
    alive { sub("http://watchdog-webhook[.]invalid/", alive) }
    { print }' "$from/alertmanager/alertmanager.yml" >"$made/alertmanager.yml"
put 65534 alertmanager "$made/alertmanager.yml"

put 10001 loki "$from/loki/loki.yaml"
put 0 collector "$from/collector/collector.yaml"

# Grafana runs as 472.
rm -rf "$to/grafana/provisioning"
cp -r /from/grafana/provisioning /from/grafana/dashboard.json /from/grafana/logs.json "$to/grafana/"
chown -R 472:472 "$to/grafana"
chmod -R u=rX,go= "$to/grafana"
rm -rf "$made"
[ "${ALERT_WEBHOOK:-}" ] && [ "${WATCHDOG_WEBHOOK:-}" ] ||
    echo "settings: ALERT_WEBHOOK or WATCHDOG_WEBHOOK is empty in .env: with the profile full, alerts reach nobody" >&2
echo "settings: copied"
