# `make demo` and `make test` are all a newcomer needs. Pip's own settings (PIP_INDEX_URL, pip.conf) choose where packages come
# from, and so whether PyTorch comes with or without CUDA. The demo installs what it needs, everything else adds the rest.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.installed
READY_DEMO = $(VENV)/.installed-demo

.PHONY: demo test lint bench gpu-check kernels kernels-check engines-check soak fuzz break api-names wheelhouse wheel lock sbom platforms clean \
    triton-check serve-bench native native-java native-csharp native-package native-bench native-bare native-check native-fuzz

demo: $(READY_DEMO)
	$(BIN)/blastscope demo --out demo

# One process a core, up to four. SHARDS=0 takes this one alone, as a debugger wants it. Compiled modules are kept, whatever the
# environment says: else each of the many processes that tests start would compile all that it imports.
SHARDS ?= logical
test: $(READY)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(SHARDS) --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The suite, then every network interleaved with its baselines, then benchmarks/RESULTS.md: forty minutes on two idle cores, and
# minutes more where the networks or torch.compile's cache are cold. The result of each part is cached: after an interruption the
# same command goes on with the next part. PACE=short: the shipped bundle alone, in four minutes. BENCH_OUT: another output folder.
PACE ?= normal
BENCH_OUT ?= benchmarks
BENCH_CACHE = .cache/bench/$(PACE)
LARGE = --network inception_resnet_v2
SUITE = $(BIN)/python -m pytest benchmarks/suite --benchmark-enable --pace $(PACE) -k "not pixels_to_label" $(PYTEST_ARGS)
PARTS_short = parts-shipped shipped
PARTS_normal = parts-shipped shipped-1 shipped-8 parts-large large-1 large-8 large-compiled
BENCH_short = --framework torch --framework onnxruntime --framework openvino --rounds 3 --seconds 0.5 --idle-timeout 1
BENCH_normal = --framework all --rounds 4
BENCH_BESIDE = $(wildcard $(BENCH_CACHE)/native.json $(BENCH_CACHE)/served.json)
BENCH_RESULTS = $(PARTS_$(PACE):%=$(BENCH_CACHE)/%.json)
bench: $(READY) $(BENCH_RESULTS)
	$(BIN)/python -m blastscope.benchmarks.results_page $(BENCH_RESULTS) $(BENCH_BESIDE) --out $(BENCH_OUT)
	rm -rf $(BENCH_CACHE).last && mv $(BENCH_CACHE) $(BENCH_CACHE).last

$(BENCH_CACHE)/parts-shipped.json: | $(READY)
	mkdir -p $(BENCH_CACHE)
	$(SUITE) --network shipped --benchmark-json=$(BENCH_CACHE)/parts-shipped.report
	$(BIN)/python -m blastscope.benchmarks.pytest_rows $(BENCH_CACHE)/parts-shipped.report $@
$(BENCH_CACHE)/parts-large.json: | $(READY)
	mkdir -p $(BENCH_CACHE)
	$(SUITE) --ignore=benchmarks/suite/test_frames.py $(LARGE) --benchmark-json=$(BENCH_CACHE)/parts-large.report
	$(BIN)/python -m blastscope.benchmarks.pytest_rows $(BENCH_CACHE)/parts-large.report $@
$(BENCH_CACHE)/shipped.json: | $(READY)
	$(BIN)/blastscope bench --network shipped $(BENCH_$(PACE)) --benchmark-app --cascade --output $@
# long enough for a thousand calls of ours, which 99.9 % need
$(BENCH_CACHE)/shipped-1.json: | $(READY)
	$(BIN)/blastscope bench --network shipped $(BENCH_$(PACE)) --batch 1 --seconds 5 --benchmark-app --cascade --output $@
$(BENCH_CACHE)/shipped-8.json: | $(READY)
	$(BIN)/blastscope bench --network shipped $(BENCH_$(PACE)) --batch 8 --seconds 1 --cascade --no-cold-start --output $@
$(BENCH_CACHE)/large-1.json: | $(READY)
	$(BIN)/blastscope bench $(LARGE) --batch 1 --framework torch --framework onnxruntime --framework openvino --rounds 4 --seconds 1.5 \
		--benchmark-app --cascade --output $@
$(BENCH_CACHE)/large-8.json: | $(READY)
	$(BIN)/blastscope bench $(LARGE) --batch 8 --framework torch --framework onnxruntime --framework openvino --rounds 3 --calls 1 \
		--seconds 1.5 --cascade --no-cold-start --output $@
$(BENCH_CACHE)/large-compiled.json: | $(READY)
	$(BIN)/blastscope bench $(LARGE) --batch 1 --framework torch-compiled --rounds 3 --seconds 1.5 --no-runtime --no-cold-start --output $@

# Checks and measures this machine's GPU with whatever is installed, and needs nothing from the network. GPU_ARGS="--help" for more.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))
gpu-check:
	$(GPU_PYTHON) -m blastscope.benchmarks.gpu.check $(GPU_ARGS)

# Needs CUDA's nvcc 13.0 or later, and no GPU. The result is committed.
kernels: $(READY)
	$(BIN)/python -m blastscope.runtime.cuda.kernels.fatbin

# The crop kernels on every real cell, through the host shim; the suite takes a few of them.
kernels-check: $(READY)
	BLASTSCOPE_EVERY_CELL=1 $(BIN)/python -m pytest tests/runtime/cuda/test_kernels.py $(PYTEST_ARGS)

$(READY_DEMO): requirements/demo.txt requirements/torch.txt requirements/install.py pyproject.toml setup.py
	$(PYTHON) requirements/install.py demo --venv $(VENV)
	@touch $@

$(READY): requirements.txt requirements/torch.txt requirements/install.py pyproject.toml setup.py
	$(PYTHON) requirements/install.py test --venv $(VENV)
	@touch $(READY_DEMO) $@

# Every precision for every GPU that TensorRT-RTX names, of Inception-ResNet-v2 with random weights: 19 minutes on two busy cores.
engines-check: $(READY)
	$(BIN)/python -m pytest tests/runtime/backends/check_engines.py $(PYTEST_ARGS)

# 10,000 frames through streams and 100,000 cells through a handle, with errors on the way: memory and threads stay flat.
soak: $(READY)
	$(BIN)/python -m pytest -s tests/runtime/check_soak.py $(PYTEST_ARGS)

# libblastscope (runtime/native/README.md): a library for C and C++, a folder with all that it needs, its longer checks, its fuzzers.
NATIVE = .cache/native
OPENVINO = $$($(BIN)/python -c 'import openvino; print(openvino.__path__[0])')
native: $(READY)
	cmake -S runtime/native -B $(NATIVE) -DOpenVINO_DIR="$(OPENVINO)/cmake" > /dev/null
	cmake --build $(NATIVE) --parallel "$$(nproc)" --target blastscope

# The classes over it: blastscope.jar and ImageJ's Blastscope_.jar, with a JDK; Blastscope.dll, with Mono's compiler.
native-java:
	runtime/native/java/build.sh $(NATIVE)-java

native-csharp:
	runtime/native/csharp/build.sh $(NATIVE)-csharp

native-package: native
	mkdir -p dist
	cmake -S runtime/native -B $(NATIVE) -DBLASTSCOPE_EXAMPLES=ON > /dev/null
	cmake --build $(NATIVE) --parallel "$$(nproc)"
	runtime/native/packaging/package.sh $(NATIVE) "$(OPENVINO)" blastscope/shipped dist/libblastscope
	runtime/native/packaging/bindings.sh dist/libblastscope

# libblastscope and the Python runtime in turn: image to label, process start to first label, peak memory; a section of RESULTS.md.
# Exits 1 beyond the limits.
native-bench: native
	mkdir -p $(BENCH_CACHE)
	$(BIN)/blastscope bench --network shipped --baseline none --batch 1 --layout fused --rounds 40 --seconds 0.5 --idle-timeout 1 \
		--native $(NATIVE)/libblastscope.so --output $(BENCH_CACHE)/native.json
	$(BIN)/python -m blastscope.benchmarks.results_page $(BENCH_CACHE)/native.json --add --out $(BENCH_OUT)
	$(BIN)/python -m blastscope.benchmarks.native $(BENCH_CACHE)/native.json

# The package in a Debian that debootstrap makes, without Python. Needs root.
native-bare: native-package
	$(BIN)/python -m pytest -s tests/native/check_package.py $(PYTEST_ARGS)

native-check: $(READY)
	BLASTSCOPE_EVERY_CELL=1 $(BIN)/python -m pytest -s tests/native tests/native/check_native.py $(PYTEST_ARGS)

native-fuzz: $(READY)
	tests/native/fuzz.sh "$(OPENVINO)/cmake" blastscope/shipped

# Mutated images, slides, bundles, settings, tables and requests through every reader, first as chance has it, then as atheris chooses
# them, where it is installed (pip install atheris; it has no wheel for every Python): no crash, no hang, no untyped error.
FUZZ_SECONDS ?= 3600
FUZZ = PYTHONPATH=tests/support $(BIN)/python -m fuzzing --out .cache/fuzz
fuzz: $(READY)
	$(FUZZ) --seconds $$(($(FUZZ_SECONDS) / 2))
	if $(BIN)/python -c "import atheris" 2> /dev/null; then $(FUZZ)/guided --seconds $$(($(FUZZ_SECONDS) / 2)) --coverage; \
		else $(FUZZ) --seconds $$(($(FUZZ_SECONDS) / 2)) --seed 1; fi

# Kills train, export, calibrate, pack, unpack, build, the first opening and the cache of crops at random moments, and as root fills
# their disks at one write after the other: what stood before is whole, or what comes is; the next attempt gives what an undisturbed
# one does, and no temporary file and no lock stays.
BREAK_ARGS ?= --kills 200 $(if $(filter 0,$(shell id -u)),--fills 12)
break: $(READY)
	PYTHONPATH=tests/support $(BIN)/python -m breaking --out .cache/breaking $(BREAK_ARGS)

# Calls through `blastscope serve`, from eight clients, beside `classify_many`; a section of RESULTS.md.
SERVE_DATA ?= $(or $(BLASTSCOPE_DATA),../shared/data)
serve-bench: $(READY)
	mkdir -p $(BENCH_CACHE)
	$(BIN)/python -m blastscope.benchmarks.serve $(SERVE_DATA)/cnmc --output $(BENCH_CACHE)/served.json $(SERVE_ARGS)
	$(BIN)/python -m blastscope.benchmarks.results_page $(BENCH_CACHE)/served.json --add --out $(BENCH_OUT)

# Asks a real Triton Inference Server, from PyPI, for the models of `export --triton`, beside `blastscope serve`.
triton-check: $(READY)
	$(BIN)/python tests/export/check_triton.py $(TRITON_ARGS)

# Looks the names of TensorRT's and Triton's interfaces up again, in their wheels.
api-names: $(READY)
	$(BIN)/python tests/runtime/backends/api_names.py
	$(BIN)/python tests/export/triton_schema.py

wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

# For a machine without a network, of this one's kind and Python. There, in the folder that the wheelhouse was copied to:
# pip install --no-index --find-links wheelhouse --require-hashes -r wheelhouse/requirements.txt
wheelhouse: wheel
	rm -rf wheelhouse
	$(BIN)/python requirements/wheels.py collect dist wheelhouse
	@du -sh wheelhouse

# Chooses the pins and their hashes anew: LOCK_ARGS=--upgrade takes the newest of each. Needs uv, which asks PyPI.
LOCK_ARGS ?=
lock:
	$(PYTHON) requirements/lock.py $(LOCK_ARGS)

# What a release is made of, as CycloneDX: dist/blastscope-VERSION.cdx.json, from the installed packages that base.txt pins.
sbom: $(READY)
	$(BIN)/python requirements/sbom.py dist

# Whether every kind of machine has wheels of what the runtime needs. Needs uv, which asks PyPI.
platforms:
	$(PYTHON) requirements/wheels.py check

clean:
	rm -rf build dist demo wheelhouse *.egg-info
