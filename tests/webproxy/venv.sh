#!/usr/bin/env bash
# Make the Python environment of the client of WEB proxies, if it is not there yet, and print the path of its interpreter.
# Made again when requirements.txt has changed; any number of callers may come at once.
#
#   venv.sh DIRECTORY
#
# Needs: Python 3.11 or newer with venv (Debian: python3-venv), flock, a package index for the first run.

set -euo pipefail

directory=$1
requirements=$(dirname "$0")/requirements.txt

suitable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

choose() {
    local python
    for python in python3 /usr/bin/python3; do
        if suitable "$python"; then
            echo "$python"
            return
        fi
    done
    echo "no Python 3.11 or newer with venv: apt-get install python3-venv" >&2
    return 1
}

mkdir -p "$(dirname "$directory")"
exec 9>"$directory.lock"
flock 9
# An environment dies with the interpreter that it was made of.
if ! cmp --silent "$requirements" "$directory/made-of" || ! "$directory/bin/python" -c 'import h2'; then
    python=$(choose)
    "$python" -m venv --clear "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    cp "$requirements" "$directory/made-of"
fi
echo "$directory/bin/python"
