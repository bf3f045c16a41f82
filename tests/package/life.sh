# life.sh NOW LATER: a package is installed, set up, upgraded to a later one, removed and purged.
now=$1 later=$2
file=/etc/vizard/vizard.toml

owner() {
    stat --format %U:%G:%a "$1"
}

dpkg --install "$now"
[[ $(owner /etc/vizard) == vizard:vizard:750 ]]
[[ $(owner $file) == vizard:vizard:640 ]]
vizard check --config $file
# Nothing runs that no one has set up.
[[ ! -e /etc/systemd/system/multi-user.target.wants/vizard.service ]]
[[ ! -e /etc/systemd/system/sockets.target.wants/vizard.socket ]]

# The file of the package sets nothing, so it is no configuration that would be in the way.
vizard init --yes --no-check --domain www.example.com --self-signed --listen 127.0.0.1:8443 --link-host 192.0.2.1
[[ $(owner $file) == vizard:vizard:600 ]]
setpriv --reuid=vizard --regid=vizard --init-groups vizard check --config $file
cp $file /tmp/mine

dpkg --force-confdef --force-confold --install "$later"
cmp $file /tmp/mine
[[ $(owner $file) == vizard:vizard:600 ]]
[[ $(dpkg-query --show --showformat '${Version}' vizard) == *+later ]]

dpkg --remove vizard
cmp $file /tmp/mine
[[ -d /var/lib/vizard ]]

dpkg --purge vizard
[[ ! -e /etc/vizard && ! -e /var/lib/vizard ]]
[[ ! -e /usr/bin/vizard ]]
