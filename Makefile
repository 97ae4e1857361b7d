# `make demo` and `make test` are all a newcomer needs. Pip's own settings (PIP_INDEX_URL, pip.conf) choose where packages come
# from, and so whether PyTorch comes with or without CUDA.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.installed

.PHONY: demo test lint bench gpu-check kernels kernels-check engines-check soak api-names wheelhouse wheel requirements clean

demo: $(READY)
	$(BIN)/blastscope demo --out demo

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The suite, then every network in turn with its peers, then benchmarks/RESULTS.md: forty minutes on two idle cores, and minutes
# more where the networks or torch.compile's cache are cold. Each piece is kept when it is done: after a break the same command
# goes on with the next one. PACE=short: the shipped bundle alone, in four minutes. BENCH_OUT: another place for what comes out.
PACE ?= normal
BENCH_OUT ?= benchmarks
KEPT = .cache/bench/$(PACE)
LARGE = --network inception_resnet_v2
SUITE = $(BIN)/python -m pytest benchmarks/suite --benchmark-enable --pace $(PACE) -k "not pixels_to_call" $(PYTEST_ARGS)
PIECES_short = parts-shipped shipped
PIECES_normal = parts-shipped shipped-1 shipped-8 parts-large large-1 large-8 large-compiled
BENCH_short = --peers torch --peers onnxruntime --peers openvino --rounds 3 --seconds 0.5 --patience 1
BENCH_normal = --peers all --rounds 4
PIECES = $(PIECES_$(PACE):%=$(KEPT)/%.json)
bench: $(READY) $(PIECES)
	$(BIN)/python -m blastscope.benchmarks.results_page $(PIECES) --out $(BENCH_OUT)
	rm -rf $(KEPT).last && mv $(KEPT) $(KEPT).last

$(KEPT)/parts-shipped.json: | $(READY)
	mkdir -p $(KEPT)
	$(SUITE) --network shipped --benchmark-json=$(KEPT)/parts-shipped.report
	$(BIN)/python -m blastscope.benchmarks.pytest_rows $(KEPT)/parts-shipped.report $@
$(KEPT)/parts-large.json: | $(READY)
	mkdir -p $(KEPT)
	$(SUITE) --ignore=benchmarks/suite/test_frames.py $(LARGE) --benchmark-json=$(KEPT)/parts-large.report
	$(BIN)/python -m blastscope.benchmarks.pytest_rows $(KEPT)/parts-large.report $@
$(KEPT)/shipped.json: | $(READY)
	$(BIN)/blastscope bench --network shipped $(BENCH_$(PACE)) --outside --cascade --keep $@
# long enough for a thousand calls of ours, which 99.9 % need
$(KEPT)/shipped-1.json: | $(READY)
	$(BIN)/blastscope bench --network shipped $(BENCH_$(PACE)) --batch 1 --seconds 5 --outside --cascade --keep $@
$(KEPT)/shipped-8.json: | $(READY)
	$(BIN)/blastscope bench --network shipped $(BENCH_$(PACE)) --batch 8 --seconds 1 --cascade --no-cold --keep $@
$(KEPT)/large-1.json: | $(READY)
	$(BIN)/blastscope bench $(LARGE) --batch 1 --peers torch --peers onnxruntime --peers openvino --rounds 4 --seconds 1.5 \
		--outside --cascade --keep $@
$(KEPT)/large-8.json: | $(READY)
	$(BIN)/blastscope bench $(LARGE) --batch 8 --peers torch --peers onnxruntime --peers openvino --rounds 3 --calls 1 \
		--seconds 1.5 --cascade --no-cold --keep $@
$(KEPT)/large-compiled.json: | $(READY)
	$(BIN)/blastscope bench $(LARGE) --batch 1 --peers torch-compiled --rounds 3 --seconds 1.5 --no-own --no-cold --keep $@

# Checks and measures this machine's GPU with whatever is installed, and needs nothing from the network. GPU_ARGS="--help" for more.
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))
gpu-check:
	$(GPU_PYTHON) -m blastscope.benchmarks.gpu.check $(GPU_ARGS)

# Needs CUDA's nvcc 13.0 or later, and no GPU. The result is committed.
kernels: $(READY)
	$(BIN)/python -m blastscope.runtime.cuda.kernels.compile

# The crop kernels on every real cell, through the host shim; the suite takes a few of them.
kernels-check: $(READY)
	BLASTSCOPE_EVERY_CELL=1 $(BIN)/python -m pytest tests/runtime/cuda/test_kernels.py $(PYTEST_ARGS)

$(READY): requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and 'blastscope needs Python 3.11 to 3.13, not %d.%d: make PYTHON=python3.12 ...' % sys.version_info[:2])"
	@echo "Installing into $(VENV), once: PyTorch, OpenVINO, ONNX Runtime, Qt and what they need, 0.8 GB to download where pip finds a"
	@echo "CPU-only PyTorch (set PIP_EXTRA_INDEX_URL to an index that has one), several GB with CUDA elsewhere."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Every precision for every GPU that TensorRT-RTX names, of Inception-ResNet-v2 with random weights: 19 minutes on two busy cores.
engines-check: $(READY)
	$(BIN)/python -m pytest tests/runtime/backends/check_engines.py $(PYTEST_ARGS)

# 10,000 frames through streams and 100,000 cells through a handle, with errors on the way: memory and threads stay flat.
soak: $(READY)
	$(BIN)/python -m pytest -s tests/runtime/check_soak.py $(PYTEST_ARGS)

# Looks the names of TensorRT's and Triton's interfaces up again, in their wheels.
api-names: $(READY)
	$(BIN)/python tests/runtime/backends/api_names.py
	$(BIN)/python tests/export/triton_schema.py

wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

# What a machine without a network needs: pip install --no-index --find-links wheelhouse blastscope
wheelhouse: wheel
	rm -rf wheelhouse
	mkdir wheelhouse
	$(BIN)/python -m pip wheel --quiet --wheel-dir wheelhouse --constraint requirements.txt dist/blastscope-*.whl
	@du -sh wheelhouse

requirements: $(READY)
	$(BIN)/python -m pip freeze --exclude-editable --all | grep -v '^pip==' | sed 's/+cpu//; s/^tensorrt[-_]rtx.*/&; sys_platform != "darwin"/; s/^\(PySide6\|shiboken6\).*/&; platform_machine != "aarch64"/' > requirements.new
	(sed -n '/^#/p' requirements.txt; cat requirements.new) > requirements.tmp && mv requirements.tmp requirements.txt
	rm requirements.new

clean:
	rm -rf build dist demo wheelhouse *.egg-info
