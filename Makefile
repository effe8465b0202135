# The first two commands of the README are `make demo` and `make test`.
# Everything happens in a virtual environment of its own, .venv, made when it is needed.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test test-oldest check lint docs bench bench-gpu bench-inversion soak kernels clean

DRAWING := avatar-dev01
demo: .venv/installed  ## a grid, a mixing grid, and a projection with an edit, in out/
	$(BIN)/sg2 generate --seeds 22-34,36-37,39-52,57-58,63 --grid=8x4 --skip-existing --out out -q
	$(BIN)/sg2 mix --rows 5,0,6 --cols 9,11,22 --styles coarse --skip-existing --out out/mix -q
	$(BIN)/sg2 project tests/targets/$(DRAWING).png --preset fast --resume --out out/found
	$(BIN)/sg2 edit out/found/$(DRAWING)/projected.safetensors --direction smile --amount 0..2 \
		--steps 3 --skip-existing --out out/edited -q
	@echo "Look at out/grid.png, out/mix/grid.png, out/found/$(DRAWING)/compare.png and out/edited/grid.png"

# A process for each core, of one thread each: torch's own threads gain little on small images.
# Each takes a GiB of memory, so there are four at most.
WORKERS = $(shell $(BIN)/python -c 'from sg2cli import devices; print(min(4, devices.available_cores()))')
PARALLEL = --numprocesses $(WORKERS) --dist worksteal

test: .venv/installed-dev  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL)

# The readers and writers of every format, latents, videos, downloads and every command once.
test-oldest: .venv-oldest/installed  ## what depends on other packages, with the oldest of each
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -W ignore $(PARALLEL) \
		tests/checkpoints/test_native.py tests/images tests/latents tests/ops/cpu/test_convolution.py \
		tests/storage/test_downloads.py tests/storage/test_hostile_servers.py \
		tests/cli/commands/test_doctor.py tests/cli/commands/test_edit.py tests/cli/test_hostile.py \
		tests/cli/commands/test_info.py tests/cli/commands/test_interpolate.py tests/cli/test_main.py \
		tests/cli/commands/test_truncate.py tests/cli/test_reliability.py::test_no_command_connects \
		tests/cli/commands/test_project.py::test_a_result_is_whole_and_drawn_again_pixel_for_pixel

check: lint test  ## what has to pass before a change lands

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/cog --check docs/commands.md docs/networks.md

docs: .venv/installed-dev  ## write the help of every command into docs/commands.md
	$(BIN)/cog -r docs/commands.md docs/networks.md

bench: .venv/installed-dev  ## what drawing, projecting and starting cost, as tables
	PYTHONPATH=tests $(BIN)/python benchmarks/speed.py
	PYTHONPATH=tests $(BIN)/python benchmarks/pipeline.py

bench-gpu: .venv/installed-dev  ## images a second, projection steps and kernels on a GPU
	PYTHONPATH=tests $(BIN)/python benchmarks/gpu.py

bench-inversion: .venv/installed-dev  ## how near inversions come: the table in docs/inversion.md
	$(BIN)/python benchmarks/inversion.py

soak: .venv/installed-dev  ## two hundred kills, 10,000 images, an hour of work: docs/reliability.md
	PYTHONPATH=tests $(BIN)/python benchmarks/soak.py

kernels: .venv/installed-dev  ## registers, spills and traffic of the Triton kernels, without a GPU
	$(BIN)/python benchmarks/kernels.py

clean:
	rm -rf .venv .venv-oldest out build dist *.egg-info

.venv/bin/pip:
	$(PYTHON) -m venv .venv

# Installed in place, so that changes to the code count at once; again when requirements change.
.venv/installed: setup.cfg pyproject.toml | .venv/bin/pip
	$(PIP) install --editable .
	touch $@

# The lower bounds in setup.cfg of what users install, torch's and torchvision's apart: these belong
# together and take minutes to install. They, and what has no bound, come from .venv.
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
.venv-oldest/installed: .venv/installed-dev
	$(PYTHON) -m venv --clear .venv-oldest
	$(BIN)/python -c '$(SITE)' > "$$(.venv-oldest/bin/python -c '$(SITE)')/newest.pth"
	sed -n '/^install_requires/,/^dev =/s/^    \([a-z]*\)>=/\1==/p' setup.cfg | grep -v '^torch\(vision\)\{0,1\}=' \
		> .venv-oldest/oldest.txt
	.venv-oldest/bin/pip --disable-pip-version-check --quiet install \
		--requirement .venv-oldest/oldest.txt --editable '.[dev]'
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) install --editable '.[dev]'
	touch $@
