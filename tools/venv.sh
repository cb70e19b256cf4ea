#!/bin/sh
# Make or refresh .venv from a locked list of requirements: uv when it is there, else pip. $1 = list, $2 = stamp file.
set -eu
list=$1 stamp=$2
for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "${python:-}" ]; then
    echo "Fleet needs Python 3.11 or newer; 'python3 --version' here says: $(python3 --version 2>&1 || echo none). Install it, or set PYTHON=/path/to/python3.11." >&2
    exit 1
fi
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
if [ "$free" -lt 700 ]; then
    echo "Fleet needs 700 MB of free disk for its packages and database; here are $free MB." >&2
    exit 1
fi
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv 2>/tmp/fleet-venv.$$ || {
        echo "Python could not make a virtual environment: $(tail -n 1 /tmp/fleet-venv.$$). On Debian: apt install python3-venv." >&2
        rm -f /tmp/fleet-venv.$$
        rm -rf .venv
        exit 1
    }
    rm -f /tmp/fleet-venv.$$
fi
echo "Installing the packages of $list (once; locked, with hashes) ..."
if command -v uv >/dev/null 2>&1; then
    VIRTUAL_ENV=$(pwd)/.venv uv pip install -q --require-hashes -r "$list"
else
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r "$list"
fi
touch "$stamp"
