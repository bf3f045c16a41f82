//! Links of both kinds, and what is said where no app can come by WEB proxy.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::command::{home, run};

const ALICE: &str = "000102030405060708090a0b0c0d0e0f";

/// A site whose certificate an authority is to issue, with users on both of its names.
const CONFIG: &str = "domain = \"www.example.com\"\nnames = [\"two.example.com\"]\nlisten = [\"127.0.0.1:443\"]\n\
    [site.acme]\n[web]\nenabled = true\npath = \"pages/team\"\n\
    [[users]]\nname = \"alice\"\nsecret = \"000102030405060708090a0b0c0d0e0f\"\n\
    [[users]]\nname = \"bob\"\nsecret = \"101112131415161718191a1b1c1d1e1f\"\ndomain = \"two.example.com\"\n";

fn links(home: &Path, config: &str, more: &[&str]) -> (i32, String, String) {
    fs::write(home.join("vizard.toml"), config).unwrap();
    run(home, &[&["link", "--config", "vizard.toml"], more].concat())
}

#[test]
fn each_user_has_links_of_both_kinds_with_one_key() {
    let home = home();
    let ask = |more: &[&str]| {
        let (code, out, err) = links(home.path(), CONFIG, more);
        assert_eq!(code, 0, "{err}");
        out
    };
    let root = format!("tg://webproxy?server=www.example.com&secret={ALICE}");
    let path = "tg://webproxy?server=www.example.com%2Fpages%2Fteam&secret=cAABAgMEBQYHCAkKCwwNDg8";
    let out = ask(&["--user", "alice"]);
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    assert!(lines.len() == 5 && lines[1].starts_with("tg://proxy?server=www.example.com&port=443&secret=ee"), "{out}");
    assert_eq!(lines[3..], [root.as_str(), path]);
    assert!(ask(&["--user", "bob"]).contains("tg://webproxy?server=two.example.com&secret=101112"));

    let ee = ask(&["--kind", "ee"]);
    assert!(ee.contains("tg://proxy?") && !ee.contains("webproxy"), "{ee}");
    let web = ask(&["--kind", "web", "--user", "alice", "--dd"]);
    assert!(web.contains(&format!("secret=dd{ALICE}")) && web.contains("secret=cN0A"), "{web}");
    assert!(!web.contains("proxy?server=www.example.com&port"), "{web}");

    let json: Value = serde_json::from_str(&ask(&["--json", "--user", "alice"])).unwrap();
    assert_eq!(json[0]["webproxy"]["root"], root);
    assert_eq!(json[0]["webproxy"]["path"], path);
    assert!(json[0]["tg"].is_string() && json[0].get("no_webproxy").is_none(), "{json}");
    let json: Value = serde_json::from_str(&ask(&["--json", "--kind", "web"])).unwrap();
    assert!(json[0].get("tg").is_none() && json[1]["webproxy"]["root_dd"].is_string(), "{json}");

    // A code for each kind.
    let codes = |text: &str| text.split("\n\n").filter(|part| part.contains("\x1b[38;5;")).count();
    let [both, one] =
        [&["--qr"][..], &["--qr", "--kind", "web"]].map(|more| ask(&[more, &["--user", "alice"]].concat()));
    assert_eq!((codes(&both), codes(&one)), (2, 1), "{both}");
}

#[test]
fn where_no_app_can_come_by_web_no_link_is_printed_and_the_reason_is() {
    let home = home();
    for (config, reason) in [
        (CONFIG.replace("127.0.0.1:443", "127.0.0.1:8443"), "port 8443"),
        (CONFIG.replace("[site.acme]", "[cover]\nkind = \"site\""), "self-signed"),
        (CONFIG.replace("[site.acme]", "[cover]\naddress = \"192.0.2.1:443\""), "web server elsewhere"),
        ("[web]\nenabled = true\n".to_owned(), "made up"),
    ] {
        let ask = |more: &[&str]| links(home.path(), &config, &[more, &["--host", "192.0.2.7"]].concat());
        let (code, out, err) = ask(&[]);
        assert!(code == 0 && out.contains("tg://proxy?") && !out.contains("tg://webproxy"), "{out}{err}");
        assert!(out.contains("no links of WEB proxies") && out.contains(reason), "{out}");
        let (_, out, _) = ask(&["--json"]);
        let json: Value = serde_json::from_str(&out).unwrap();
        assert!(json[0]["no_webproxy"].as_str().unwrap().contains(reason), "{json}");
        assert!(json[0].get("webproxy").is_none(), "{json}");
        let (_, out, _) = ask(&["--kind", "ee"]);
        assert!(!out.contains("WEB"), "that was not asked for: {out}");
        let (code, out, err) = ask(&["--kind", "web"]);
        assert!(code == 1 && out.is_empty() && err.contains(reason) && err.contains("next: "), "{out}{err}");
        let (code, _, err) = run(home.path(), &["check", "--config", "vizard.toml"]);
        assert!(code == 0 && err.contains("no app can come by WEB proxy") && err.contains(reason), "{err}");
    }
    let off = CONFIG.replace("enabled = true", "enabled = false");
    let (_, out, _) = links(home.path(), &off, &[]);
    assert!(!out.to_lowercase().contains("web"), "{out}");
    let (code, _, err) = links(home.path(), &off, &["--kind", "web"]);
    assert!(code == 1 && err.contains("WEB proxies are off") && err.contains("next: "), "{err}");
}
