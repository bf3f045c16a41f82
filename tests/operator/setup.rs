//! Setting up with the built program: `vizard init` by flags and at a terminal, imports, manual pages, completions.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::command::{home, run, vizard};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What leaves the machine alone.
const QUIET: [&str; 5] = ["init", "--config", "vizard.toml", "--no-check", "--yes"];

fn init(home: &Path, more: &[&str]) -> (i32, String, String) {
    run(home, &[&QUIET[..], more].concat())
}

#[test]
fn a_configuration_is_written_once_and_its_links_are_printed() {
    let home = home();
    let file = home.path().join("vizard.toml");
    let flags = ["--listen", "127.0.0.1:8443", "--link-host", "proxy.example.com", "--user", "alice", "--user", "bob"];
    let (code, out, err) = init(home.path(), &flags);
    assert_eq!(code, 0, "{out}{err}");
    for part in
        ["vizard.toml is written", "alice\n  tg://proxy?server=proxy.example.com&port=8443", "bob\n", "Start it:\n  "]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(!out.contains('\x1b'), "no QR code into a pipe");
    assert_eq!(mode(&file), 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(run(home.path(), &["check", "--config", "vizard.toml"]).0, 0, "{text}");
    let (_, link, _) = run(home.path(), &["link", "--config", "vizard.toml"]);
    assert!(out.contains(&link), "the same links: {link}");

    let (code, _, err) = init(home.path(), &flags);
    assert!(code == 2 && err.contains("exists already") && err.contains("--force"), "{err}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "it is as it was");
    let (code, _, err) = init(home.path(), &[&flags[..], &["--force"]].concat());
    assert_eq!(code, 0, "{err}");
    assert_eq!(fs::read_to_string(home.path().join("vizard.toml.old")).unwrap(), text);
    assert_ne!(fs::read_to_string(&file).unwrap(), text, "the secrets are new");
}

#[test]
fn a_file_that_sets_nothing_is_no_configuration() {
    let home = home();
    let file = home.path().join("vizard.toml");
    fs::write(&file, "# Nothing is set yet.\n\n").unwrap();
    let flags = ["--listen", "127.0.0.1:8443", "--link-host", "192.0.2.1"];
    let (code, _, err) = init(home.path(), &flags);
    assert!(code == 0 && fs::read_to_string(&file).unwrap().contains("[[users]]"), "{err}");
    assert!(!home.path().join("vizard.toml.old").exists());
    for text in ["domain = \"www.example.com\"\n", "this is not TOML"] {
        fs::write(&file, text).unwrap();
        assert_eq!(init(home.path(), &flags).0, 2, "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn a_unit_of_systemd_is_written_where_it_is_wished() {
    let home = home();
    let unit = home.path().join("vizard.service");
    let flags = ["--listen", "127.0.0.1:8443", "--link-host", "192.0.2.1", "--unit", "vizard.service"];
    let (code, out, err) = init(home.path(), &flags);
    assert!(
        code == 0 && out.contains("  systemctl link ") && out.contains("\n  systemctl enable --now vizard"),
        "{out}{err}"
    );
    let text = fs::read_to_string(&unit).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_vizard")).display();
    let config = home.path().join("vizard.toml");
    assert!(text.contains(&format!("\nExecStart={program} run --config {}\n", config.display())), "{text}");

    fs::remove_file(&config).unwrap();
    let (code, _, err) = init(home.path(), &flags);
    assert!(code == 2 && err.contains("vizard.service exists already") && !config.exists(), "{err}");
}

#[test]
fn nothing_is_written_where_it_is_only_printed_or_would_be_mistaken() {
    let home = home();
    let (code, out, err) = init(home.path(), &["--print", "--domain", "www.example.com", "--cover", "192.0.2.1:443"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("domain = \"www.example.com\"") && out.contains("address = \"192.0.2.1:443\""), "{out}");
    for (flags, part) in [
        (&["--domain", "a.b"][..], "--domain"),
        (&["--domain", "www.example.com", "--certificate", "no.pem", "--key", "no.key"], "no.pem"),
        (&["--certificate", "no.pem"], "--key"),
        (&["--acme"], "--domain"),
        (&["--acme-staging", "--domain", "www.example.com"], "--acme"),
        (&["--acme", "--self-signed", "--domain", "www.example.com"], "--self-signed"),
        (&["--acme", "--acme-email", "nobody", "--domain", "www.example.com"], "not an email address"),
        (&["--acme", "--acme-directory", "http://ca.example.net", "--domain", "www.example.com"], "not an authority"),
        (&["--cover", "somewhere"], "--cover"),
        (&["--listen", "443"], "--listen"),
        (&["--user", "a b", "--link-host", "h"], "letters"),
        (&["--import", "none"], "cannot be read"),
        (&["--from", "mtg"], "--import"),
    ] {
        let (code, out, err) = init(home.path(), flags);
        assert!(code != 0 && err.contains(part), "{flags:?}: {code} {out}{err}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_certificate_is_to_be_issued_where_a_flag_agrees_to_it() {
    let home = home();
    let flags = ["--print", "--domain", "www.example.com", "--listen", "[::]:443"];
    let (code, out, err) = init(home.path(), &[&flags[..], &["--acme"]].concat());
    assert!(code == 0 && out.contains("\n[site.acme]\n"), "{out}{err}");
    assert!(err.contains("will connect to port 443 of www.example.com"), "{err}");
    let more = ["--acme", "--acme-staging", "--acme-email", "you@example.com", "--acme-challenge", "http-01"];
    let (code, out, err) = init(home.path(), &[&flags[..], &more].concat());
    assert_eq!(code, 0, "{err}");
    for line in
        ["staging = true", "email = \"you@example.com\"", "challenge = \"http-01\"", "redirect_from = [\"[::]:80\"]"]
    {
        assert!(out.lines().any(|found| found == line), "{line} in {out}");
    }
    assert!(!out.contains("link]"), "links name the domain: {out}");
}

#[test]
fn the_result_is_examined() {
    let home = home();
    let flags = [
        "init",
        "--config",
        "vizard.toml",
        "--listen",
        "127.0.0.1:0",
        "--link-host",
        "192.0.2.1",
        "--skip",
        "telegram",
    ];
    let skip =
        ["--skip", "name", "--skip", "certificate", "--skip", "cover", "--skip", "post-quantum", "--skip", "records"];
    let (code, out, err) = run(home.path(), &[&flags[..], &skip].concat());
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("ok      configuration") && !out.contains("login"), "{out}");
    assert!(
        err.contains("there is no link yet") && err.contains("--port"),
        "no one knows the port before the start: {err}"
    );
}

#[test]
fn configurations_of_other_proxies_are_taken_over() {
    for (name, users) in [("mtg.toml", 1), ("telemt.toml", 2), ("config.py", 2), ("mtproxy.service", 2)] {
        let home = home();
        let file = std::path::absolute(Path::new("fixtures/import").join(name)).unwrap();
        let flags = ["--import", file.to_str().unwrap(), "--cover", "192.0.2.1:443", "--link-host", "192.0.2.9"];
        let (code, out, err) = init(home.path(), &flags);
        assert_eq!(code, 0, "{name}: {out}{err}");
        assert_eq!(out.matches("  tg://").count(), users, "{name}: {out}");
        let secret = "ee000102030405060708090a0b0c0d0e0f7777772e6578616d706c652e636f6d";
        assert!(out.contains(&format!("secret={secret}\n")), "{name}: the link is the old one: {out}");
        let note =
            if name == "mtproxy.service" { "tag of the promoted channel was taken over" } else { "was left out" };
        assert!(
            err.contains("recorded on their way to the old server") && err.contains("rotate --all"),
            "{name}: {err}"
        );
        assert!(err.contains(note) && !err.contains("000102030405"), "{name}: {err}");
    }
}

/// The program at a terminal of its own.
struct Terminal {
    screen: File,
    child: std::process::Child,
    seen: Vec<u8>,
}

impl Terminal {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let mut command = vizard(home, arguments);
        command.env("TERM", "xterm").stdin(theirs()).stdout(theirs()).stderr(theirs());
        let child = command.spawn().unwrap();
        Self { screen: File::from(ours), child, seen: Vec::new() }
    }

    /// Waits until this is on the screen, behind what was waited for before.
    fn wait_for(&mut self, part: &str) {
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = text.find(part) {
                self.seen = text.as_bytes()[at + part.len()..].to_vec();
                return;
            }
            // A terminal that no one has open any more fails.
            match self.screen.read(&mut buffer) {
                Ok(read) if read > 0 => self.seen.extend(&buffer[..read]),
                _ => panic!("{part:?} never came: {text}"),
            }
        }
    }

    fn answer(&mut self, question: &str, keys: &str) {
        self.wait_for(question);
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    fn end(mut self) -> i32 {
        let mut rest = Vec::new();
        // Reads until the program has closed its side.
        let _ = self.screen.read_to_end(&mut rest);
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let home = home();
    let arguments =
        ["init", "--config", "vizard.toml", "--no-check", "--listen", "127.0.0.1:8443", "--link-host", "192.0.2.1"];
    let mut terminal = Terminal::start(home.path(), &arguments);
    terminal.wait_for("recommended");
    // Two down: only to try it out.
    terminal.answer("only try it out", "\x1b[B\x1b[B\r");
    terminal.answer("Name of the first user", "carol\r");
    terminal.wait_for("tg://proxy?server=192.0.2.1&port=8443");
    terminal.wait_for("▀");
    assert_eq!(terminal.end(), 0);
    assert!(fs::read_to_string(home.path().join("vizard.toml")).unwrap().contains("name = \"carol\""));

    let mut terminal = Terminal::start(home.path(), &arguments);
    terminal.answer("Start over", "n");
    assert_eq!(terminal.end(), 2);
    assert!(!home.path().join("vizard.toml.old").exists());
}

#[test]
fn the_first_command_prints_the_link_with_a_qr_code_on_a_terminal() {
    let home = home();
    let mut terminal = Terminal::start(home.path(), &["run", "--listen", "127.0.0.1:0"]);
    terminal.wait_for("tg://proxy?server=127.0.0.1&port=");
    terminal.wait_for("▀");
    terminal.wait_for("ready");
    let _ =
        rustix::process::kill_process(rustix::process::Pid::from_child(&terminal.child), rustix::process::Signal::TERM);
    assert_eq!(terminal.end(), 0);
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut pages: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

#[test]
fn every_command_has_a_manual_page_without_a_mistake() {
    let home = home();
    assert_eq!(run(home.path(), &["generate", "man", "pages"]).0, 0);
    let pages = pages(&home.path().join("pages"));
    let names: Vec<_> = pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["vizard.1", "vizard-run.1", "vizard-init.1", "vizard-user.1", "vizard-user-add.1", "vizard-doctor.1"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("generate")), "what is hidden has no page: {names:?}");
    if Command::new("man").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "man is missing");
        eprintln!("skipped: there is no man here");
        return;
    }
    for page in pages {
        let mut command = Command::new("man");
        command
            .args(["--warnings", "--encoding=UTF-8", "--local-file"])
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (text, complaints) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
        assert!(text.contains("SYNOPSIS"), "{}: {text}", page.display());
    }
}

#[test]
fn completions_know_commands_and_flags() {
    let home = home();
    let (code, script, _) = run(home.path(), &["generate", "completions", "bash"]);
    assert_eq!(code, 0);
    let asked = "COMP_WORDS=(vizard user ro); COMP_CWORD=2; _vizard vizard ro user; echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-euc", &format!("{script}\n{asked}")]).output().unwrap();
    let (found, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && found.trim() == "rotate", "{found}{complaints}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = run(home.path(), &["generate", "completions", shell]);
        assert!(code == 0 && script.contains("doctor"), "{shell}");
    }
    assert_eq!(run(home.path(), &["generate", "completions", "nosuchshell"]).0, 2);
}

#[test]
fn the_schema_that_is_printed_is_the_one_in_the_documents() {
    let (code, schema, _) = run(home().path(), &["generate", "schema"]);
    assert_eq!((code, schema), (0, fs::read_to_string("docs/vizard.schema.json").unwrap()));
}

#[test]
fn help_teaches() {
    for command in [&["init"][..], &["user", "add"], &["doctor"]] {
        let (code, help, _) = run(home().path(), &[command, &["--help"]].concat());
        let example = format!("\n  vizard {}", command.join(" "));
        assert!(code == 0 && help.contains("Examples:") && help.contains(&example), "{help}");
        assert!(help.contains("Exit codes:\n  0  "), "{help}");
    }
}
