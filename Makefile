# Needs Python >= 3.10, git and make, and nothing else: each target makes or updates the virtual environment that it needs.
# As root, servers and tests run as an ordinary user (postgres or nobody).
#
#   make demo ARGS="--fast --seconds 30"      make test PYTESTARGS="-k trigger"      make PYTHON=python3.13 test

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-faults test-pgpool test-windows bench lint clean

ARGS ?=
PYTESTARGS ?=
LINTED := $(wildcard pystandby tests bench hatch_build.py) $(wildcard .ci/*.py)
TYPED_FOR_WINDOWS := pystandby tests/windows tests/conftest.py $(addprefix tests/support/,command.py kept.py npm_servers.py platforms.py segments.py)
export PYTHON

help:
	@echo 'make demo         a primary, a warm standby and a failover on this machine, in half a minute'
	@echo '                  (ARGS="--fast --seconds N --postgres VERSION|BINDIR --keep")'
	@echo 'make test         build, install and test the wheel (PYTESTARGS="...")'
	@echo 'make test-matrix  every scenario on PostgreSQL 10 to 18, and their table in docs/compatibility.md (ARGS="--without VERSION")'
	@echo 'make test-faults  only the tests that break things on purpose'
	@echo 'make test-pgpool  failovers and online recovery by Pgpool-II, of Debian 12, which it installs if need be (as root)'
	@echo 'make test-windows the tests that a Windows Python can run, in one, under Wine of Debian 12, which it installs if need be (as root)'
	@echo 'make bench        measure restores, catch-up, reaction: build/benchmarks.md (ARGS="--quick --only PART --help")'
	@echo 'make lint         ruff, and mypy for Linux and for Windows'
	@echo 'make clean        remove the virtual environment and everything built'

demo:
	@environment=$$(sh .ci/environment demo) && exec "$$environment/bin/pystandby" demo $(ARGS)

test:
	@environment=$$(sh .ci/environment test) && exec "$$environment/bin/python" .ci/test.py $(PYTESTARGS)

test-matrix:
	@environment=$$(sh .ci/environment test) && exec "$$environment/bin/python" .ci/test.py --matrix $(ARGS) $(PYTESTARGS)

test-faults:
	@environment=$$(sh .ci/environment test) && exec "$$environment/bin/python" .ci/test.py --mark faults $(PYTESTARGS)

test-pgpool:
	@sh .ci/debian_packages pgpool && environment=$$(sh .ci/environment test) && \
	exec "$$environment/bin/python" .ci/test.py --pgpool $(PYTESTARGS)

test-windows:
	@sh .ci/debian_packages windows && environment=$$(sh .ci/environment test-windows) && \
	exec "$$environment/bin/python" .ci/test.py --windows $(PYTESTARGS)

bench:
	@environment=$$(sh .ci/environment bench) && exec "$$environment/bin/python" -I bench $(ARGS)

lint:
	@environment=$$(sh .ci/environment lint) && bin="$$environment/bin" && \
	echo 'ruff check' && "$$bin/ruff" check $(LINTED) && \
	echo 'ruff format --check' && "$$bin/ruff" format --check $(LINTED) && \
	echo 'mypy' && "$$bin/mypy" $(wildcard pystandby tests bench) && \
	echo 'mypy --platform win32' && "$$bin/mypy" --platform win32 $(TYPED_FOR_WINDOWS) && \
	for script in .ci/*.py hatch_build.py; do "$$bin/mypy" "$$script" || exit 1; done

clean:
	@sh .ci/environment clean
