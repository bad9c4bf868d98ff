#!/usr/bin/env bash
# Shows who lends what to a Resource Pool, by curl alone: ./devices.sh [URL]
set -euo pipefail
url="${1:-http://127.0.0.1:3000}"

for path in / /api/devices /api/resources /api/stats; do
    curl --fail-with-body -sS "$url$path"
    echo
done
