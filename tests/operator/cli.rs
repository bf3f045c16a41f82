//! The built program: outputs, exit codes, and that every failure names the next step.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::command::{home, run, vizard};

#[test]
fn secrets_are_new_each_time_and_come_in_all_forms() {
    let home = home();
    let secret = |arguments: &[&str]| {
        let (code, out, _) = run(home.path(), &[&["secret"], arguments].concat());
        assert_eq!(code, 0);
        out.strip_suffix('\n').unwrap().to_owned()
    };
    let plain = secret(&[]);
    assert!(plain.len() == 32 && plain.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{plain}");
    assert_ne!(plain, secret(&[]));
    let ee = secret(&["--domain", "Example.com"]);
    assert!(ee.starts_with("ee") && ee.ends_with("6578616d706c652e636f6d") && ee.len() == 56, "{ee}");
    assert_eq!(secret(&["--base64"]).len(), 22);
    assert!(secret(&["--base64", "--domain", "example.com"]).ends_with("leGFtcGxlLmNvbQ"));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing is kept");
    let (code, _, err) = run(home.path(), &["secret", "--domain", "a.b"]);
    assert!(code == 2 && err.contains("4 to 182") && err.contains("next: "), "{err}");
}

#[test]
fn check_tells_fine_from_mistaken_from_unreadable() {
    let home = home();
    let file = home.path().join("vizard.toml");
    let check = || run(home.path(), &["check", "--config", "vizard.toml"]);

    let (code, _, err) = check();
    assert!(code == 2 && err.contains("vizard.toml cannot be read") && err.contains("next: "), "{err}");

    fs::write(&file, "lisen = [\"[::]:443\"]\n[session]\nidle = \"soon\"\n").unwrap();
    let (code, out, err) = check();
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("vizard.toml:1:1") && err.contains("did you mean `listen`?"), "{err}");
    assert!(err.contains("vizard.toml:3:8") && err.contains("2 mistakes") && err.contains("next: "), "{err}");
    assert!(!err.contains('\x1b'), "no colours into a pipe");

    fs::write(&file, "domain = \"www.example.com\"\n").unwrap();
    let (code, out, err) = check();
    assert!(
        code == 0 && err.is_empty() && out.contains("is fine") && out.contains("www.example.com:443"),
        "{out}{err}"
    );
    assert!(!home.path().join("state").exists(), "check changes nothing");

    let (code, _, err) = run(home.path(), &["check", "--no-such-flag"]);
    assert!(code == 2 && err.contains("--no-such-flag"), "{err}");
}

/// The unit leaves a proxy that ended with this code alone, and starts every other one again.
#[test]
fn what_a_restart_cannot_mend_is_told_from_what_it_can() {
    let prevented =
        include_str!("../../docs/deploy/vizard.service").lines().find_map(|line| line.strip_prefix(PREVENT));
    assert_eq!(prevented, Some("2"));
    let home = home();
    let file = home.path().join("vizard.toml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    let start = || run(home.path(), &["run", "--config", "vizard.toml", "--listen", &port]);
    let unreadable = start();
    assert!(unreadable.0 == 2 && unreadable.2.contains("cannot be read"), "{unreadable:?}");
    for mistake in [
        "lisen = []",
        "[session]\nidle = \"soon\"",
        "[[users]]\nname = \"a\"\nsecret_file = \"missing\"",
        "[site]\ncertificate = \"missing\"\nkey = \"missing\"",
        "[lists]\ndeny = [\"missing\"]",
    ] {
        fs::write(&file, mistake).unwrap();
        let (code, _, err) = start();
        assert!(code == 2 && err.contains("vizard.toml:") && err.contains("next: "), "{mistake}: {code} {err}");
    }
    fs::write(&file, "").unwrap();
    let (code, _, err) = start();
    assert!(code == 1 && err.contains("cannot listen") && err.contains("next: "), "{code} {err}");
}

/// What `run` would open `check` opens too, and both end with the code after which the unit does not start it again.
#[test]
fn keys_that_do_not_fit_are_found_by_check_and_by_run() {
    let home = home();
    let make = |name: &str| {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        let state = folder.to_str().unwrap();
        let arguments =
            ["link", "--state-dir", state, "--domain", "www.example.com", "--cover", "site", "--host", "a.example"];
        assert_eq!(run(home.path(), &arguments).0, 0);
        ["crt", "key"].map(|end| folder.join(format!("self-signed-www.example.com.{end}")).to_str().unwrap().to_owned())
    };
    let ([certificate, key], [other, other_key]) = (make("one"), make("two"));
    let put = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let encrypted =
        put("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let broken = put("broken.mmdb", "no database");
    let site = |certificate: &str, key: &str| format!("[site]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
    for (text, fine) in [
        (site(&certificate, &key), true),
        (site(&other, &other_key), true),
        (site(&key, &certificate), false),
        (site(&certificate, &other_key), false),
        (site(&certificate, &encrypted), false),
        (site(&broken, &key), false),
        (format!("[lists]\ncountry_database = \"{broken}\"\ndeny_countries = [\"XX\"]\n"), false),
        ("[audit_log]\nfile = \"missing/audit.log\"\n".to_owned(), false),
    ] {
        fs::write(home.path().join("vizard.toml"), format!("listen = [\"127.0.0.1:0\"]\n{text}")).unwrap();
        let (code, out, err) = run(home.path(), &["check", "--config", "vizard.toml"]);
        assert_eq!(code, if fine { 0 } else { 2 }, "{text}: {out}{err}");
        if !fine {
            assert!(err.contains("next: "), "{err}");
            let (code, out, err) = run(home.path(), &["run", "--config", "vizard.toml"]);
            assert!(code == 2 && err.contains("next: "), "{text}: {code} {out}{err}");
        }
    }
}

#[test]
fn every_command_finds_the_usual_configuration() {
    let home = home();
    let folder = home.path().join("etc");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("vizard.toml"), COMMENTED).unwrap();
    let usual = |arguments: &[&str]| {
        let output = vizard(home.path(), arguments).env("CONFIGURATION_DIRECTORY", &folder).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    };
    for arguments in [
        &["check"][..],
        &["link"],
        &["user", "list"],
        &["user", "link", "alice"],
        &["user", "add", "bob"],
        &["user", "remove", "bob"],
    ] {
        let (code, text) = usual(arguments);
        assert!(code == 0 && !text.contains("default"), "{arguments:?}: {text}");
    }
    assert!(usual(&["link"]).1.contains(KEYS[0]));
    let backup = home.path().join("backup");
    let (code, text) = usual(&["backup", backup.to_str().unwrap()]);
    assert!(code == 0 && text.contains("etc/vizard.toml"), "{text}");
    let (code, text) = usual(&["doctor", "--user", "carol"]);
    assert!(code == 2 && text.contains("alice"), "{text}");
    // One that cannot be read is not one that is missing.
    fs::remove_file(folder.join("vizard.toml")).unwrap();
    std::os::unix::fs::symlink("loop", folder.join("loop")).unwrap();
    let (code, text) = usual(&["backup", home.path().join("other").to_str().unwrap()]);
    assert!(code == 2 && text.contains("--config FILE") && !home.path().join("other").exists(), "{text}");
    let (code, text) = usual(&["backup", home.path().join("other").to_str().unwrap(), "--without-configuration"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn removing_the_last_user_lets_nobody_in() {
    let home = home();
    let file = home.path().join("vizard.toml");
    let config = "listen = [\"127.0.0.1:0\"]\n[site]\n[[users]]\nname = \"alice\"\nsecret = \"00112233445566778899aabbccddeeff\"\n";
    let started = |expected: &str| {
        let out = home.path().join("out");
        let mut command = vizard(home.path(), &["run", "--config", "vizard.toml", "--log", "text"]);
        let both = fs::File::create(&out).unwrap();
        let mut child = command.stdout(both.try_clone().unwrap()).stderr(both).spawn().unwrap();
        let said = || fs::read_to_string(&out).unwrap();
        wait_until(|| said().contains("\nready") || child.try_wait().unwrap().is_some());
        signal(&child, rustix::process::Signal::TERM);
        assert!(child.wait().unwrap().success() && said().contains(expected), "{}", said());
    };
    // At the first start of all one is made up.
    fs::write(&file, "listen = [\"127.0.0.1:0\"]\n[site]\n").unwrap();
    started("the link of 1 user");
    fs::write(&file, config).unwrap();
    started("the link of 1 user");
    assert_eq!(run(home.path(), &["user", "remove", "alice", "--config", "vizard.toml"]).0, 0);
    started("no client can connect");
    let (code, out, err) = run(home.path(), &["check", "--config", "vizard.toml"]);
    assert!(code == 0 && err.contains("no client can connect") && out.contains("see the warnings"), "{out}{err}");
    let (code, out, err) = run(home.path(), &["link", "--config", "vizard.toml"]);
    assert!(code == 1 && out.is_empty() && err.contains("no users are configured"), "{out}{err}");
    assert!(run(home.path(), &["user", "list", "--config", "vizard.toml"]).1.contains("no client can connect"));
}

const PREVENT: &str = "RestartPreventExitStatus=";

/// Keys of all kinds, none of which may ever be printed.
const KEYS: [&str; 9] = [
    "00112233445566778899aabbccddeeff",
    "ABEiM0RVZneImaq7zN3u_w",
    "ffeeddccbbaa99887766554433221100",
    "listkey",
    "hookkey",
    "hooktoken",
    "dnskey",
    "proxypassword",
    "coverpassword",
];

/// A configuration with a key in every place where one can stand, and the file that it names.
fn with_keys(home: &Path) -> String {
    let secret = |name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    secret("bob.secret", KEYS[2]);
    secret("hook.token", KEYS[5]);
    format!(
        "domain = \"proxy.example.com\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[users]]\nname = \"alice\"\nsecret = \"{}\"\n\
         [[users]]\nname = \"bob\"\nsecret_file = \"bob.secret\"\n\
         [lists]\ndeny = [\"http://127.0.0.1:9/listkey?k=listkey\"]\n\
         [alarms]\nwebhook = \"http://127.0.0.1:9/hookkey\"\nwebhook_token_file = \"hook.token\"\n\
         [dns]\nhttps = \"http://127.0.0.1:9/dnskey\"\n\
         [[routes]]\nname = \"way\"\nkind = \"socks5\"\naddress = \"127.0.0.1:9\"\nuser = \"u\"\npassword = \"proxypassword\"\n\
         [site]\n[log]\nlevel = \"debug\"\n",
        KEYS[0]
    )
}

/// The command line of the unit that is shipped, for this configuration.
fn unit(home: &Path, more: &[&str]) -> std::process::Command {
    let unit = include_str!("../../docs/deploy/vizard.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(words, ["/usr/bin/vizard", "run", "--config", "/etc/vizard/vizard.toml"]);
    vizard(home, &[&["run", "--config", "vizard.toml"], more].concat())
}

#[test]
fn a_service_prints_no_key_and_says_how_links_are_printed() {
    for log in ["text", "json"] {
        let home = home();
        fs::write(home.path().join("vizard.toml"), with_keys(home.path())).unwrap();
        let (out, err) = (home.path().join("out"), home.path().join("err"));
        let mut command = unit(home.path(), &["--log", log]);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let mut child = command.spawn().unwrap();
        let said = || [&out, &err].map(|file| fs::read_to_string(file).unwrap()).concat();
        let ready = |text: &str| text.contains("\nready") || text.contains("\"ready\":true");
        wait_until(|| ready(&said()) || child.try_wait().unwrap().is_some());
        // What a reload says goes to the same places.
        signal(&child, rustix::process::Signal::HUP);
        wait_until(|| said().contains("was reloaded") || child.try_wait().unwrap().is_some());
        signal(&child, rustix::process::Signal::TERM);
        assert!(child.wait().unwrap().success(), "{}", said());
        let text = said();
        assert!(ready(&text) && text.contains("vizard link --config vizard.toml"), "{text}");
        KEYS.iter().for_each(|key| assert!(!text.contains(key), "{key} in {text}"));
        assert!(!text.contains("tg://"), "{text}");
    }
}

#[test]
fn mistakes_are_told_without_the_keys_beside_them() {
    let home = home();
    let good = with_keys(home.path());
    for (place, mistake) in [
        ("[[users]]\nname = \"bob\"", "[[users]\nname = \"bob\""),
        ("webhook = \"http:", "webhook = \"ftp:"),
        ("deny = [\"http:", "deny = [\"ftp:"),
        ("deny = [\"http://", "deny = [\"http://user:listkey@"),
        ("deny = [\"http:", "lisst = [\"http:"),
        ("https = \"http:", "https = \"ftp:"),
        ("https = \"http:", "htps = \"http:"),
        ("address = \"127.0.0.1:9\"", "address = \"socks5://u:proxypassword@127.0.0.1:9\""),
        ("password = ", "pasword = "),
        ("[site]", "[cover]\naddress = \"u:coverpassword@127.0.0.1:9\""),
        ("[site]", "[cover]\naddress = \"https://u:coverpassword@127.0.0.1:9\""),
        ("[site]", "[site]\nupstream = \"http://u:coverpassword@127.0.0.1:9\""),
        ("[site]", "[link]\nhost = \"u:coverpassword@h\"\n[site]"),
    ] {
        assert!(good.contains(place), "{place}");
        fs::write(home.path().join("vizard.toml"), good.replacen(place, mistake, 1)).unwrap();
        let output = unit(home.path(), &[]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(output.status.code() == Some(2) && text.contains("next: "), "{mistake}: {text}");
        KEYS.iter().for_each(|key| assert!(!text.contains(key), "{mistake}: {key} in {text}"));
    }
    for arguments in [
        &["run", "--cover", "u:coverpassword@127.0.0.1:9"][..],
        &["run", "--listen", "u:coverpassword@127.0.0.1:9"],
        &["run", "--link-host", "u:coverpassword@h"],
        &["run", &format!("alice={}", KEYS[0])],
        &["run", &format!("--secre={}", KEYS[0])],
        &["run", "--secret-file", &format!("alice={}", KEYS[1])],
        &["user", "add", "carol", "--secert", KEYS[0]],
    ] {
        let (code, out, err) = run(home.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {out}{err}");
        KEYS.iter().for_each(|key| assert!(!out.contains(key) && !err.contains(key), "{arguments:?}: {err}"));
    }
}

#[test]
fn secrets_come_from_files_and_variables_and_those_on_the_command_line_are_warned_of() {
    let home = home();
    let secret = home.path().join("alice.secret");
    fs::write(&secret, KEYS[0]).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let link = |arguments: &[&str], variables: &[(&str, &str)]| {
        let fixed = ["link", "--json", "--host", "192.0.2.1", "--port", "443"];
        let mut command = vizard(home.path(), &[&fixed, arguments].concat());
        let output = command.envs(variables.iter().copied()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let inline = format!("alice={}", KEYS[0]);
    let (out, err) = link(&["--secret", &inline], &[]);
    assert!(out.contains(KEYS[0]) && err.contains("list of processes") && err.contains("--secret-file"), "{err}");
    for (arguments, variables) in [
        (&["--secret-file", "alice=alice.secret"][..], &[][..]),
        (&[], &[("VIZARD_SECRET", inline.as_str())]),
        (&[], &[("VIZARD_SECRET_FILE", "alice=alice.secret")]),
    ] {
        let (out, err) = link(arguments, variables);
        assert!(out.contains(KEYS[0]) && out.contains("\"alice\"") && err.is_empty(), "{out}{err}");
    }
}

#[test]
fn the_secret_of_a_new_user_comes_from_a_file() {
    let home = home();
    fs::write(home.path().join("vizard.toml"), COMMENTED).unwrap();
    fs::write(home.path().join("bob.secret"), KEYS[2]).unwrap();
    let user = |name: &str, more: &[&str]| {
        run(home.path(), &[&["user", "add", name, "--config", "vizard.toml"], more].concat())
    };
    let (code, out, err) = user("bob", &["--secret-file", "bob.secret"]);
    assert!(code == 0 && err.is_empty() && out.contains(KEYS[2]), "{out}{err}");
    let (code, _, err) = user("carol", &["--secret", &"12".repeat(16)]);
    assert!(code == 0 && err.contains("list of processes"), "{err}");
}

#[test]
fn many_users_come_from_a_list() {
    let home = home();
    fs::write(home.path().join("vizard.toml"), COMMENTED).unwrap();
    let add = |list: &str| {
        fs::write(home.path().join("list"), list).unwrap();
        run(home.path(), &["user", "add", "--from", "list", "--config", "vizard.toml", "--quota", "5GB/month"])
    };
    let before = fs::read_to_string(home.path().join("vizard.toml")).unwrap();
    for (list, said) in [
        ("", "has no names"),
        ("dora\nemil=12\n", "line 2"),
        ("dora\nalice\n", "alice already"),
        ("dora\nemil\ndora\n", "dora already"),
        ("no such name\n", "cannot be the name of a user"),
    ] {
        let (code, out, err) = add(list);
        assert!(code != 0 && err.contains(said) && !err.contains("12\n"), "{list}: {out}{err}");
        assert_eq!(fs::read_to_string(home.path().join("vizard.toml")).unwrap(), before, "{list}");
    }
    let (code, out, err) = add(&format!("# friends\ndora\n\nemil = {}\n", KEYS[2]));
    assert!(code == 0 && out.starts_with("added 2 users"), "{out}{err}");
    assert!(["dora\n", "emil\n", KEYS[2]].iter().all(|text| out.contains(text)) && !out.contains("alice"), "{out}");
    let (_, out, _) = run(home.path(), &["user", "list", "--config", "vizard.toml"]);
    assert!(out.matches("5").count() >= 2 && out.contains("dora") && out.contains("emil"), "{out}");
    let two = ["link", "--user", "dora", "--user", "emil", "--host", "a.example", "--config", "vizard.toml"];
    let (_, out, _) = run(home.path(), &two);
    assert_eq!(out.matches("tg://").count(), 2, "{out}");
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), signal);
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "it never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn environment_names_the_file_and_flags_go_first() {
    let home = home();
    fs::write(home.path().join("a.toml"), "domain = \"file.example\"\n").unwrap();
    let output = |arguments: &[&str]| {
        let mut command = vizard(home.path(), arguments);
        let output = command.env("VIZARD_CONFIG", "a.toml").env("VIZARD_COVER", "192.0.2.1:8443").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = output(&["check"]);
    assert!(text.contains("file.example") && text.contains("192.0.2.1:8443"), "{text}");
    let text = output(&["check", "--domain", "flag.example", "--cover", "site"]);
    assert!(text.contains("flag.example") && text.contains("built-in site"), "{text}");
}

#[test]
fn a_wrong_secret_on_the_command_line_is_not_repeated() {
    let (code, out, err) =
        run(home().path(), &["check", "--secret", "alice=0123456789abcdef", "--secret", "0123456789"]);
    assert_eq!(code, 2);
    assert!(err.contains("--secret alice=(hidden)") && !err.contains("0123") && !out.contains("0123"), "{err}");
    let swapped = "00112233445566778899aabbccddeeff=alice";
    let (code, _, err) = run(home().path(), &["check", "--secret", swapped]);
    assert!(code == 2 && err.contains("--secret (hidden)") && !err.contains("0011"), "{err}");
}

#[test]
fn links_stay_the_same_from_start_to_start() {
    let home = home();
    let link = || run(home.path(), &["link", "--host", "proxy.example.com", "--port", "8443"]);
    let (code, first, _) = link();
    assert_eq!(code, 0);
    let lines: Vec<_> = first.lines().map(str::trim).collect();
    assert_eq!(lines[0], "default");
    assert!(lines[1].starts_with("tg://proxy?server=proxy.example.com&port=8443&secret=ee"), "{first}");
    assert_eq!(lines[2], lines[1].replace("tg://", "https://t.me/"));
    assert!(!first.contains('\x1b'), "no QR code into a pipe");
    assert_eq!(link().1, first);
    let secret = fs::read_to_string(home.path().join("state/secret")).unwrap();
    assert!(lines[1].contains(secret.trim()));
}

#[test]
fn links_of_named_users_in_the_form_that_is_asked_for() {
    let home = home();
    let arguments = [
        "--secret",
        "alice=00112233445566778899aabbccddeeff",
        "--secret",
        "bob=7kARIjNEVWZ3iJmqu8zd7v9leGFtcGxlLmNvbQ",
        "--domain",
        "example.com",
        "--link-host",
        "[2001:DB8::1]",
        "--listen",
        "127.0.0.1:443",
    ];
    let link = |more: &[&str]| run(home.path(), &[&["link"], &arguments[..], more].concat());
    let (_, out, _) = link(&["--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let base = "server=2001:db8::1&port=443&secret=ee";
    let domain = "6578616d706c652e636f6d";
    assert_eq!(value[0]["tg"], format!("tg://proxy?{base}00112233445566778899aabbccddeeff{domain}"));
    assert_eq!(value[1]["web"], format!("https://t.me/proxy?{base}40112233445566778899aabbccddeeff{domain}"));
    let (_, out, _) = link(&["--user", "bob", "--base64url"]);
    assert!(out.contains("secret=7kARIjNEVWZ3iJmqu8zd7v9leGFtcGxlLmNvbQ") && !out.contains("alice"), "{out}");
    let (_, out, _) = link(&["--user", "bob", "--qr"]);
    assert!(out.contains("\x1b[38;5;231;48;5;231m"), "{out}");
    let (code, _, err) = link(&["--user", "carol"]);
    assert!(code == 2 && err.contains("no user `carol`") && err.contains("alice, bob"), "{err}");
    let (code, _, err) = link(&["--port", "0"]);
    assert!(code == 2 && err.contains("1 to 65535"), "{err}");
}

#[test]
fn a_private_address_in_a_link_is_pointed_out() {
    let (_, out, _) = run(home().path(), &["link", "--listen", "127.0.0.1:443"]);
    assert!(out.contains("server=127.0.0.1&") && out.contains("private address") && out.contains("--host"), "{out}");
}

#[test]
fn a_state_directory_that_cannot_be_is_named() {
    let home = home();
    fs::write(home.path().join("state"), "a file").unwrap();
    let (code, _, err) = run(home.path(), &["link"]);
    assert!(code == 1 && err.contains("state") && err.contains("next: ") && err.contains("--state-dir"), "{err}");
}

#[test]
fn health_follows_the_listener() {
    let home = home();
    let health = |port: u16| run(home.path(), &["health", "--listen", &format!("0.0.0.0:{port}")]);
    // The kernel accepts connections for a program that hangs.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, _, err) = health(listener.local_addr().unwrap().port());
    assert!(code == 1 && err.contains("hangs") && err.contains("next: "), "{err}");
    // Something comes of it: here an alert in clear.
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.incoming().map(|stream| (stream.unwrap(), ())).nth(1).unwrap();
        std::io::Write::write_all(&mut stream, &[21, 3, 3, 0, 2, 2, 40]).unwrap();
        std::io::Read::read_to_end(&mut stream, &mut Vec::new()).ok();
    });
    let (code, out, err) = health(port);
    assert!(code == 0 && out.contains("answers"), "{out}{err}");
    answering.join().unwrap();
    // Bound but not listening: the port answers no one, and no one else can take it meanwhile.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = silent.local_addr().unwrap().as_socket().unwrap().port();
    let (code, _, err) = health(port);
    assert!(code == 1 && err.contains("next: "), "{err}");
}

#[test]
fn help_teaches() {
    let (code, out, _) = run(home().path(), &["--help"]);
    assert_eq!(code, 0);
    for part in ["run", "check", "secret", "link", "health", "First link in a minute", "--domain example.com"] {
        assert!(out.contains(part), "{part}");
    }
    let (_, out, _) = run(home().path(), &["run", "--help"]);
    for flag in ["config", "state-dir", "listen", "domain", "cover", "secret", "dc", "log", "link-host"] {
        assert!(out.contains(&format!("--{flag} ")), "{flag}");
    }
    assert!(out.contains("VIZARD_CONFIG"));
}

const COMMENTED: &str = "\
# Mine.
domain = \"www.example.com\" # the name

# The first.
[[users]]
name = \"alice\"
secret = \"00112233445566778899aabbccddeeff\" # secret

[link]
host = \"proxy.example.com\" # here
";

#[test]
fn users_are_changed_in_the_file_and_its_comments_stay() {
    let home = home();
    let file = home.path().join("vizard.toml");
    fs::write(&file, COMMENTED).unwrap();
    let user = |arguments: &[&str]| run(home.path(), &[&["user"], arguments, &["--config", "vizard.toml"]].concat());
    let text = || fs::read_to_string(&file).unwrap();

    let (code, out, err) = user(&["add", "bob", "--quota", "5GB/month", "--max-addresses", "2", "--note", "next door"]);
    assert_eq!(code, 0, "{err}");
    let secret = out.lines().find_map(|line| line.strip_prefix("secret: ")).unwrap().to_owned();
    assert!(out.contains(&format!("secret=ee{secret}")) && out.contains("server=proxy.example.com"), "{out}");
    for part in ["# Mine.", "# the name", "# The first.", "# secret", "# here", "quota = \"5GB/month\""] {
        assert!(text().contains(part), "{part} in {}", text());
    }

    let (_, out, _) = user(&["list"]);
    assert!(out.contains("bob") && out.contains("5GB/month") && !out.contains(&secret), "{out}");
    let (_, out, _) = user(&["list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((list[1]["quota"]["bytes"].as_u64(), list[1]["usage"]["up"].as_u64()), (Some(5_000_000_000), Some(0)));
    let (_, out, _) = user(&["show", "bob"]);
    assert!(out.contains("next door") && !out.contains(&secret), "{out}");
    assert!(user(&["show", "bob", "--secret"]).1.contains(&secret));
    assert!(user(&["link", "bob"]).1.contains(&secret));

    assert_eq!(user(&["disable", "bob"]).0, 0);
    assert!(user(&["list"]).1.contains("disabled"));
    assert_eq!(user(&["enable", "bob"]).0, 0);
    let (code, out, _) = user(&["rotate", "bob", "--keep", "2d"]);
    assert!(code == 0 && !out.contains(&secret), "{out}");
    assert!(text().contains(&format!("previous_secret = \"{secret}\"")), "{}", text());
    assert_eq!(user(&["change", "bob", "--quota", "none", "--max-addresses", "0"]).0, 0);
    assert!(!text().contains("quota") && !text().contains("max_addresses"));
    assert_eq!(user(&["remove", "bob"]).0, 0);
    assert_eq!(text(), COMMENTED);
}

/// The user of a service, to whom nothing else belongs.
const SERVICE: u32 = 54_321;

#[test]
fn root_writes_through_no_link_that_the_user_of_the_service_has_planted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (home, roots) = (home(), tempfile::tempdir().unwrap());
    let (file, precious) = (home.path().join("vizard.toml"), roots.path().join("precious"));
    fs::write(&precious, COMMENTED).unwrap();
    fs::write(&file, COMMENTED).unwrap();
    for path in [home.path(), &file] {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    let plant = |name: &str| {
        let link = home.path().join(name);
        symlink(&precious, &link).unwrap();
        lchown(&link, Some(SERVICE), Some(SERVICE)).unwrap();
    };
    // Where a new file is prepared, by any rule that can be foreseen.
    for name in [".vizard.toml.new", "vizard.new", "vizard.toml.new", "vizard.toml.old"] {
        plant(name);
    }
    let user = |name: &str| run(home.path(), &["user", "add", name, "--config", "vizard.toml"]);
    assert_eq!(user("bob").0, 0);
    assert!(fs::read_to_string(&file).unwrap().contains("bob"));
    assert_eq!(fs::symlink_metadata(&file).unwrap().uid(), SERVICE);
    assert_eq!(fs::read_to_string(&precious).unwrap(), COMMENTED);

    // And the file itself.
    fs::remove_file(&file).unwrap();
    plant("vizard.toml");
    let (code, _, err) = user("carol");
    assert!(code != 0 && err.contains("link") && err.contains("next: "), "{err}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), COMMENTED);
    assert_eq!(fs::metadata(&precious).unwrap().uid(), 0);
}

#[test]
fn a_backup_by_root_lends_no_file_to_the_user_of_the_service() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (home, roots) = (home(), tempfile::tempdir().unwrap());
    let (file, key) = (home.path().join("vizard.toml"), roots.path().join("key"));
    fs::write(&key, "00112233445566778899aabbccddeeff").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!("domain = \"www.example.com\"\n[[users]]\nname = \"a\"\nsecret_file = {key:?}\n");
    fs::write(&file, text).unwrap();
    for path in [home.path(), &file] {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    let backup = || run(home.path(), &["backup", "out.tar", "--config", "vizard.toml"]);
    let (code, _, err) = backup();
    assert!(code == 1 && err.contains("another user") && !home.path().join("out.tar").exists(), "{err}");
    chown(&file, Some(0), Some(0)).unwrap();
    assert_eq!(backup().0, 0, "root may name its own");
}

#[test]
fn a_file_that_is_mounted_by_itself_is_changed_in_place_and_kept_beside_it() {
    let home = home();
    let folder = home.path().join("etc");
    fs::create_dir(&folder).unwrap();
    let (outside, inside) = (home.path().join("outside.toml"), folder.join("vizard.toml"));
    fs::write(&outside, COMMENTED).unwrap();
    fs::write(&inside, "").unwrap();
    // As `-v ./outside.toml:/etc/vizard/vizard.toml` does it, then the same with a root that is for reading only.
    let script = "mount --bind \"$1\" \"$2\" && \"$3\" user add bob --config \"$2\" && mount --bind \"$4\" \"$4\" && \
                  mount -o remount,bind,ro \"$4\" && mount --bind \"$1\" \"$2\" && \"$3\" user add carol --config \"$2\"";
    let mut command = std::process::Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--", "sh", "-euc", script, "sh"]).arg(&outside).arg(&inside);
    let output =
        command.arg(env!("CARGO_BIN_EXE_vizard")).arg(&folder).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = output.env("VIZARD_STATE_DIR", home.path().join("state")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.starts_with("unshare") || said.starts_with("mount") {
        assert!(std::env::var_os("CI").is_none(), "no mount namespace: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let text = fs::read_to_string(&outside).unwrap();
    assert!(text.starts_with("# Mine.") && text.contains("bob") && text.contains("carol"), "{text}");
    assert_eq!(fs::read_to_string(folder.join("vizard.toml.old")).unwrap(), COMMENTED);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn a_user_that_cannot_be_changed_is_told_why() {
    let home = home();
    fs::write(home.path().join("vizard.toml"), COMMENTED).unwrap();
    let user = |arguments: &[&str]| run(home.path(), &[&["user"], arguments, &["--config", "vizard.toml"]].concat());
    for (arguments, expected, part) in [
        (&["add", "alice"][..], 2, "already"),
        (&["add", "b b"], 1, "letters"),
        (&["add", "bob", "--quota", "much"], 1, "not a quota"),
        (&["remove", "bob"], 2, "no user bob"),
        (&["show", "bob"], 2, "no user"),
        (&["rotate", "alice", "--keep", "long"], 2, "--keep"),
    ] {
        let (code, _, err) = user(arguments);
        assert!(code == expected && err.contains(part) && err.contains("next: "), "{arguments:?}: {code} {err}");
    }
    let (code, _, err) = run(home.path(), &["user", "add", "bob"]);
    assert!(code == 2 && err.contains("--config"), "{err}");
    assert_eq!(fs::read_to_string(home.path().join("vizard.toml")).unwrap(), COMMENTED);
}

#[test]
fn everybody_gets_another_secret_at_once() {
    let home = home();
    let file = home.path().join("vizard.toml");
    fs::write(&file, COMMENTED).unwrap();
    let user = |arguments: &[&str]| run(home.path(), &[&["user"], arguments, &["--config", "vizard.toml"]].concat());
    assert_eq!(user(&["add", "bob"]).0, 0);
    let before = user(&["link", "bob"]).1;
    let (code, out, _) = user(&["rotate", "--all", "--keep", "0s"]);
    assert!(code == 0 && out.contains("alice, bob") && out.matches("  tg://").count() == 2, "{out}");
    let after = user(&["link", "bob"]).1;
    assert!(out.contains(&after) && before != after, "{out}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("# secret") && !text.contains("\nsecret = \"00112233445566778899aabbccddeeff\""), "{text}");
    assert_eq!(user(&["rotate"]).0, 2, "either a name or all");
    assert_eq!(user(&["rotate", "bob", "--all"]).0, 2);
    fs::write(&file, "").unwrap();
    let (code, _, err) = user(&["rotate", "--all"]);
    assert!(code == 2 && err.contains("state/secret") && err.contains("next: "), "{err}");
}

const NAMED: &str = "\
domain = \"www.example.com\"
names = [\"two.example.com\"]

[[users]]
name = \"alice\"
secret = \"00112233445566778899aabbccddeeff\"

[site]

[link]
host = \"proxy.example.com\"
";

#[test]
fn users_are_spread_over_the_names_of_the_site_and_moved() {
    let home = home();
    let (file, list) = (home.path().join("vizard.toml"), home.path().join("list"));
    fs::write(&file, NAMED).unwrap();
    let user = |arguments: &[&str]| run(home.path(), &[&["user"], arguments, &["--config", "vizard.toml"]].concat());
    let hex = |name: &str| data_encoding::HEXLOWER.encode(name.as_bytes());
    let (first, second) = (hex("www.example.com"), hex("two.example.com"));
    let key = "ee101112131415161718191a1b1c1d1e1f";

    let (code, out, err) = user(&["add", "bob"]);
    assert!(code == 0 && out.contains(&second) && !err.contains("warning"), "{out}{err}");
    let (_, out, _) = user(&["add", "carol", "--domain", "www.example.com"]);
    assert!(out.contains(&first) && !out.contains(&second), "{out}");

    // A link of one's own name keeps it, and that of another site is told.
    let link = |key: &str, name: &str| format!("t.me/proxy?server=old.example&port=443&secret={key}{}", hex(name));
    let text =
        format!("dave={}\nerin={}\n", link(key, "two.example.com"), link(&key.replace('0', "f"), "old.example.com"));
    fs::write(&list, text).unwrap();
    let (code, out, err) = user(&["add", "--from", "list"]);
    assert!(code == 0 && out.contains(&format!("{key}{second}")), "{out}{err}");
    assert!(err.contains("of erin carries old.example.com") && !err.contains("dave"), "{err}");
    assert!(err.contains("hand out the new link") && !err.contains("add that name"), "{err}");
    let (_, out, _) = user(&["link", "erin"]);
    assert!(out.contains(&first), "a foreign name is one of the first name's: {out}");
    fs::write(&list, link(key, "two.example.com")).unwrap();
    let (code, _, err) = user(&["add", "--from", "list"]);
    assert!(code != 0 && err.contains("has no name before it") && !err.contains("1011"), "{err}");

    let (code, out, _) = user(&["change", "alice", "--domain", "two.example.com"]);
    assert!(code == 0 && out.contains("the secret and the link are new") && out.contains(&second), "{out}");
    let (_, out, _) = user(&["change", "alice", "--note", "moved"]);
    assert!(!out.contains("link"), "{out}");
    assert!(user(&["show", "alice"]).1.contains("two.example.com"));
    let (code, _, err) = user(&["change", "alice", "--domain", "three.example.com"]);
    assert!(code != 0 && err.contains("not one of the site"), "{err}");

    // The site's own names are the servers in links where it has a certificate of its own.
    let site = "[site.acme]\nstaging = true\n";
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("[link]\nhost = \"proxy.example.com\"\n", site))
        .unwrap();
    let (_, out, err) =
        run(home.path(), &["link", "--config", "vizard.toml", "--json", "--user", "alice", "--user", "carol"]);
    let links: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let server = |at: usize| links[at]["server"].as_str().unwrap_or_default().to_owned();
    assert_eq!([server(0), server(1)], ["two.example.com", "www.example.com"]);
}
