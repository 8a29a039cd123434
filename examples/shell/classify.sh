#!/usr/bin/env bash
# Classifies image files over HTTP: examples/shell/classify.sh [ADDRESS]
#
# The server needs a port for HTTP: digits-serve --http-port 8000. Prints its answer, which is JSON.
set -euo pipefail
address=${1:-127.0.0.1:8000}

files=()
for path in serving/samples/*.png; do
  files+=(--form "file=@$path")
done

# 429 and 503 are worth another try, and say in Retry-After when. An answer that is an error is printed, and fails.
curl --silent --show-error --fail-with-body --max-time 10 --retry 3 --retry-max-time 10 \
  "http://$address/v1/classify?top_k=1" "${files[@]}"
echo
