//! A backup is made while the proxy runs, and what is restored elsewhere is the same proxy: links, usage, spent hellos.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::KEY;
use crate::support::dice::Dice;
use crate::support::fake_tls::{Login, Refused};
use crate::support::hello::capture;
use crate::support::mock_dc::{MockDc, Role};
use crate::support::origin::NAME;
use crate::support::vizard::Setup;
use data_encoding::HEXLOWER;

fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    let Output { status, stdout, stderr } = command.args(arguments).env_clear().stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn login() -> Login {
    Login::of(capture("tdlib-1.8.69-1"), KEY, &mut Dice::unseen())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_restored_is_the_same_proxy() {
    let dc = MockDc::start(Role::Echo).await;
    let home = tempfile::tempdir().unwrap();
    let old = home.path().join("old");
    let (config, state) = (old.join("vizard.toml"), old.join("state"));
    fs::create_dir(&old).unwrap();
    let file = format!(
        "domain = \"{NAME}\"\nlisten = [\"127.0.0.1:0\"]\n[[users]]\nname = \"alice\"\nsecret_file = \"alice.secret\"\n\
         quota = \"1GB\"\n[site]\n[telegram.addresses]\n2 = [\"{}\"]\n",
        dc.addr
    );
    fs::write(&config, file).unwrap();
    fs::write(old.join("alice.secret"), HEXLOWER.encode(&KEY)).unwrap();
    fs::set_permissions(old.join("alice.secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let setup = Setup::file(&state, &config);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    let spent = login();
    spent.enter(proxy.addr).await.unwrap().echo(&[7; 3000]).await.unwrap();

    let (backup, passphrase) = (home.path().join("backup"), home.path().join("passphrase"));
    fs::write(&passphrase, "not thought of but made\n").unwrap();
    let flags = ["--config", text(&config), "--state-dir", text(&state), "--passphrase-file", text(&passphrase)];
    let make = || run(&[&["backup", text(&backup)], &flags[..]].concat());
    let (code, out, err) = make();
    assert!(code == 0 && out.contains("alice.secret") && !out.contains("--encrypt"), "{out}{err}");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, _, err) = make();
    assert!(code == 2 && err.contains("--force"), "{err}");

    let (code, _, err) = run(&["restore", text(&backup), "--passphrase-file", text(&passphrase), "--force"]);
    assert!(code == 1 && err.contains("a proxy runs"), "{err}");
    assert_eq!(tokio::task::spawn_blocking(|| proxy.terminate()).await.unwrap().code(), Some(0));
    let (code, _, err) = run(&["restore", text(&backup), "--passphrase-file", text(&passphrase)]);
    assert!(code == 2 && err.contains("would be replaced"), "{err}");

    let new = home.path().join("new");
    let (moved, filled) = (new.join("etc/other.toml"), new.join("var/state"));
    let place = ["--config", text(&moved), "--state-dir", text(&filled)];
    let restore = |passphrase: &Path| {
        run(&[&["restore", text(&backup), "--passphrase-file", text(passphrase)], &place[..]].concat())
    };
    let wrong = home.path().join("wrong");
    fs::write(&wrong, "something else").unwrap();
    let (code, _, err) = restore(&wrong);
    assert!(code == 2 && err.contains("passphrase") && !new.exists(), "{err}");
    let (code, out, err) = restore(&passphrase);
    assert!(code == 0 && out.contains("other.toml") && err.contains("next: "), "{out}{err}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for path in [&moved, &new.join("etc/alice.secret"), &filled.join("replay"), &filled.join("usage.redb")] {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&filled), 0o700);
    assert!(!filled.join("control").exists());

    let links = |config: &Path, state: &Path| {
        let flags = ["link", "--config", text(config), "--state-dir", text(state), "--host", "h", "--port", "443"];
        run(&flags)
    };
    assert_eq!(links(&config, &state), links(&moved, &filled));
    let (_, shown, _) =
        run(&["user", "show", "alice", "--json", "--config", text(&moved), "--state-dir", text(&filled)]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["usage"]["in_period"].as_u64().unwrap() >= 6000, "{shown}");

    let setup = Setup::file(&filled, &moved);
    let proxy = tokio::task::spawn_blocking(move || setup.start()).await.unwrap();
    assert_eq!(spent.enter(proxy.addr).await.map(|_| ()), Err(Refused::Digest), "a spent hello stays spent");
    login().enter(proxy.addr).await.unwrap().echo(b"a new one").await.unwrap();
}

#[test]
fn a_plain_backup_is_a_tar_file_that_says_what_it_is() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let (code, link, _) = run(&["link", "--state-dir", text(&state), "--host", "h"]);
    assert_eq!(code, 0);
    let backup = home.path().join("backup.tar");
    let flags = ["backup", text(&backup), "--state-dir", text(&state)];
    let (code, _, err) = run(&flags);
    assert!(code == 2 && err.contains("--without-configuration") && !backup.exists(), "{err}");
    let (code, out, _) = run(&[&flags[..], &["--without-configuration"]].concat());
    assert!(code == 0 && out.contains("--encrypt"), "{out}");
    let output = Command::new("tar").args(["--list", "--file", text(&backup)]).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert!(names.starts_with("manifest.json\n") && names.contains("state/secret\n"), "{names}");
    fs::remove_dir_all(&state).unwrap();
    let (code, out, _) = run(&["restore", text(&backup), "--list"]);
    assert!(code == 0 && out.contains(text(&state)) && !state.exists(), "{out}");
    let (code, _, err) = run(&["restore", text(&backup)]);
    assert!(code == 2 && err.contains("not authenticated") && err.contains("--allow") && !state.exists(), "{err}");
    assert_eq!(run(&["restore", text(&backup), "--allow", text(&state)]).0, 0);
    assert_eq!(run(&["link", "--state-dir", text(&state), "--host", "h"]).1, link);
    let (code, _, err) = run(&["restore", "Cargo.toml"]);
    assert!(code == 2 && err.contains("cannot be used") && err.contains("next: "), "{err}");
    let (code, _, err) = run(&["backup", text(&home.path().join("b")), "--encrypt", "--state-dir", text(&state)]);
    assert!(code == 2 && err.contains("--passphrase-file"), "{err}");
}

/// A backup as a stranger makes it, with `tar`.
fn made_up(home: &Path, manifest: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
    let folder = tempfile::tempdir_in(home).unwrap();
    fs::write(folder.path().join("manifest.json"), manifest).unwrap();
    for (place, content) in files {
        let path = folder.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let archive = home.join("made-up.tar");
    let names = files.iter().map(|(place, _)| *place);
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder.path()).arg("-cf").arg(&archive).arg("manifest.json").args(names);
    assert!(tar.status().unwrap().success());
    archive
}

#[test]
fn a_made_up_backup_writes_nowhere_but_where_it_is_allowed_to() {
    let home = tempfile::tempdir().unwrap();
    let (etc, state, ssh) = (home.path().join("etc"), home.path().join("state"), home.path().join("root/.ssh"));
    fs::create_dir_all(&ssh).unwrap();
    let config = etc.join("vizard.toml");
    let keys = ssh.join("authorized_keys");
    let manifest = |file: &str| {
        format!(
            "{{\"format\":1,\"version\":\"0\",\"made\":0,\"config\":{config:?},\"state_dir\":{state:?},\
             \"files\":[{file:?}],\"left_out\":[]}}"
        )
    };
    let files = [("config.toml", "domain = 'www.example.com'\n"), ("files/0", "ssh-ed25519 mine\n"), ("state/a", "a")];
    let place = ["--config", text(&config), "--state-dir", text(&state)];
    let restore = |archive: &Path, more: &[&str]| run(&[&["restore", text(archive)], &place[..], more].concat());

    let archive = made_up(home.path(), &manifest(text(&keys)), &files);
    let (code, _, err) = restore(&archive, &[]);
    assert!(code == 2 && err.contains(text(&keys)) && err.contains("not authenticated"), "{err}");
    assert!(!keys.exists() && !state.exists() && !etc.exists(), "nothing at all is written");
    assert_eq!(restore(&archive, &["--allow", text(&keys)]).0, 0);
    assert!(keys.exists() && state.join("a").exists() && config.exists());

    let up = made_up(home.path(), &manifest(&format!("{}/../root/.ssh/other", text(&etc))), &files);
    let (code, _, err) = restore(&up, &["--force"]);
    assert!(code == 2 && err.contains("..") && !ssh.join("other").exists(), "{err}");

    // A link that was there before is in the way.
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::symlink(&ssh, state.join("deep")).unwrap();
    let deep = [files[0], files[1], ("state/deep/planted", "a")];
    let archive = made_up(home.path(), &manifest(text(&etc.join("a.secret"))), &deep);
    let (code, _, err) = restore(&archive, &["--force"]);
    assert!(code == 1 && err.contains("link") && !ssh.join("planted").exists(), "{err}");
}
