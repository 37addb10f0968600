# Every check that a change must pass; continuous integration runs these targets and nothing else.
PACKAGES := wam-backbone noisegate-gpn grpo-core robotwin-env
UV_RUN := uv run --all-packages

.PHONY: check lint dependencies types test isolated wheels clean

check: lint dependencies types test isolated wheels

lint:
	$(UV_RUN) ruff check .
	$(UV_RUN) ruff format --check .

dependencies:
	uv sync --all-packages
	uv pip check

# One run per member: the same module name may stand in two packages.
types:
	set -e; for package in $(PACKAGES); do echo "mypy $$package"; $(UV_RUN) mypy packages/$$package/src; done
	$(UV_RUN) mypy apps
	$(UV_RUN) mypy scripts

test:
	$(UV_RUN) pytest

# Each package against only the dependencies that it declares: an undeclared one shows here alone.
isolated:
	set -e; for package in $(PACKAGES); do echo "isolated $$package"; \
	  uv run --isolated --package $$package --no-default-groups --group test \
	    pytest -q -m "not slow" packages/$$package; done

wheels:
	rm -rf dist
	uv build --all-packages --wheel --out-dir dist
	$(UV_RUN) python scripts/check_wheels.py dist $(PACKAGES)

clean:
	rm -rf dist .venv .mypy_cache .ruff_cache .pytest_cache
