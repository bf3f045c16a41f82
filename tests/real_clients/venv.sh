#!/usr/bin/env bash
# Make the Python environment of the tests with real Telegram software, if it is not there yet, and print the path of
# its interpreter. It has Node as well, and in its folder mtcute what that client needs. Made again when requirements.txt
# or mtcute/package-lock.json has changed; any number of callers may come at once.
#
#   venv.sh DIRECTORY
#
# Needs: Python 3.11 or newer with venv (Debian: python3-venv), flock, package indexes of Python and Node for the first run.

set -euo pipefail
# shellcheck source=../support/python.sh
source "$(dirname "$0")/../support/python.sh"

directory=$1
here=$(dirname "$0")
requirements=$here/requirements.txt
lock=$here/mtcute/package-lock.json

lock_folder "$directory"
# An environment dies with the interpreter that it was made of.
if ! cat "$requirements" "$lock" | cmp --silent - "$directory/made-of" || ! "$directory/bin/python" -c 'import tdjson'; then
    make_environment "$directory" "$requirements"
    mkdir "$directory/mtcute"
    cp "$here"/mtcute/*.json "$directory/mtcute"
    # Nothing that it brings is run: what it would compile keeps sessions in a file, which is not asked for.
    PATH=$(cd "$directory/bin" && pwd):$PATH npm ci --prefix "$directory/mtcute" --ignore-scripts --no-audit --no-fund >&2
    cat "$requirements" "$lock" >"$directory/made-of"
fi
echo "$directory/bin/python"
