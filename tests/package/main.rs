//! The Debian package: what is in it, what Debian's own checker says, and its life on a machine.
//!
//! It is made of the program of these tests by cargo-deb, and installed, upgraded, removed and purged by dpkg on a copy of
//! this machine's file system that is thrown away (`package/throwaway.sh`). On other such copies a systemd is booted
//! (`package/boot.sh`) that starts, reloads, upgrades and stops the service (`package/service.sh`), and that does what the
//! documents tell one to do to a machine (`package/documents.sh`). All of it takes root.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Says which programs are missing, if any are; with `CI` set that is a failure.
fn is_missing(tools: &[&str]) -> bool {
    let absent = |tool: &&&str| Command::new(tool).arg("--version").output().is_err();
    let missing: Vec<_> = tools.iter().filter(absent).collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "missing: {missing:?}");
        // Written past the test runner, which swallows what a passing test prints.
        let _ = writeln!(std::io::stderr(), "skipped a test of the package: missing {missing:?}");
    }
    !missing.is_empty()
}

/// What a command that must succeed prints.
fn text(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The package, made under this clock and by someone whose files get these rights.
fn package(zone: &str, mask: &str) -> PathBuf {
    let mut command = Command::new("bash");
    command.args(["-c", "umask $0 && exec bash $1 --debug", mask]).arg(file("docs/deploy/package.sh"));
    text(command.env("SOURCE_DATE_EPOCH", "1234567890").env("TZ", zone)).trim().into()
}

/// The same with a later version, and with another file where configurations are.
fn upgrade(package: &Path, folder: &Path) -> PathBuf {
    let (parts, later) = (folder.join("parts"), folder.join("later.deb"));
    text(Command::new("dpkg-deb").arg("--raw-extract").args([package, &parts]));
    let control = fs::read_to_string(parts.join("DEBIAN/control")).expect("a control file");
    let version = control.lines().find(|line| line.starts_with("Version: ")).expect("a version");
    fs::write(parts.join("DEBIAN/control"), control.replace(version, &format!("{version}+later"))).expect("writes");
    fs::write(parts.join("etc/vizard/vizard.toml"), "# Something new stands here.\n").expect("writes");
    text(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).args([&parts, &later]));
    later
}

/// Modes and owners of what is in it, by path.
fn contents(package: &Path) -> BTreeMap<String, String> {
    let list = text(Command::new("dpkg-deb").arg("--contents").arg(package));
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let attributes = format!("{} {}", words.next()?, words.next()?);
        Some((words.nth(3)?.trim_start_matches("./").to_owned(), attributes))
    };
    list.lines().filter_map(entry).collect()
}

#[test]
fn the_package_is_as_debian_wants_it_and_lives_as_it_should() {
    if is_missing(&["cargo-deb", "dpkg-deb", "lintian", "strip"]) {
        return;
    }
    let package = made_twice();
    holds_what_it_should(&package);
    let complaints = text(Command::new("lintian").args(["--allow-root", "--fail-on", "none"]).arg(&package));
    assert_eq!(complaints, "", "lintian complains");
    lives_as_it_should(&package);
    let service = file("tests/package/service.sh");
    booted(&service, &[&package]);
    let documents = file("tests/package/documents.sh");
    booted(&documents, &[Path::new(env!("CARGO_BIN_EXE_vizard")), &file("docs")]);
}

/// A file of the sources.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Anyone who makes it of the same program gets the same bytes.
fn made_twice() -> PathBuf {
    let first = fs::read(package("UTC", "022")).expect("a package");
    let package = package("Asia/Tokyo", "077");
    assert!(first == fs::read(&package).expect("a package"), "another package of the same");
    package
}

fn holds_what_it_should(package: &Path) {
    let contents = contents(package);
    for (path, attributes) in [
        ("usr/bin/vizard", "-rwxr-xr-x 0/0"),
        ("etc/vizard/vizard.toml", "-rw-r--r-- 0/0"),
        ("usr/share/man/man1/vizard.1.gz", "-rw-r--r-- 0/0"),
        ("usr/share/man/man1/vizard-user-add.1.gz", "-rw-r--r-- 0/0"),
        ("usr/share/bash-completion/completions/vizard", "-rw-r--r-- 0/0"),
        ("usr/share/zsh/vendor-completions/_vizard", "-rw-r--r-- 0/0"),
        ("usr/share/fish/vendor_completions.d/vizard.fish", "-rw-r--r-- 0/0"),
        ("usr/share/doc/vizard/copyright", "-rw-r--r-- 0/0"),
    ] {
        assert_eq!(contents.get(path).map(String::as_str), Some(attributes), "{path} in {contents:#?}");
    }
    for unit in ["vizard.service", "vizard.socket"] {
        assert!(contents.keys().any(|path| path.ends_with(&format!("lib/systemd/system/{unit}"))), "{contents:#?}");
    }
    let linked =
        fs::read_dir(file("docs")).expect("a folder").flat_map(|entry| links(&entry.expect("an entry").path()));
    for link in linked {
        assert!(
            contents.contains_key(&format!("usr/share/doc/vizard/{link}")),
            "a document leads to {link}: {contents:#?}"
        );
    }
    let depends = text(Command::new("dpkg-deb").arg("--field").arg(package).arg("Depends"));
    assert!(depends.contains("libc6 (>= ") && depends.contains("adduser"), "{depends}");
    let pages = contents.keys().filter(|path| path.starts_with("usr/share/man/man1/vizard")).count();
    assert!(pages > 20, "{contents:#?}");
}

/// Where a document leads within its folder.
fn links(document: &Path) -> Vec<String> {
    if document.extension().is_none_or(|extension| extension != "md") {
        return Vec::new();
    }
    let text = fs::read_to_string(document).expect("a document");
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    links
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with(".."))
        .map(str::to_owned)
        .collect()
}

fn lives_as_it_should(package: &Path) {
    let Some(mut command) = as_root("unshare") else { return };
    let work = TempDir::with_prefix_in("package-", env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let later = upgrade(package, work.path());
    command.arg("--mount").arg("bash").arg(file("tests/package/throwaway.sh"));
    text(command.args([&file("tests/package/life.sh"), package, &later]));
}

/// What `boot.sh` ends with where the kernel gives no systemd what it takes.
const NOT_HERE: i32 = 77;

/// Has a systemd that is booted for it run the script.
fn booted(script: &Path, files: &[&Path]) {
    let Some(mut command) = as_root("timeout") else { return };
    command.args(["--signal=KILL", "300", "bash"]).args([&file("tests/package/boot.sh"), script]).args(files);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(NOT_HERE) {
        let _ = writeln!(std::io::stderr(), "skipped {}: {said}", script.display());
        return;
    }
    assert!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// The command, if this user may become root without a word; without `CI` others go without.
fn as_root(program: &str) -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        return Some(Command::new(program));
    }
    if Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("sudo");
        command.args(["-n", program]);
        return Some(command);
    }
    assert!(std::env::var_os("CI").is_none(), "the package wants root");
    let _ = writeln!(std::io::stderr(), "skipped a part of the test of the package, which wants root");
    None
}
