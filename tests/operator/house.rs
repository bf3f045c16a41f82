//! What a change could spoil in the source without being noticed: the order of layers, functions that outgrow a screen,
//! files that import each other, types of one name, words that newcomers have to learn.
//!
//! `bash tests/house.sh` prints the numbers. Where a goal is not reached yet, the bound is what there is today: it may fall
//! and never rise.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to clippy")]
#![allow(clippy::print_stdout, reason = "tests/house.sh shows what this prints")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One file of production code: its path below `src`, and its lines without unit tests.
struct Source {
    path: String,
    lines: Vec<String>,
}

impl Source {
    fn layer(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// The module as it is written behind `crate::`.
    fn module(&self) -> String {
        let name = self.path.trim_end_matches(".rs");
        name.trim_end_matches("/mod").replace('/', "::")
    }

    fn code(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str).filter(|line| !line.trim_start().starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "rs") && !entry.ends_with("tests.rs") {
                found.push(source(&entry));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "{} files", found.len());
    found
}

fn source(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let tests = lines.windows(2).position(|two| two[0] == "#[cfg(test)]" && two[1].contains("mod tests"));
    let lines = lines[..tests.unwrap_or(lines.len())].to_vec();
    Source { path: path.strip_prefix("src").unwrap().display().to_string(), lines }
}

/// The order that docs/architecture.md states, as groups of neighbours from left to right.
fn order() -> Vec<Vec<String>> {
    let map = fs::read_to_string("docs/architecture.md").unwrap();
    let line = map.lines().find(|line| line.trim_start().starts_with("base < ")).expect("the order of layers");
    let group = |group: &str| {
        let names = group.trim_matches([' ', '{', '}']).split(',');
        names.map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    };
    line.split(" < ").map(group).collect()
}

/// Modules named behind `crate::`, groups in braces included.
fn imports(source: &Source) -> Vec<String> {
    let text: String = source.code().map(|line| format!("{line}\n")).collect();
    let mut found = Vec::new();
    for part in text.split("crate::").skip(1) {
        let names: Vec<&str> = match part.strip_prefix('{').and_then(|group| group.split_once("};")) {
            Some((group, _)) => group.split(',').map(str::trim).collect(),
            None => vec![part],
        };
        let path = |name: &str| {
            let end = name.find(|letter: char| !letter.is_alphanumeric() && !":_".contains(letter));
            name[..end.unwrap_or(name.len())].to_owned()
        };
        found.extend(names.into_iter().map(path));
    }
    found
}

#[test]
fn layers_import_one_way() {
    let order = order();
    let place = |layer: &str| order.iter().position(|group| group.iter().any(|name| name == layer));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in sources() {
        let Some(own) = place(source.layer()) else {
            // The roots of the crate.
            assert!(!source.path.contains('/'), "docs/architecture.md does not order {}", source.path);
            continue;
        };
        for import in imports(&source) {
            let layer = import.split("::").next().unwrap_or_default();
            let Some(other) = place(layer).filter(|_| layer != source.layer()) else { continue };
            seen += 1;
            if other >= own {
                wrong.push(format!("src/{} imports {layer}", source.path));
            }
        }
    }
    assert!(seen > 500, "{seen} imports were seen");
    assert!(wrong.is_empty(), "against the order of docs/architecture.md:\n{}", wrong.join("\n"));
}

/// Lines of each function, from its first to its closing brace, as rustfmt sets them.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, line) in source.lines.iter().enumerate() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let words: Vec<&str> = text.split_whitespace().take(6).collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let qualifiers = ["pub", "pub(super)", "pub(crate)", "const", "async", "extern", "unsafe"];
        if !words[..at].iter().all(|word| qualifiers.contains(word) || word.starts_with("pub(in")) {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let end = source.lines[start..].iter().position(|line| *line == closing || line.trim_end().ends_with("{}"));
        let name = words.get(at + 1).map_or("", |name| name.split(['(', '<']).next().unwrap_or_default());
        // A declaration has no body.
        let declared = source.lines[start..].iter().position(|line| line.trim_end().ends_with(';'));
        match (end, declared) {
            (Some(end), Some(declared)) if declared == 0 && end > 0 => {}
            (Some(end), _) => found.push((format!("{}: {name}", source.path), end + 1)),
            (None, _) => {}
        }
    }
    found
}

#[test]
fn functions_fit_on_two_screens() {
    let all: Vec<_> = sources().iter().flat_map(functions).collect();
    assert!(all.len() > 2000, "{} functions", all.len());
    let long: Vec<_> = all.iter().filter(|(_, lines)| *lines > 100).collect();
    assert!(long.is_empty(), "{long:?}");
}

/// Files of which each imports the other.
fn pairs() -> BTreeSet<(String, String)> {
    let sources = sources();
    let modules: BTreeSet<String> = sources.iter().map(Source::module).collect();
    let mut imported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in &sources {
        let (own, text) = (source.module(), source.code().collect::<Vec<_>>().join("\n"));
        let parent = own.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned();
        // `super` is the parent's namespace, in a `mod.rs` that of the folder above.
        let mut named = imports(source);
        for part in text.split("super::").skip(1) {
            let group = part.strip_prefix('{').and_then(|group| group.split_once("};"));
            let names = group.map_or(vec![part], |(group, _)| group.split(',').map(str::trim).collect());
            for name in names {
                let end = name.find(|letter: char| !letter.is_alphanumeric() && !":_".contains(letter));
                named.push(format!("{parent}::{}", &name[..end.unwrap_or(name.len())]));
            }
        }
        for name in named {
            // The longest beginning that is a file.
            let mut name = name.as_str();
            while !modules.contains(name) {
                let Some((shorter, _)) = name.rsplit_once("::") else { break };
                name = shorter;
            }
            // A folder's page and its files know each other by nature.
            let related = own.starts_with(&format!("{name}::")) || name.starts_with(&format!("{own}::"));
            if modules.contains(name) && name != own && !related {
                imported.entry(own.clone()).or_default().insert(name.to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    for (one, others) in &imported {
        for other in others {
            if one < other && imported.get(other).is_some_and(|back| back.contains(one)) {
                found.insert((one.clone(), other.clone()));
            }
        }
    }
    found
}

/// Names of types, each with the files that declare it.
fn types() -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for line in source.code() {
            let words: Vec<&str> = line.split_whitespace().take(4).collect();
            let Some(at) = words.iter().position(|word| ["struct", "enum", "trait"].contains(word)) else { continue };
            if !words[..at].iter().all(|word| word.starts_with("pub")) {
                continue;
            }
            let Some(name) = words.get(at + 1) else { continue };
            let name = name.split(['<', '(', '{', ';', ':']).next().unwrap_or_default();
            if name.starts_with(char::is_uppercase) {
                found.entry(name.to_owned()).or_default().push(source.path.clone());
            }
        }
    }
    found
}

/// Share of types that share their name with another one, without the `Settings` of layers; and of names of one word.
fn shares_of_names() -> (f64, f64) {
    let mut types = types();
    types.remove("Settings");
    let all: usize = types.values().map(Vec::len).sum();
    let shared: usize = types.values().map(Vec::len).filter(|count| *count > 1).sum();
    let one_word = |name: &str| name.chars().skip(1).all(|letter| !letter.is_uppercase());
    let short: usize = types.iter().filter(|(name, _)| one_word(name)).map(|(_, places)| places.len()).sum();
    (shared as f64 / all as f64, short as f64 / all as f64)
}

/// Words that stand for nothing in the field, and how often each stands in the source, comments and messages included.
fn private_words() -> BTreeMap<&'static str, usize> {
    const WORDS: [&str; 10] =
        ["mend", "heed", "hush", "anew", "whoever", "somebody", "nobody", "glance", "knock", "take_heart"];
    let mut found: BTreeMap<&'static str, usize> = WORDS.map(|word| (word, 0)).into();
    for source in sources() {
        for line in &source.lines {
            let line = line.to_lowercase();
            for word in line.split(|letter: char| !letter.is_alphanumeric() && letter != '_') {
                if let Some(count) = found.get_mut(word) {
                    *count += 1;
                }
            }
        }
    }
    found
}

/// Share of doc comments that begin with a question word; and of lines inside functions that are comments.
fn shares_of_comments() -> (f64, f64) {
    let (mut docs, mut riddles, mut inside, mut comments) = (0, 0, 0, 0);
    for source in sources() {
        let mut in_docs = false;
        for line in &source.lines {
            let text = line.trim_start();
            if let Some(words) = text.strip_prefix("/// ") {
                if !in_docs {
                    docs += 1;
                    let first = words.split_whitespace().next().unwrap_or_default();
                    riddles += usize::from(["What", "How", "Who", "Whose", "Where", "When", "Why"].contains(&first));
                }
                in_docs = true;
                continue;
            }
            in_docs = text.starts_with("///");
            if line.starts_with("    ") && !text.is_empty() && !in_docs {
                inside += 1;
                comments += usize::from(text.starts_with("// "));
            }
        }
    }
    (f64::from(riddles as u32) / f64::from(docs as u32), comments as f64 / inside as f64)
}

#[test]
fn the_numbers_of_the_source_do_not_get_worse() {
    let (shared, short) = shares_of_names();
    let (riddles, comments) = shares_of_comments();
    let (words, pairs) = (private_words(), pairs());
    let longest = sources().iter().flat_map(functions).max_by_key(|(_, lines)| *lines).unwrap();
    println!("{:5.1} %  of types share their name with another (goal 20)", 100.0 * shared);
    println!("{:5.1} %  of types have a name of one word (goal 40)", 100.0 * short);
    println!("{:5.1} %  of doc comments begin with a question word (goal 6)", 100.0 * riddles);
    println!("{:5.1} %  of lines inside code are comments (goal 4)", 100.0 * comments);
    println!("{:5}    private words (goal 0): {words:?}", words.values().sum::<usize>());
    println!("{:5}    pairs of files import each other (goal 0): {pairs:?}", pairs.len());
    println!("{:5}    lines in the longest function (goal 100): {}", longest.1, longest.0);
    assert!(shared <= BOUNDS.shared && short <= BOUNDS.short, "{shared:.3} {short:.3}");
    assert!(riddles <= BOUNDS.riddles, "{riddles:.3}");
    assert!(words.values().sum::<usize>() <= BOUNDS.words, "{words:?}");
    assert!(pairs.len() <= BOUNDS.pairs, "{pairs:?}");
}

/// Most that is tolerated; lower a number when it has fallen.
struct Bounds {
    shared: f64,
    short: f64,
    riddles: f64,
    words: usize,
    pairs: usize,
}

const BOUNDS: Bounds = Bounds { shared: 0.42, short: 0.77, riddles: 0.01, words: 40, pairs: 14 };
