#!/usr/bin/env bash
# Every check and every test, on a fresh Debian 12 with Rust; elsewhere if the programs below are there.
#
#   bash tests/run.sh            installs what is missing and runs everything; a test that cannot run is a failure
#   bash tests/run.sh --quick    installs nothing and leaves out the image and real Telegram software; other tests
#                                skip themselves where a program is missing
#
# Takes the packages below by apt, with sudo unless it is root, TDLib and Node by pip and cargo-deb by cargo into the target
# folder, where a cover on BoringSSL is built too. Nothing that it installs is left running. Only the test of the image
# and the life of the package need root, and only those get it.

set -euo pipefail
cd "$(dirname "$0")/.."

# A C compiler for the build, programs that tests run, and the ground that tests/real_clients stands on.
PACKAGES=(gcc libc6-dev chromium curl haproxy iproute2 nginx-light openssl)
# Tests of the program as it is deployed, which --quick leaves out.
REAL=(container real_clients)
# Those that take longest, and of that mostly wait.
PATIENT=(cover proxy)
TARGET=${CARGO_TARGET_DIR:-target}
LOG=$TARGET/tests.log
# What prepare says, shown when it has ended.
PREPARED=$TARGET/prepared.log

# Whatever is compiled is compiled from nothing, once.
PROFILE=(--config tests/profile.toml)
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

main() {
    rm -f "$LOG" "$LOG.patient"
    mkdir -p "$TARGET"
    trap finish EXIT
    phase formatting
    if $quick; then
        echo "--- left out by --quick: ${REAL[*]} fuzzing"
    else
        # A test that lacks something fails instead of skipping itself.
        export CI=${CI:-true}
        # Nothing compiles without a linker; otherwise what is fetched is fetched while the first things compile.
        if ! command -v cc >/dev/null; then phase packages; fi
        prepare >"$PREPARED" 2>&1 &
        preparing=$!
    fi
    phase lints
    phase documentation
    phase programs
    phase prepared
    phase tests
}

# What tests need beside this package, and what needs nothing of it.
prepare() {
    phase packages
    phase telegram
    phase boring
    phase packer
    phase fuzzing
}

# Waits for all that, and fails if it has.
prepared() {
    if [[ -z ${preparing:-} ]]; then return; fi
    local status=0
    wait "$preparing" || status=$?
    preparing=
    cat "$PREPARED"
    # What packer has made.
    PATH=$(cd "$TARGET" && pwd)/tools/bin:$PATH
    export PATH
    return "$status"
}

# Runs the function of this name and tells how long it took. Nothing here may catch a failure: bash would then go on
# inside the function after one.
phase() {
    now=$1 began=$SECONDS
    echo "--- $now"
    "$now" </dev/null
    echo "--- $now: $((SECONDS - began)) s"
    now=
}

# Ends with the test runner's own words on every test program, which are far apart in its output.
finish() {
    local status=$?
    # Packages are better not left half installed.
    if [[ -n ${preparing:-} ]]; then wait "$preparing" || true; fi
    if [[ -n ${now:-} ]]; then echo "--- $now: failed after $((SECONDS - began)) s"; fi
    if [[ ${now:-tests} == tests && -e $LOG ]]; then
        echo "--- all in all: $SECONDS s"
        grep --extended-regexp '^(skipped |test .* FAILED|     Running |   Doc-tests |test result: |error: )' "$LOG" || true
    fi
    return "$status"
}

packages() {
    local wanted=("${PACKAGES[@]}") missing=() package list
    for list in tests/*/packages.txt; do
        mapfile -t -O "${#wanted[@]}" wanted <"$list"
    done
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then wanted+=(python3-venv); fi
    if ! command -v dpkg-query apt-get >/dev/null; then
        echo "no apt here; the tests need what these packages of Debian hold: ${wanted[*]}"
        return
    fi
    for package in "${wanted[@]}"; do
        if ! installed "$package"; then missing+=("$package"); fi
    done
    if ((${#missing[@]})); then install "${missing[@]}"; fi
    echo "${#wanted[@]} packages are there, ${#missing[@]} of them installed now"
}

installed() {
    [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# A server that no one asked for shall not start, now or at the next boot. Debian's packages do not start a masked
# unit, and where there is no systemd, no service that the present runlevel is not meant for.
install() {
    local apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get --quiet --quiet) services=() package
    if [[ -d /run/systemd/system ]]; then
        for package in "$@"; do
            case $package in
                nginx-light) services+=(nginx.service) ;;
                dante-server) services+=(danted.service) ;;
                haproxy | prometheus | shadowsocks-libev) services+=("$package.service") ;;
            esac
        done
    fi
    echo "installing $*"
    as_root "${apt[@]}" update
    if ((${#services[@]})); then as_root systemctl mask --quiet --runtime "${services[@]}"; fi
    as_root "${apt[@]}" install --yes --no-install-recommends "$@" >/dev/null
    if ((${#services[@]})); then
        as_root systemctl unmask --quiet --runtime "${services[@]}"
        as_root systemctl disable --quiet "${services[@]}"
    fi
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

telegram() {
    bash tests/real_clients/venv.sh "$TARGET/venv"
    bash tests/webproxy/venv.sh "$TARGET/webvenv"
}

# A package of its own, so that no one else compiles BoringSSL. It takes minutes the first time.
boring() {
    local manifest=(--manifest-path tests/boring_cover/Cargo.toml)
    local options=("${manifest[@]}" --target-dir "$TARGET/boring_cover" --locked)
    cargo fmt "${manifest[@]}" --check
    cargo clippy "${options[@]}" -- -D warnings
    cargo build "${options[@]}"
}

# What makes the Debian package, unoptimised: it takes longer to compile than it will ever run here.
packer() {
    cargo install --quiet --debug cargo-deb --version 3.8.0 --locked --root "$TARGET/tools"
}

# Whatever reads bytes of others, from a kept corpus. Longer runs are for a machine that has time.
fuzzing() {
    cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
    bash tests/fuzz/run.sh 5
}

formatting() {
    cargo fmt --check
}

# All targets, so benches are compiled too. All features, here and below: with another set of them much would be compiled
# twice. The program without them is what the image and the package hold, whose tests compile it.
lints() {
    cargo clippy "${PROFILE[@]}" --all-targets --all-features --locked -- -D warnings
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc "${PROFILE[@]}" --no-deps --all-features --locked
}

programs() {
    choose
    run_tests --no-run "${busy[@]}" "${patient[@]}"
}

# Programs that mostly wait, for covers and for clocks, have the other ones beside them.
tests() {
    local status=0 background
    choose
    if ! $quick && ((EUID != 0)); then root_for_the_container; fi
    run_tests "${patient[@]}" >"$LOG.patient" 2>&1 &
    background=$!
    run_tests "${busy[@]}" 2>&1 | tee "$LOG" || status=$?
    if ! $quick; then run_tests --doc 2>&1 | tee -a "$LOG" || status=$?; fi
    wait "$background" || status=$?
    tee -a "$LOG" <"$LOG.patient"
    return "$status"
}

run_tests() {
    cargo test "${PROFILE[@]}" --all-features --locked --no-fail-fast "$@"
}

# Sets which programs there are to be, in two groups.
choose() {
    local name file
    patient=() busy=(--lib --bins --bench load)
    for file in tests/*.rs tests/*/main.rs; do
        name=${file#tests/} name=${name%/main.rs} name=${name%.rs}
        if $quick && [[ " ${REAL[*]} " == *" $name "* ]]; then continue; fi
        case " ${PATIENT[*]} " in
            *" $name "*) patient+=(--test "$name") ;;
            *) busy+=(--test "$name") ;;
        esac
    done
}

# Cargo runs every test program through this: only the one that builds containers becomes root.
root_for_the_container() {
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${triple}_RUNNER=bash tests/run.sh --test-program"
}

test_program() {
    case $(basename "$1") in
        container-*) exec sudo --preserve-env env "PATH=$PATH" "HOME=$HOME" "$@" ;;
        *) exec "$@" ;;
    esac
}

quick=false
case ${1:-} in
    '') main ;;
    --quick)
        quick=true
        main
        ;;
    --test-program) test_program "${@:2}" ;;
    *)
        sed -n '4,6p' "$0" | cut -c3- >&2
        exit 2
        ;;
esac
