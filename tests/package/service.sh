# service.sh PACKAGE: the service of the package under a systemd that was booted for it: start, reload, upgrade, watchdog,
# socket, stop.
package=$1
file=/etc/vizard/vizard.toml

show() {
    systemctl show --value --property "$1" vizard
}

# Waits until a command succeeds.
until_it() {
    local tries=300
    until "$@"; do
        ((tries -= 1)) || fail "$*"
        sleep 0.1
    done
}

fail() {
    echo "$1 does not hold"
    journalctl --no-pager --lines 200
    exit 1
}

# A visitor is served, and waits if he has to.
answers() {
    curl --silent --show-error --fail --insecure --output /dev/null --max-time 20 https://127.0.0.1/
}

# Another process than this one is the service's now.
is_not() {
    [[ $(show MainPID) != 0 && $(show MainPID) != "$1" && $(show ActiveState) == active ]]
}

# What an upgrade of the program looks like: the same name, another file.
replace_program() {
    cp /usr/bin/vizard /usr/bin/vizard.new
    mv /usr/bin/vizard.new /usr/bin/vizard
}

stops_in_peace() {
    systemctl stop "$@"
    [[ $(show Result) == success ]] || fail "a peaceful end"
}

dpkg --install "$package" >/dev/null
vizard init --yes --no-check --domain www.example.com --self-signed --listen 127.0.0.1:443 --link-host 192.0.2.1 >/dev/null
systemctl enable --quiet --now vizard || fail "a start"
answers

# It runs as it should, and its own walls stand besides those of the unit.
main=/proc/$(show MainPID)
[[ $(stat --format %U "$main") == vizard ]]
grep --quiet '^CapBnd:.0000000000000400$' "$main/status"
if journalctl --unit vizard | grep --fixed-strings 'the sandbox has a gap'; then fail "the sandbox"; fi
# However often it ends, it is started again.
[[ $(show StartLimitIntervalUSec) == 0 ]]

# The same program: the configuration is read again. Another one takes over, and systemd follows.
first=$(show MainPID)
systemctl reload vizard
[[ $(show MainPID) == "$first" ]]
if vizard upgrade --config $file; then fail "what systemd would not know of"; fi
[[ $(show MainPID) == "$first" ]]
replace_program
cp $file /root/before
echo 'lisen = 5' >>$file
if systemctl reload vizard; then fail "what cannot be taken over"; fi
[[ $(show MainPID) == "$first" && $(show ActiveState) == active ]]
cat /root/before >$file
systemctl reload vizard
is_not "$first" || fail "another process"
until_it test ! -e "/proc/$first"
answers
stops_in_peace vizard

# The program of a later package takes over as well; if it cannot, it is started again.
systemctl start vizard
for turn in 1 2; do
    before=$(show MainPID)
    starts=$(journalctl --unit vizard | grep --count 'Started vizard.service')
    ((turn == 1)) || rm /var/lib/vizard/control
    dpkg --install "$package" >/dev/null
    is_not "$before" || fail "another process"
    (($(journalctl --unit vizard | grep --count 'Started vizard.service') == starts + turn - 1))
done
stops_in_peace vizard

# One that hangs is started again, also if it has taken over; and so is one that ends.
mkdir /etc/systemd/system/vizard.service.d
printf '[Service]\nWatchdogSec=3s\n' >/etc/systemd/system/vizard.service.d/watchdog.conf
systemctl daemon-reload
systemctl start vizard
replace_program
for signal in STOP KILL; do
    second=$(show MainPID)
    systemctl reload vizard
    is_not "$second" || fail "another process"
    third=$(show MainPID)
    kill -$signal "$third"
    until_it is_not "$third"
    answers
    replace_program
done
[[ $(show NRestarts) == 2 ]]
stops_in_peace vizard

# The place for a socket is there, and open to those who belong to the group.
printf '[proxy_protocol]\nlisten = ["unix:/run/vizard/front.sock"]\n' >>$file
systemctl start vizard
[[ $(stat --format %U:%G:%a /run/vizard /run/vizard/front.sock) == $'vizard:vizard:750\nvizard:vizard:660' ]]
stops_in_peace vizard
cat /root/before >$file

# systemd holds the port: it starts whom the first visitor wants, and nobody is refused in a restart or an upgrade.
sed -i 's/^listen = .*/listen = ["systemd:https"]/' $file
systemctl start vizard.socket
[[ $(show ActiveState) == inactive ]]
answers
for turn in restart reload; do
    replace_program
    fourth=$(show MainPID)
    systemctl $turn vizard &
    until is_not "$fourth"; do answers; done
    wait $!
    answers
done
stops_in_peace vizard.socket vizard
