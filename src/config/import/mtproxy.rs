//! The official MTProxy: all of its configuration is a command line, which often stands in a systemd unit.

use super::Imported;
use crate::config::edit::Changes;

/// Options with a value that is of no use here: other paths, other processes.
const VALUES: &[&str] = &[
    "-u",
    "--user",
    "-p",
    "--port",
    "-M",
    "--slaves",
    "--aes-pwd",
    "-l",
    "--log",
    "-b",
    "-W",
    "--window-clamp",
    "-T",
    "--ping-interval",
    "--cpu-threads",
    "--io-threads",
    "-c",
];

/// Options without a value that are of no use here.
const SWITCHES: &[&str] =
    &["-6", "-v", "-d", "--http-stats", "--allow-skip-dh", "--verbosity", "--ipv6", "--daemonize"];

pub(super) fn read(text: &str) -> Option<Imported> {
    let words = command(text)?;
    let mut it = Imported::default();
    let (mut domains, mut ports) = (Vec::new(), Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let Some((option, value)) = option(&word) else { continue };
        if SWITCHES.contains(&option) {
            continue;
        }
        let mut value = || value.map(str::to_owned).or_else(|| words.next()).unwrap_or_default();
        match option {
            "-S" | "--mtproto-secret" => {
                let name = format!("user{}", it.people.len() + 1);
                it.add(&name, &value(), Changes::default());
            }
            "--mtproto-secret-file" => it.secret_files.push(value().into()),
            "-P" | "--proxy-tag" => it.set_tag(&value()),
            "-D" | "--domain" => domains.push(value()),
            "-H" | "--http-ports" => {
                ports.extend(value().split(',').filter_map(|port| port.trim().parse::<u16>().ok()))
            }
            "--address" => it.set_link_host(&value()),
            // Inside and outside of an address translator.
            "--nat-info" => {
                if let Some((_, outside)) = value().rsplit_once(':') {
                    it.set_link_host(outside);
                }
            }
            "-C" | "--max-special-connections" => {
                value();
                it.note(format!("{option} was left out: use `limits.connections` instead"));
            }
            known if VALUES.contains(&known) => _ = value(),
            other => it.no_counterpart(&other.escape_debug().to_string()),
        }
    }
    for port in ports {
        it.set_listen(&[], port);
    }
    let mut domains = domains.iter();
    match domains.next() {
        Some(domain) => it.set_domain(domain),
        None => it.only_tls("a proxy without a domain (-D)"),
    }
    for further in domains {
        it.note(format!(
            "links with the domain {} work while hello.accept_names lets any name in and it is none of `names`; new ones have the \
             first, so hand them out",
            further.escape_debug()
        ));
    }
    Some(it)
}

/// The words behind the program's name: in the last such line, which may be continued.
fn command(text: &str) -> Option<Vec<String>> {
    let joined = text.replace("\\\r\n", " ").replace("\\\n", " ");
    let line = joined
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.starts_with(['#', ';']) && line.split_whitespace().any(is_program))?;
    let words = shell_words::split(line).ok()?;
    let begin = words.iter().position(|word| is_program(word))?;
    Some(words.into_iter().skip(begin + 1).collect())
}

fn is_program(word: &str) -> bool {
    let word = word.trim_matches(['"', '\'']);
    word.rsplit(['/', '=']).next() == Some("mtproto-proxy")
}

/// An option and the value that is joined to it: `-H443`, `--domain=example.com`.
fn option(word: &str) -> Option<(&str, Option<&str>)> {
    if word.starts_with("--") {
        return Some(word.split_once('=').map_or((word, None), |(option, value)| (option, Some(value))));
    }
    let letter = word.strip_prefix('-')?.chars().next()?;
    let (option, value) = word.split_at(1 + letter.len_utf8());
    Some((option, Some(value).filter(|value| !value.is_empty())))
}
