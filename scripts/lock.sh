#!/usr/bin/env bash
# Write requirements/lock.txt anew from pyproject.toml: exact versions with hashes, for every platform.
# `scripts/lock.sh --upgrade` takes newer versions; without it only what pyproject.toml asks for changes.
# uv lives in an environment of its own (build/lock), since nothing else needs it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(scripts/python.sh)
if [ ! -x build/lock/bin/uv ]; then
    "$python" -m venv build/lock
    build/lock/bin/python -m pip install -qq --disable-pip-version-check 'uv>=0.8'
fi
# No index address, no path of this machine: the file has to mean the same everywhere.
build/lock/bin/uv pip compile pyproject.toml "$@" --quiet --universal --python-version 3.11 --generate-hashes \
    --extra dev --extra sqlalchemy --no-emit-package backout --no-emit-index-url --no-emit-find-links \
    --custom-compile-command 'make lock' --output-file requirements/lock.txt
if grep -nE '(file|https?)://|@ /' requirements/lock.txt; then
    echo 'lock.sh: the lock file names an address (above): it would not work elsewhere' >&2
    exit 1
fi
