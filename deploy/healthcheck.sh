#!/bin/bash
# Requests a path, /healthz by default, from the daemon of this container, and succeeds only if the status is 200. Bash opens
# the connection itself: the image has no curl.
#   healthcheck [PATH [PORT]]
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/${2:-9464}"
printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "${1:-/healthz}" "${2:-9464}" >&3
read -r _ status _ <&3
[[ $status == 200 ]]
