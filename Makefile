# Two commands need nothing but Python >= 3.11 and make:
#   make demo   the main job on real input
#   make test   the tests
# More of them: CONTRIBUTING.md.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2

.PHONY: demo compile test test-slow test-kernels test-min test-latest bench \
	bench-quick bench-gpu docs \
	serve-docs lint format clean

# A stamp for each set of extras: the second call installs nothing.
$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.%: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# Whether programs have the kernels of C++, or why not.
SHOW := $(BIN)/python -c "import implicit_eig; implicit_eig.show_config()" | grep kernels

demo: $(VENV)/.plot
	@$(SHOW)
	$(BIN)/python docs/examples/quickstart.py

# Compiles them again, where a C++ file of implicit_eig/_kernels/ was changed.
compile: $(VENV)/.test
	$(BIN)/python implicit_eig/_kernels/build.py
	@$(SHOW)

# A file a worker: its tests share what is compiled.
test: $(VENV)/.test
	@$(SHOW)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

# LAPACK's order, signs and last bits are those of the processor's kernels in SciPy's
# OpenBLAS, whose LAPACK JAX calls too. Each of these needs a processor that has its
# instructions.
KERNELS := Haswell Zen SkylakeX Nehalem
LAPACK  := derivatives/test_attach derivatives/test_control_flow \
	derivatives/test_covariance derivatives/test_defective derivatives/test_dense_adjoint \
	derivatives/test_diagnostics derivatives/test_existence derivatives/test_gauge \
	derivatives/test_gauge_guard derivatives/test_subspace pairs/test_eig \
	pairs/test_generalized pairs/test_hermitian_closed_forms pairs/test_krylov_extremes \
	pairs/test_published pairs/test_selection pairs/test_shift_invert pairs/test_sparse_lu \
	program/test_failure program/test_kernels

test-kernels: $(KERNELS:%=kernel-%)

kernel-%: $(VENV)/.test
	OPENBLAS_CORETYPE=$* $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" \
		$(LAPACK:%=tests/%.py)

# The wheel, installed with the lowest and the newest dependencies that pyproject.toml
# allows, and a quick part of the tests run from the sdist, where no source tree is near.
QUICK := repository/test_package repository/test_docs derivatives/test_jaxopt \
	program/test_retracing

test-min test-latest: test-%: $(VENV)/.build
	rm -rf build/$* && mkdir -p build/$*
	$(BIN)/python -m build --outdir build/$*/dist .
	touch build/$*/constraints.txt
	test $* = latest || $(BIN)/python tools/lowest.py > build/$*/constraints.txt
	$(PYTHON) -m venv build/$*/venv
	build/$*/venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint build/$*/constraints.txt "$$(echo build/$*/dist/*.whl)[all,test]"
	build/$*/venv/bin/python -m pip list --disable-pip-version-check
	tar -xzf build/$*/dist/*.tar.gz -C build/$* --exclude '*/implicit_eig'
	cd build/$*/implicit_eig-* && ../venv/bin/python -m pytest -n $(JOBS) \
		-m "not slow" $(QUICK:%=tests/%.py)

# The site, into `site/`: open site/index.html, no server needed. Warnings are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

serve-docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.bench
	$(BIN)/python -m benchmarks --quick

# First, into .venv: pip install "jax[cuda12]", or what else the device needs. One core, so
# that the CPU's rows are those of one thread.
bench-gpu: $(VENV)/.bench
	taskset -c 0 $(BIN)/python -m benchmarks.gpu

lint: $(VENV)/.dev $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -f implicit_eig/_kernels/libkernels.so
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
