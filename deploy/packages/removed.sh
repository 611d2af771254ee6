#!/bin/sh
# After a removal. Settings stay until they are purged; the user stays, as its number may own files.
set -e
if [ "$1" = purge ]; then rm -rf /etc/traffic-dam; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
