#!/bin/sh
# Before a removal ($1 is `remove` for a deb, 0 for an rpm); an upgrade (`upgrade`, 1) leaves the gateway running.
set -e
case $1 in
remove | 0) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
systemctl disable --now traffic-dam.socket traffic-dam.service 'traffic-dam-agent@*.service' 2>/dev/null ||
    systemctl stop traffic-dam.socket traffic-dam.service || true
