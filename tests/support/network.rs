//! A network of its own for a test, in which any address may be taken: Telegram's, or one where no one answers.
//!
//! The test's program runs itself once more in a fresh network namespace and does the test there. Everything that it starts
//! is in there too, and the kernel removes the network with the last process. Without root the namespace is one of a user.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

/// Set inside.
const INSIDE: &str = "TEST_IN_ITS_OWN_NETWORK";

/// Said inside when the network is there, and when the test has passed.
const STANDS: &str = "the network stands";
const PASSED: &str = "the test has passed in it";

/// What an address is in the network. Of all others the kernel knows no way to reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Land {
    /// This machine's own: anyone who listens there is reached, and otherwise it refuses.
    Here,
    /// Packets to it vanish.
    Nowhere,
}

/// Runs `body` in a network of its own with these addresses. `name` is the path of the calling test in its
/// program. Where there can be no
/// such network, the test says so and does nothing, but fails if `CI` is set.
pub fn with_network<F: Future<Output = ()>>(name: &str, addresses: &[(IpAddr, Land)], body: impl FnOnce() -> F) {
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(body());
        // To the very output, which the test runner reads along.
        writeln!(io::stdout(), "{PASSED}").expect("someone listens");
        return;
    }
    let Output { status, stdout, stderr } = inside(name, &script(addresses)).expect("unshare runs");
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).join("\n");
    if !said.contains(STANDS) {
        assert!(env::var_os("CI").is_none(), "no network namespace: {said}");
        let _ = writeln!(io::stderr(), "skipped {name}: no network namespace: {}", said.trim());
        return;
    }
    assert!(status.success() && said.contains(PASSED), "{said}");
    for note in said.lines().filter(|line| line.starts_with("skipped ")) {
        let _ = writeln!(io::stderr(), "{note}");
    }
}

fn inside(name: &str, script: &str) -> io::Result<Output> {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--", "sh", "-euc"]).arg(format!("{script}\necho {STANDS}\nexec \"$@\"")).arg("sh");
    command.arg(env::current_exe()?).args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(INSIDE, "1").stdin(Stdio::null()).output()
}

fn script(addresses: &[(IpAddr, Land)]) -> String {
    let vanishes =
        |six: bool| addresses.iter().any(|(address, land)| address.is_ipv6() == six && *land == Land::Nowhere);
    // What goes into the hole comes out where it is addressed to no one, and no one is asked who is there.
    let mut lines = vec![
        "ip link set lo up".to_owned(),
        "ip link add hole type veth peer name bottom".to_owned(),
        "echo 1 >/proc/sys/net/ipv6/conf/bottom/disable_ipv6".to_owned(),
        format!("echo {} >/proc/sys/net/ipv6/conf/hole/disable_ipv6", u8::from(!vanishes(true))),
        "ip link set bottom up".to_owned(),
        "ip link set hole arp off up".to_owned(),
    ];
    // Anyone who sends something needs an address of its own.
    let sources = [(vanishes(false), "192.0.2.1/32"), (vanishes(true), "2001:db8::1/128 nodad")];
    lines.extend(sources.iter().filter(|(used, _)| *used).map(|(_, own)| format!("ip address add {own} dev hole")));
    lines.extend(addresses.iter().map(|(address, land)| match (land, address.is_ipv4()) {
        (Land::Here, true) => format!("ip address add {address}/32 dev lo"),
        (Land::Here, false) => format!("ip address add {address}/128 dev lo nodad"),
        (Land::Nowhere, _) => format!("ip route add {address} dev hole"),
    }));
    lines.join("\n")
}

/// How many packets have vanished: one for each attempt at a connection, and more for one that is waited for longer than a
/// second. Where IPv6 addresses are nowhere, the kernel's own are among them.
pub fn vanished() -> u64 {
    let output = command("ip", ["-statistics", "-json", "link", "show", "hole"]);
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).expect("ip speaks JSON");
    links[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

/// Runs a program of the system to its end, which must be good.
pub fn command(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
