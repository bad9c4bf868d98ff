#!/usr/bin/env bash
# Asks a model of the pool over ArcNet, by curl alone: ./inference.sh MODEL [JSON] [URL]
set -euo pipefail
model="${1:?usage: inference.sh MODEL [JSON] [URL]}"
input="${2:-null}"
url="${3:-http://127.0.0.1:8080}"
ask() { curl --fail-with-body -sS "$@" && echo; }

ask "$url/api/v1/nodes?status=idle&limit=5" # who could answer
ask "$url/api/v1/inference" -H "Content-Type: application/json" \
    -d "{\"modelId\": \"$model\", \"priority\": \"normal\", \"requesterGeozone\": \"CAISO\", \"input\": $input}"
ask "$url/api/v1/stats" # what was dispatched, completed and rejected, and how fast
