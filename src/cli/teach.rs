//! What `--help` says besides the flags: examples, and what each exit code means.
//!
//! Docs take the exit codes from here, and every example is one that the program understands.

use clap::Command;

/// Help text of one command.
struct HelpText {
    /// Its names behind the program's.
    command: &'static str,
    /// Commands, and what each does.
    examples: &'static [(&'static str, &'static str)],
    /// Meanings of exit codes 0, 1 and 2.
    codes: [&'static str; 3],
}

const DONE: &str = "done";
const FAILED: &str = "it failed";
const UNUSABLE: &str = "wrong usage, or the configuration cannot be used";

const LESSONS: &[HelpText] = &[
    HelpText {
        command: "init",
        examples: &[
            ("vizard init", "ask, with a suggestion for every answer"),
            (
                "vizard init --yes --domain www.example.com --acme --user alice",
                "ask nothing: the built-in site with a certificate from Let's Encrypt",
            ),
            ("vizard init --import /etc/mtg.toml", "import the users of another proxy"),
            ("vizard init --yes --print", "show what would be written"),
        ],
        codes: [
            DONE,
            "nothing could be written, or it is written and something is broken",
            "wrong usage, or there is a configuration already",
        ],
    },
    HelpText {
        command: "run",
        examples: &[
            ("vizard run", "try it out: makes a secret and a small site, prints the link"),
            ("vizard run --config /etc/vizard/vizard.toml", "with this configuration"),
            ("vizard run --domain www.example.com --cover 192.0.2.1:443", "hide behind a site elsewhere"),
        ],
        codes: ["it was told to stop, and did", "it could not start, but another try may work", UNUSABLE],
    },
    HelpText {
        command: "check",
        examples: &[("vizard check --config vizard.toml", "see every mistake at once, with its fix")],
        codes: [
            "no mistakes, though there may be warnings",
            FAILED,
            "wrong usage, or there are mistakes, also in the files that it names; a start would end with 2 as well",
        ],
    },
    HelpText {
        command: "secret",
        examples: &[
            ("vizard secret", "a key for a file"),
            ("vizard secret --domain www.example.com", "in the form that links carry"),
        ],
        codes: [DONE, FAILED, "wrong usage"],
    },
    HelpText {
        command: "link",
        examples: &[
            ("vizard link --config vizard.toml", "all users"),
            ("vizard link --user alice --host proxy.example.com", "one user, and another server in the link"),
        ],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "audit",
        examples: &[
            ("vizard audit --config vizard.toml --fast", "in about a minute"),
            ("vizard audit --only 'replay*' --html report.html", "some probes, with a page to read"),
        ],
        codes: ["no difference", "there are differences", "it could not be run"],
    },
    HelpText {
        command: "health",
        examples: &[("vizard health --config vizard.toml", "for a health check")],
        codes: ["visitors are answered", "they are not", UNUSABLE],
    },
    HelpText {
        command: "user",
        examples: &[
            ("vizard user list", "all users with their state and traffic"),
            ("vizard user add bob --quota 50GB/month", "a new user with a limit, and the link"),
        ],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user add",
        examples: &[
            ("vizard user add bob", "makes a secret, prints the link"),
            ("vizard user add eve --expires 2030-12-31 --max-sessions 60", "with limits"),
        ],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user change",
        examples: &[
            ("vizard user change bob --quota 100GB/month", "another limit"),
            ("vizard user change bob --quota none", "no limit any more"),
        ],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user list",
        examples: &[("vizard user list --json", "for programs")],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user show",
        examples: &[("vizard user show bob", "state, limits, traffic")],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user enable",
        examples: &[("vizard user enable bob", "bob can connect again")],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user disable",
        examples: &[("vizard user disable bob", "sessions of bob end within seconds")],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user rotate",
        examples: &[
            ("vizard user rotate bob --keep 48h", "the old link works for two more days"),
            ("vizard user rotate --all --keep 0s", "no old link works any more"),
        ],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user remove",
        examples: &[("vizard user remove bob", "the link of bob leads to the cover from now on")],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "user link",
        examples: &[("vizard user link bob --qr", "again, with the QR code")],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "backup",
        examples: &[
            ("vizard backup vizard.tar --config vizard.toml", "readable by its owner only"),
            ("vizard backup vizard.sealed --encrypt", "asks for a passphrase"),
        ],
        codes: [
            DONE,
            FAILED,
            "wrong usage, the file is there already, or the configuration or another file cannot be used",
        ],
    },
    HelpText {
        command: "restore",
        examples: &[
            ("vizard restore vizard.tar --list", "what is in it, and where it would go"),
            ("vizard restore vizard.tar", "restore it"),
        ],
        codes: [DONE, FAILED, "wrong usage, something would be replaced, or a file cannot be used"],
    },
    HelpText {
        command: "reload",
        examples: &[("vizard reload --config vizard.toml", "tells whether it was applied, and what needs a restart")],
        codes: [
            "the configuration is applied",
            "it was rejected, and nothing has changed",
            "wrong usage, or no proxy runs there",
        ],
    },
    HelpText {
        command: "upgrade",
        examples: &[
            (
                "vizard upgrade --config vizard.toml",
                "with the flags of `vizard run`, after another program was installed",
            ),
            ("vizard upgrade --or-reload --config vizard.toml", "or only a reload, if the program is the same"),
        ],
        codes: [
            "the new process has taken over",
            "it has not, and the old one keeps running",
            "wrong usage, the configuration cannot be used, or no proxy runs there that could be taken over",
        ],
    },
    HelpText {
        command: "token",
        examples: &[("vizard token metrics --name prometheus", "for the configuration, and for Prometheus")],
        codes: [DONE, FAILED, "wrong usage"],
    },
    HelpText {
        command: "status",
        examples: &[
            ("vizard status --config vizard.toml", "once"),
            ("vizard status --admin https://proxy.example.com:9443 --token-file viewer.token", "from elsewhere"),
        ],
        codes: [DONE, FAILED, UNUSABLE],
    },
    HelpText {
        command: "top",
        examples: &[("vizard top --config vizard.toml", "until you press q")],
        codes: [DONE, FAILED, "wrong usage, this is no terminal, or the configuration cannot be used"],
    },
    HelpText {
        command: "doctor",
        examples: &[
            ("vizard doctor --config vizard.toml", "everything"),
            ("vizard doctor --skip telegram --skip cover", "without the slow checks over the network"),
            ("vizard doctor --json", "for programs"),
        ],
        codes: ["all is fine", "there are warnings", "something is broken"],
    },
];

/// The same command line with the lessons below the flags.
pub fn taught(mut command: Command) -> Command {
    for lesson in LESSONS {
        command = with(command, lesson.command, lesson);
    }
    command
}

fn with(command: Command, path: &'static str, lesson: &HelpText) -> Command {
    let (name, rest) = path.split_once(' ').unwrap_or((path, ""));
    command.mut_subcommand(name, |inner| match rest {
        "" => inner.after_help(lesson.text()),
        rest => with(inner, rest, lesson),
    })
}

impl HelpText {
    fn text(&self) -> String {
        let example = |(command, what): &(&str, &str)| format!("  {command}\n      {what}\n");
        let code = |(code, meaning): (usize, &&str)| format!("  {code}  {meaning}\n");
        let examples: String = self.examples.iter().map(example).collect();
        let codes: String = self.codes.iter().enumerate().map(code).collect();
        format!("Examples:\n{examples}\nExit codes:\n{}", codes.trim_end())
    }
}

/// The table of exit codes for docs/configuration.md. Commands below `user` are as `user` is.
pub fn exit_codes() -> String {
    let rows =
        LESSONS.iter().filter(|lesson| !lesson.command.contains(' ')).map(|HelpText { command, codes, .. }| {
            let [fine, failed, unusable] = codes;
            format!("| `vizard {command}` | {fine} | {failed} | {unusable} |\n")
        });
    "| command | 0 | 1 | 2 |\n|---|---|---|---|\n".to_owned() + &rows.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn every_command_has_examples_that_are_understood() {
        fn leaves(command: &Command, path: &str, found: &mut Vec<String>) {
            for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
                let path = format!("{path} {}", inner.get_name()).trim().to_owned();
                leaves(inner, &path, found);
                found.push(path);
            }
        }
        let mut commands = Vec::new();
        leaves(&crate::cli::command(), "", &mut commands);
        assert!(commands.len() > 20, "{commands:?}");
        for command in commands {
            let lesson = LESSONS.iter().find(|lesson| lesson.command == command);
            let lesson = lesson.unwrap_or_else(|| panic!("nothing is taught about `{command}`"));
            for (example, _) in lesson.examples {
                assert!(example.starts_with(&format!("vizard {command}")), "{example}");
                let words = shell_words::split(example).unwrap().into_iter().map(OsString::from);
                crate::cli::understands(words).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }
}
