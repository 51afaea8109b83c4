#!/usr/bin/env bash
# Print the first Python 3.11 or newer on PATH ($PYTHON first), or say what to install.
for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo 'setup: no Python 3.11 or newer on PATH. Debian 12, Ubuntu 24.04 and newer: apt-get install python3 python3-venv' >&2
exit 1
