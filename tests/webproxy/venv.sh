#!/usr/bin/env bash
# Make the Python environment of the client of WEB proxies, if it is not there yet, and print the path of its interpreter.
# Made again when requirements.txt has changed; any number of callers may come at once.
#
#   venv.sh DIRECTORY
#
# Needs: Python 3.11 or newer with venv (Debian: python3-venv), flock, a package index for the first run.

set -euo pipefail
# shellcheck source=../support/python.sh
source "$(dirname "$0")/../support/python.sh"

directory=$1
requirements=$(dirname "$0")/requirements.txt

lock_folder "$directory"
# An environment dies with the interpreter that it was made of.
if ! cmp --silent "$requirements" "$directory/made-of" || ! "$directory/bin/python" -c 'import h2'; then
    make_environment "$directory" "$requirements"
    cp "$requirements" "$directory/made-of"
fi
echo "$directory/bin/python"
