#!/usr/bin/env bash
# Classifies the pixels of one image with the Open Inference Protocol over HTTP: examples/shell/infer.sh [ADDRESS]
#
# The server needs a port for HTTP: digits-serve --http-port 8000. The protocol takes no image files, so a Python with
# Pillow, such as that of `make run`, reads the pixels. Prints the answer, which is JSON.
set -euo pipefail
address=${1:-127.0.0.1:8000}

pixels=$(python -c 'from PIL import Image; print(list(Image.open("serving/samples/7.png").convert("L").tobytes()))')
curl --silent --show-error --fail-with-body --max-time 10 --retry 3 --retry-max-time 10 \
  "http://$address/v2/models/mnist_convnet/infer" --header "Content-Type: application/json" --data @- <<JSON
{
  "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": $pixels}],
  "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}]
}
JSON
echo
