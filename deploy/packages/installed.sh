#!/bin/sh
# After an installation ($1 is `configure` for a deb, 1 for an rpm) or an upgrade (`configure VERSION`, 2).
set -e
if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers traffic-dam.conf
elif ! getent passwd traffic-dam >/dev/null; then
    useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin traffic-dam
fi
chown root:traffic-dam /etc/traffic-dam /etc/traffic-dam/dam.yaml
chmod 0750 /etc/traffic-dam
chmod 0640 /etc/traffic-dam/dam.yaml
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
# A gateway that runs is replaced, unless it could not start with its settings.
if systemctl --quiet is-active traffic-dam.service; then
    # shellcheck disable=SC1091 # the machine's own
    if (set -a && [ ! -e /etc/traffic-dam/environment ] || . /etc/traffic-dam/environment &&
        traffic-dam check --quiet --config /etc/traffic-dam/dam.yaml); then
        systemctl restart traffic-dam.service
    else
        echo "traffic-dam: the new version refuses these settings, so the old one runs on; mend them, then restart it" >&2
    fi
elif [ "$1" = 1 ] || [ "$1 $2" = "configure " ]; then
    echo "traffic-dam: edit /etc/traffic-dam/dam.yaml, then: systemctl enable --now traffic-dam"
fi
