#!/usr/bin/env bash
# Runs a program on the pool, by curl alone: ./program.sh [URL]
# Where the gateway asks for a key, give it to each call: -H "Authorization: Bearer $ARCRAY_API_KEY"
set -euo pipefail
url="${1:-http://127.0.0.1:8080}"

work="$(curl --fail-with-body -sS "$url/api/v1/workloads" \
    -H "Content-Type: application/json" -H "Idempotency-Key: $RANDOM-$$" \
    -d '{"kind": "program", "source": "print(6 * 7)", "name": "answer", "demand": {"cpu": 0.5}}' \
    -o /dev/null -w "%header{location}")"

curl --fail-with-body -sSN "$url$work/logs?follow=true" # goes on until the program ends
curl --fail-with-body -sS "$url$work"                   # what became of it
echo
