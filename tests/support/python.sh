# Functions for scripts that make a Python environment; they are sourced.
#
# Needs: Python 3.11 or newer with venv (Debian: python3-venv), flock, a package index.

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

# Keeps other callers for the same folder out until the script ends.
lock_folder() {
    mkdir -p "$(dirname "$1")"
    exec 9>"$1.lock"
    flock 9
}

# Makes the environment in the first folder again, with the packages of the second file.
make_environment() {
    local python
    python=$(choose)
    "$python" -m venv --clear "$1"
    "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2" >&2
}
