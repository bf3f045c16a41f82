# documents.sh PROGRAM DOCS: what the documents tell one to do to a machine, done to one that was booted for it.
program=$1 docs=$2

# The commands of the block with this line in it.
block() {
    awk -v line="$2" '
        /^ *```/ { if (inside && found) { printf "%s", text; shown = 1 } inside = !inside; text = ""; found = 0; next }
        inside { text = text $0 "\n"; if ($0 == line) found = 1 }
        END { exit !shown }
    ' "$docs/$1"
}

# Runs them as they stand, but for what `init` would ask the world, which this machine does not reach.
follow() {
    local commands
    commands=$(block "$@")
    bash -euxo pipefail -c "${commands//vizard init/vizard init --no-check --link-host 192.0.2.1}"
}

# Takes back what was set up, for the next document.
clear() {
    systemctl disable --now --quiet vizard
    userdel vizard
    rm -r /etc/systemd/system/vizard.service /usr/bin/vizard /etc/vizard /var/lib/vizard
    systemctl daemon-reload
}

answers() {
    curl --silent --show-error --fail --insecure --output /dev/null https://127.0.0.1/
}

mkdir -p /srv/vizard/target/release
cp -r "$docs" /srv/vizard/docs
cp "$program" /srv/vizard/vizard
cp "$program" /srv/vizard/target/release/vizard
cd /srv/vizard
# Who may do everything already needs no program for it.
printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/sudo
chmod +x /usr/local/bin/sudo
hash -r

follow deployment.md 'sudo vizard init --unit'
answers
clear
follow hardening.md 'systemctl daemon-reload'
answers
follow hardening.md 'systemctl enable --now nftables'
[[ $(nft list ruleset) == *'policy drop'* ]]
answers
