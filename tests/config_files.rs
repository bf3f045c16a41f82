//! Configuration files: those that are fine, those that are not with what is said about them, and the documented one.
//!
//! `BLESS=1 cargo test --test config_files` writes what is said into the files of expectations; read the difference.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use toml::de::{DeTable, DeValue};
use vizard::config::keys::{FREE_TABLES, KEYS};
use vizard::config::{Environment, Flags, LoadError, Loaded, load, load_text};
use vizard::ops::alarms::Settings as Alarms;
use vizard::telegram::Settings as Telegram;

fn environment() -> Environment {
    [("VIZARD_STATE_DIR", "/state")].into_iter().collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
    files.sort();
    assert!(files.len() >= 5, "{folder} has lost its files");
    files
}

fn compare(path: &Path, found: &str) {
    let expectation = path.with_extension("txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&expectation, found).unwrap();
    }
    let expected = fs::read_to_string(&expectation).unwrap_or_default();
    assert!(expected == found, "{}\nexpected:\n{expected}\nfound:\n{found}", path.display());
}

fn load_file(path: &Path) -> Result<Loaded, LoadError> {
    load(&Flags { config: Some(path.into()), ..Flags::default() }, &environment())
}

#[test]
fn valid_files_mean_what_stands_beside_them() {
    for path in files("fixtures/config/valid") {
        let loaded = load_file(&path).unwrap_or_else(|error| panic!("{}\n{error}", path.display()));
        assert_eq!(loaded.warnings.render(false), "");
        compare(&path, &format!("{:#?}\n", loaded.draft));
    }
}

#[test]
fn invalid_files_are_told_what_stands_beside_them() {
    for path in files("fixtures/config/invalid") {
        let Err(LoadError::Complaints(report)) = load_file(&path) else { panic!("{} is fine", path.display()) };
        let text = report.render(false);
        assert!(!text.contains("112233") && !text.contains("EiM0RV"), "a secret shows:\n{text}");
        compare(&path, &text);
    }
}

#[test]
fn every_complaint_about_a_file_has_a_place_and_a_mend() {
    for path in files("fixtures/config/invalid") {
        let Err(LoadError::Complaints(report)) = load_file(&path) else { panic!("{} is fine", path.display()) };
        for complaint in report.complaints() {
            assert!(complaint.at.is_some() && !complaint.mend.is_empty(), "{complaint:?}");
        }
        let text = report.render(false);
        assert_eq!(text.matches(&format!("--> {}:", path.display())).count(), report.complaints().len(), "{text}");
    }
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let file = "domain = \"file.example\"\nlisten = [\"192.0.2.1:1\"]\nstate_dir = \"file\"\n[log]\nformat = \"text\"";
    let environment: Environment = [
        ("VIZARD_DOMAIN", "environment.example"),
        ("VIZARD_LISTEN", "192.0.2.2:2, [::1]:2"),
        ("VIZARD_SECRET", "a=00112233445566778899aabbccddeeff,b=44112233445566778899aabbccddeeff"),
        ("VIZARD_STATE_DIR", ""),
    ]
    .into_iter()
    .collect();
    let flags = Flags { domain: Some("flag.example".into()), ..Flags::default() };
    let draft = load_text(file, Some("folder/file.toml".into()), &flags, &environment).unwrap().draft;
    assert_eq!(draft.domain.unwrap().as_str(), "flag.example");
    assert_eq!(format!("{:?}", draft.listen), "Given([Tcp(192.0.2.2:2), Tcp([::1]:2)])");
    assert_eq!(draft.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(draft.state_dir, Path::new("folder/file"), "empty variables are not set, paths start at the file");
    assert_eq!(draft.log.format, Some(vizard::config::LogFormat::Text));
}

#[test]
fn mistakes_in_all_three_places_come_out_together() {
    let environment: Environment =
        [("VIZARD_STATE_DIR", "/state"), ("VIZARD_SECRET", "alice=001122334455"), ("VIZARD_LOG", "xml")]
            .into_iter()
            .collect();
    let flags = Flags {
        listen: vec!["443".into()],
        cover: Some("example.com".into()),
        data_centres: vec!["2".into()],
        ..Flags::default()
    };
    let result = load_text("[session]\nidle = \"x\"", Some("file.toml".into()), &flags, &environment);
    let Err(LoadError::Complaints(report)) = result else { panic!("no complaints") };
    compare(Path::new("fixtures/config/three_places.toml"), &report.render(false));
    assert!(!report.render(false).contains("001122"));
}

#[test]
fn a_cover_on_the_command_line_overrules_both_sections() {
    let file = "domain = \"www.example.com\"\n[site]\nserver_header = \"nginx\"";
    let flags = Flags { cover: Some("192.0.2.1:443".into()), ..Flags::default() };
    let draft = load_text(file, None, &flags, &environment()).unwrap().draft;
    assert!(format!("{:?}", draft.cover).starts_with("Remote"));
    let file = "domain = \"www.example.com\"\n[cover]\naddress = \"192.0.2.1:443\"";
    let flags = Flags { cover: Some("site".into()), ..Flags::default() };
    let draft = load_text(file, None, &flags, &environment()).unwrap().draft;
    assert!(format!("{:?}", draft.cover).starts_with("Site"));
}

#[test]
fn secret_files_are_trimmed_and_should_be_private() {
    let folder = tempfile::tempdir().unwrap();
    let (config, secret) = (folder.path().join("vizard.toml"), folder.path().join("alice.secret"));
    fs::write(&config, "[[users]]\nname = \"alice\"\nsecret_file = \"alice.secret\"\n").unwrap();
    fs::write(&secret, "  00112233445566778899aabbccddeeff\n\n").unwrap();
    for (mode, warnings) in [(0o600, 0), (0o400, 0), (0o644, 1), (0o640, 1)] {
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load_file(&config).unwrap();
        assert_eq!(loaded.draft.users[0].secret.hex(), "00112233445566778899aabbccddeeff");
        assert_eq!(loaded.warnings.complaints().len(), warnings, "{mode:o}");
    }
}

const EXAMPLE: &str = include_str!("../docs/vizard.example.toml");

/// The example with every setting on: those lines that have no space behind their `#`.
fn example_uncommented() -> String {
    let on = |line: &'static str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
    EXAMPLE.lines().map(on).collect::<Vec<_>>().join("\n")
}

/// Settings of the example that cannot be on together with the others: indented inside comments.
fn example_alternatives() -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in EXAMPLE.lines() {
        match (line.strip_prefix("#   "), blocks.last_mut().unwrap()) {
            (Some(setting), block) => *block += &format!("{setting}\n"),
            (None, block) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

const SECRETS: [&str; 3] = ["bob.secret", "webhook.token", "web.password"];

fn load_example(text: &str) -> Result<Loaded, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        "fullchain.pem",
        "privkey.pem",
        "deny.netset",
        "allow.netset",
        "country.mmdb",
        "authority.pem",
        "eab.key",
        "proxy-secret",
    ];
    for name in files.into_iter().chain(SECRETS) {
        fs::write(folder.path().join(name), "fedcba9876543210fedcba9876543210").unwrap();
    }
    fs::write(folder.path().join("bob.secret.previous"), "00dcba9876543210fedcba9876543210").unwrap();
    let link = "tg://proxy?server=192.0.2.1&port=443&secret=fedcba9876543210fedcba9876543210";
    fs::write(folder.path().join("second.link"), link).unwrap();
    for name in SECRETS.into_iter().chain(["bob.secret.previous", "second.link"]) {
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let authority = rcgen::generate_simple_self_signed(["authority.example".to_owned()]).unwrap();
    fs::write(folder.path().join("authority.pem"), authority.cert.pem()).unwrap();
    fs::create_dir(folder.path().join("public")).unwrap();
    let path = folder.path().join("vizard.toml");
    fs::write(&path, text).unwrap();
    load_file(&path)
}

#[test]
fn the_example_loads_as_it_is_and_with_every_setting_on() {
    let untouched = load_example(EXAMPLE).unwrap_or_else(|error| panic!("{error}")).draft;
    let empty = load_example("").unwrap().draft;
    assert_eq!(format!("{untouched:?}"), format!("{empty:?}"));
    let loaded = load_example(&example_uncommented()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.warnings.render(false), "");
    assert_eq!(loaded.draft.users.len(), 2);
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    let all = load_example(&example_uncommented()).unwrap().draft;
    let none = load_example("").unwrap().draft;
    assert_eq!((all.time_window, all.idle, all.drain), (none.time_window, none.idle, none.drain));
    assert_eq!((all.handover, all.sandbox.enabled), (none.handover, none.sandbox.enabled));
    let (all_alarms, none_alarms) = (all.misuse.alarms, none.misuse.alarms);
    assert!(all_alarms.webhook.is_some());
    assert_eq!(Alarms { webhook: None, ..all_alarms }, none_alarms);
    assert_eq!((all.misuse.lists.refresh, all.misuse.lists.allow_only), (none.misuse.lists.refresh, false));
    assert_eq!(all.misuse.limits.excess, none.misuse.limits.excess);
    assert_eq!((all.log.level, all.log.client_addresses), (none.log.level, none.log.client_addresses));
    assert_eq!(all.accepted_names, none.accepted_names);
    let (all_telegram, none_telegram) = (all.telegram, none.telegram);
    assert!(!all_telegram.overrides.is_empty());
    assert_eq!(Telegram { overrides: BTreeMap::new(), routes: Vec::new(), ..all_telegram }, none_telegram);
}

#[test]
fn the_example_and_the_reference_have_exactly_the_known_keys() {
    let [cover, upstream, acme, countries] = &example_alternatives()[..] else {
        panic!("the alternatives have changed")
    };
    let office = "[[routes]]\nname = \"office\"\nkind = \"direct\"\n";
    let remote = format!("domain = \"www.example.com\"\n{cover}{office}");
    load_text(&remote, None, &Flags::default(), &environment()).unwrap();
    let upstream = format!("[site]\n{upstream}");
    load_text(&upstream, None, &Flags::default(), &environment()).unwrap();
    load_example(&format!("domain = \"www.example.com\"\n{acme}")).unwrap_or_else(|error| panic!("{error}"));
    let mut found = BTreeSet::new();
    let countries = format!("[lists]\n{countries}");
    for text in [&example_uncommented(), cover, &upstream, acme, &countries] {
        paths("", DeTable::parse(text).unwrap().get_ref(), &mut found);
    }
    let known: BTreeSet<String> = KEYS.iter().map(ToString::to_string).collect();
    assert_eq!(found, known);

    let reference = include_str!("../docs/configuration.md");
    let sections: BTreeSet<_> = KEYS.iter().filter_map(|key| key.rsplit_once('.')).map(|(owner, _)| owner).collect();
    for key in KEYS.iter().filter(|key| !sections.contains(*key)) {
        assert!(reference.contains(&format!("| `{key}` |")), "docs/configuration.md lacks {key}");
    }
}

fn paths(owner: &str, table: &DeTable<'_>, found: &mut BTreeSet<String>) {
    if FREE_TABLES.contains(&owner) {
        return;
    }
    for (key, value) in table.iter() {
        let path = format!("{owner}{}{}", if owner.is_empty() { "" } else { "." }, key.get_ref());
        let inner: Vec<_> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(elements) => elements.iter().filter_map(|element| element.get_ref().as_table()).collect(),
            _ => Vec::new(),
        };
        inner.into_iter().for_each(|table| paths(&path, table, found));
        found.insert(path);
    }
}

fn survives(text: &str) -> Result<(), TestCaseError> {
    match load_text(text, Some("file.toml".into()), &Flags::default(), &environment()) {
        Ok(loaded) => prop_assert_eq!(loaded.warnings.errors(), 0),
        Err(LoadError::Complaints(report)) => {
            prop_assert!(report.errors() > 0);
            prop_assert!(!report.render(false).is_empty());
        }
        Err(error) => prop_assert!(false, "{}", error),
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        survives(&text)?;
    }

    #[test]
    fn known_keys_with_arbitrary_values_never_panic(
        lines in prop::collection::vec((prop::sample::select(KEYS), any_value()), 0..12),
    ) {
        let text: String = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        survives(&text)?;
    }

    #[test]
    fn a_cut_or_spoilt_example_never_panics(
        at in 0..EXAMPLE.len(),
        inserted in "[\\PC\n\r\t\"'\\[\\]{}=.]{0,3}",
        cut: bool,
    ) {
        let text = example_uncommented();
        let at = text.floor_char_boundary(at.min(text.len()));
        let rest = if cut { "" } else { &text[at..] };
        survives(&format!("{}{inserted}{rest}", &text[..at]))?;
    }
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9:.\\[\\]\" ]{0,12}",
        "\"[^\"\\\\]{0,20}\"",
        any::<i64>().prop_map(|number| number.to_string()),
        Just("[\"a\", 1, {}]".to_owned()),
        Just("[{}, {name = \"é\"}]".to_owned()),
        Just("{ name = 1, kind = \"site\", address = [] }".to_owned()),
    ]
}
