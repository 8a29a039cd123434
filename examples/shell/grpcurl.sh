#!/usr/bin/env bash
# Finds the services through reflection and classifies image files: examples/shell/grpcurl.sh [ADDRESS]
#
# Needs grpcurl and no interface file. Prints the answer as JSON.
set -euo pipefail
address=${1:-127.0.0.1:50051}

grpcurl -plaintext -max-time 10 "$address" list
images=$(for path in serving/samples/*.png; do printf '"%s",' "$(base64 --wrap=0 "$path")"; done)
grpcurl -plaintext -max-time 10 -d @ "$address" digits.v1.DigitClassifierService/Classify <<JSON
{"encoded_images": {"images": [${images%,}]}}
JSON
