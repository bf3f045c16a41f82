#!/usr/bin/env bash
# Make the Python environment of the tests with real Telegram software, if it is not there yet, and print the path of
# its interpreter. It has Node as well, and in its folder mtcute what that client needs. Made again when requirements.txt
# or mtcute/package-lock.json has changed; any number of callers may come at once.
#
#   venv.sh DIRECTORY
#
# Needs: Python 3.11 or newer with venv (Debian: python3-venv), flock, package indexes of Python and Node for the first run.

set -euo pipefail

directory=$1
here=$(dirname "$0")
requirements=$here/requirements.txt
lock=$here/mtcute/package-lock.json

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
if ! cat "$requirements" "$lock" | cmp --silent - "$directory/made-of" || ! "$directory/bin/python" -c 'import tdjson'; then
    python=$(choose)
    "$python" -m venv --clear "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    mkdir "$directory/mtcute"
    cp "$here"/mtcute/*.json "$directory/mtcute"
    # Nothing that it brings is run: what it would compile keeps sessions in a file, which is not asked for.
    PATH=$(cd "$directory/bin" && pwd):$PATH npm ci --prefix "$directory/mtcute" --ignore-scripts --no-audit --no-fund >&2
    cat "$requirements" "$lock" >"$directory/made-of"
fi
echo "$directory/bin/python"
