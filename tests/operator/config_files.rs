//! Configuration files: those that are fine, those that are not with what is said about them, and the documented one.
//!
//! `BLESS=1 cargo test --test operator config_files` writes what is said into the files of expectations; read
//! the difference.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};
use vizard::config::keys::{FREE_TABLES, KEYS};
use vizard::config::reference::{self, DefaultValue, Kind, REFERENCE};
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
            assert!(complaint.at.is_some() && !complaint.fix.is_empty(), "{complaint:?}");
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

const EXAMPLE: &str = include_str!("../../docs/vizard.example.toml");

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
    // With everything on there is a tag beside routes on which it has no meaning.
    let warnings: Vec<_> = loaded.warnings.complaints().iter().map(|complaint| complaint.what.as_str()).collect();
    assert!(matches!(warnings[..], [tag] if tag.contains("promoted channel")), "{warnings:?}");
    assert_eq!(loaded.draft.users.len(), 2);
}

#[test]
fn a_tag_beside_routes_that_it_has_no_meaning_on_is_warned_of() {
    let tag = "00112233445566778899aabbccddeeff";
    let of_all = format!("ad_tag = \"{tag}\"\n");
    let of_one = format!("[[users]]\nname = \"a\"\nsecret = \"{tag}\"\nad_tag = \"{tag}\"\n");
    let of_nobody = of_one.replacen(&format!("ad_tag = \"{tag}\""), "ad_tag = \"none\"", 1);
    let for_media = "[middle]\nsessions = \"media\"\n".to_owned();
    let of_one_without = of_one.replacen(&format!("ad_tag = \"{tag}\""), "middle = \"all\"", 1);
    let direct = "[[routes]]\nname = \"line\"\nkind = \"direct\"\n";
    let socks = "[[routes]]\nname = \"way\"\nkind = \"socks5\"\naddress = \"192.0.2.1:1080\"\n";
    let beside = format!("{direct}{socks}");
    let restricted = format!("{direct}data_centres = [2]\n");
    for (tag, routes, count) in [
        (&of_all, "", 0),
        (&of_all, direct, 0),
        (&of_all, &*beside, 1),
        (&of_one, &*beside, 1),
        (&of_one, &*restricted, 1),
        (&of_nobody, &*beside, 0),
        (&for_media, direct, 0),
        (&for_media, &*beside, 1),
        (&of_one_without, &*beside, 1),
    ] {
        let text = format!("{tag}{routes}[site]\n");
        let loaded = load_text(&text, None, &Flags::default(), &environment()).unwrap();
        assert_eq!(loaded.warnings.complaints().len(), count, "{text}");
    }
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    let all = load_example(&example_uncommented()).unwrap().draft;
    let none = load_example("").unwrap().draft;
    assert_eq!((all.time_window, all.drain), (none.time_window, none.drain));
    // Its default is the cover's time.
    assert_eq!((all.idle.is_some(), none.idle), (true, None));
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
fn the_example_has_exactly_the_known_keys() {
    let [cover, upstream, acme, shadow, countries] = &example_alternatives()[..] else {
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
    let shadow_loads = load_text(shadow, None, &Flags::default(), &environment()).is_ok();
    assert_eq!(shadow_loads, cfg!(feature = "shadowsocks"));
    for text in [&example_uncommented(), cover, &upstream, acme, &countries, shadow] {
        paths("", DeTable::parse(text).unwrap().get_ref(), &mut found);
    }
    let known: BTreeSet<String> = KEYS.iter().map(ToString::to_string).collect();
    assert_eq!(found, known);
}

/// The text of a document with another table below this mark.
fn with_table(document: &str, origin: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- from {origin} -->\n"), "<!-- to here -->");
    let (before, rest) = document.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{begin}\n{table}\n{end}{after}")
}

#[test]
fn the_tables_and_the_schema_in_the_documents_are_those_of_the_program() {
    let written = fs::read_to_string("docs/configuration.md").unwrap();
    let document = with_table(&written, "src/config/reference.rs", &reference::table());
    let document = with_table(&document, "src/cli/teach.rs", &vizard::cli::exit_codes());
    let schema = format!("{:#}\n", reference::schema());
    for (path, made) in [("docs/configuration.md", document), ("docs/vizard.schema.json", schema)] {
        if std::env::var_os("BLESS").is_some() {
            fs::write(path, &made).unwrap();
        }
        let found = fs::read_to_string(path).unwrap_or_default();
        assert!(found == made, "{path} is another; BLESS=1 writes it again");
    }
}

/// What a file of TOML is to those who compare it with a schema: dates are texts.
fn json(value: &toml::Value) -> Json {
    match value {
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(elements) => elements.iter().map(json).collect(),
        toml::Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
        other => serde_json::to_value(other).unwrap(),
    }
}

/// What is wrong with a value, in the words of the few keywords that the schema has.
fn mismatch(schema: &Json, value: &Json) -> Option<String> {
    let kind = match value {
        Json::String(_) => "string",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "integer",
        Json::Array(_) => "array",
        Json::Object(_) | Json::Null => "object",
    };
    let wrong = |why: &str| Some(format!("{value}: {why} in {schema}"));
    for (keyword, wanted) in schema.as_object().unwrap() {
        let found = match keyword.as_str() {
            "type" if wanted != kind => wrong("another type"),
            "enum" if !wanted.as_array().unwrap().contains(value) => wrong("none of these"),
            "minimum" if value.as_u64() < wanted.as_u64() => wrong("too small"),
            "maximum" if value.as_u64() > wanted.as_u64() => wrong("too large"),
            "minItems" if value.as_array().is_none_or(Vec::is_empty) => wrong("nothing in it"),
            "items" => value.as_array().into_iter().flatten().find_map(|element| mismatch(wanted, element)),
            "anyOf" if wanted.as_array().unwrap().iter().all(|one| mismatch(one, value).is_some()) => wrong("neither"),
            "properties" => value.as_object().into_iter().flatten().find_map(|(key, value)| match wanted.get(key) {
                Some(schema) => mismatch(schema, value),
                None => Some(format!("{key} is not known")),
            }),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn the_schema_lets_through_what_is_valid_and_little_else() {
    let schema = reference::schema();
    let check = |text: &str| mismatch(&schema, &json(&text.parse::<toml::Table>().unwrap().into()));
    for path in files("fixtures/config/valid") {
        assert_eq!(check(&fs::read_to_string(&path).unwrap()), None, "{}", path.display());
    }
    assert_eq!(check(&example_uncommented()), None);
    assert_eq!(check("[session]\nfillers = []"), None, "no client gets any");
    for text in [
        "lisen = [\"[::]:443\"]",
        "listen = []",
        "listen = \"[::]:443\"",
        "[[users]]\nsercet = \"x\"",
        "[link]\nport = 65536",
        "[limits]\nrate = 0",
        "[log]\nlevel = \"loud\"",
        "[session]\nidle = 30",
        "[hello]\naccept_names = \"some\"",
    ] {
        assert!(check(text).is_some(), "{text}");
        assert!(load_text(text, None, &Flags::default(), &environment()).is_err(), "the program is as strict: {text}");
    }
}

#[test]
fn no_client_gets_fillers_where_the_list_is_empty() {
    let read = load_text("[session]\nfillers = []", None, &Flags::default(), &environment()).unwrap();
    assert_eq!(read.draft.fillers, []);
}

/// The least that a file must hold so that this key can stand in it, with its line.
fn around(key: &str, line: &str) -> String {
    let (owner, name) = key.rsplit_once('.').unwrap_or_default();
    let (head, beside): (_, &[&str]) = match owner {
        "" => return line.to_owned(),
        "users" => ("[[users]]", &["name = \"a\"", "secret = \"00112233445566778899aabbccddeeff\""]),
        "admin.tokens" => ("[admin]\n[[admin.tokens]]", &[]),
        "audit_log" => ("[audit_log]", &["file = \"audit.log\""]),
        "cover" => ("domain = \"www.example.com\"\n[cover]", &["kind = \"remote\"", "address = \"192.0.2.1:443\""]),
        "routes" => ("[[routes]]", &["name = \"a\"", "kind = \"direct\""]),
        "proxy_protocol" => ("[proxy_protocol]", &["listen = [\"127.0.0.1:8443\"]"]),
        "site.acme" => ("domain = \"www.example.com\"\n[site]\nredirect_from = [\"[::]:80\"]\n[site.acme]", &[]),
        owner => return format!("[{owner}]\n{line}"),
    };
    let others = beside.iter().filter(|other| !other.starts_with(&format!("{name} ")));
    format!("{head}\n{}\n{line}", others.copied().collect::<Vec<_>>().join("\n"))
}

fn line(key: &str, value: &str) -> String {
    format!("{} = {value}\n", key.rsplit('.').next().unwrap())
}

fn draft(text: &str) -> Result<String, String> {
    let loaded = load_text(text, Some("/folder/vizard.toml".into()), &Flags::default(), &environment());
    loaded.map(|loaded| format!("{:?}", loaded.draft)).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_of_the_reference_are_the_defaults() {
    let mut count = 0;
    for key in REFERENCE {
        let DefaultValue::Value(usual) = key.usual else { continue };
        let without = draft(&around(key.path, "")).unwrap();
        let with = draft(&around(key.path, &line(key.path, usual))).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(with, without, "{}", key.path);
        count += 1;
    }
    assert!(count >= 20, "only {count}");
}

/// Whether a value has the kind that the program expects there, whatever else is wrong with it.
fn has_the_kind(key: &str, value: &str) -> bool {
    match load_text(&around(key, &line(key, value)), None, &Flags::default(), &environment()) {
        Err(LoadError::Complaints(report)) => !report.render(false).contains("is not allowed here"),
        _ => true,
    }
}

#[test]
fn kinds_and_choices_of_the_reference_are_those_of_the_program() {
    for key in REFERENCE {
        let samples = ["\"x\"", "7", "true", "[\"x\"]"];
        let taken = match key.kind {
            Kind::Section | Kind::Sections | Kind::Addresses => continue,
            Kind::Switch => [false, false, true, false],
            Kind::Count | Kind::UpTo(_) | Kind::Port => [false, true, false, false],
            Kind::Texts | Kind::SomeOf(_) => [false, false, false, true],
            Kind::Names => [true, false, false, true],
            Kind::Numbers => [false; 4],
            _ => [true, false, false, false],
        };
        assert_eq!(samples.map(|sample| has_the_kind(key.path, sample)), taken, "{}", key.path);
        let bounds = match key.kind {
            Kind::Count => Some((1, u32::MAX)),
            Kind::UpTo(most) => Some((0, most)),
            Kind::Port => Some((1, u32::from(u16::MAX))),
            _ => None,
        };
        if let Some((least, most)) = bounds.map(|(least, most)| (i64::from(least), i64::from(most))) {
            let fits = [least - 1, least, most, most + 1]
                .map(|number| draft(&around(key.path, &line(key.path, &number.to_string()))).is_ok());
            assert_eq!(fits, [false, true, true, false], "{}", key.path);
        }
        // Of choices there may be none.
        if matches!(key.kind, Kind::Texts | Kind::Numbers | Kind::SomeOf(_)) {
            let taken = draft(&around(key.path, &line(key.path, "[]"))).is_ok();
            assert_eq!(taken, matches!(key.kind, Kind::SomeOf(_)), "{}: an empty list", key.path);
        }
        if let Kind::OneOf(choices) | Kind::SomeOf(choices) = key.kind {
            let value = |choice: &str| match key.kind {
                Kind::SomeOf(_) => format!("[\"{choice}\"]"),
                _ => format!("\"{choice}\""),
            };
            let is_a_choice = |choice: &str| {
                let text = around(key.path, &line(key.path, &value(choice)));
                !matches!(load_text(&text, None, &Flags::default(), &environment()),
                    Err(LoadError::Complaints(report)) if report.render(false).contains("one of the choices"))
            };
            assert!(choices.iter().all(|choice| is_a_choice(choice)), "{}", key.path);
            assert!(!is_a_choice("nothing-of-the-sort"), "{}", key.path);
        }
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
