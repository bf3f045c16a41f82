//! Every group of the protocol vectors is used by a test.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_group_of_vectors_is_named_by_a_test() {
    let tests: Vec<String> = sources(&path("src")).iter().filter_map(|source| unit_tests(source)).collect();
    assert!(tests.len() >= 10, "the unit tests are gone");
    let unused: Vec<String> =
        groups().into_iter().filter(|group| !tests.iter().any(|text| text.contains(&format!("\"{group}\"")))).collect();
    assert!(unused.is_empty(), "vectors that no test uses: {unused:?}");
}

fn groups() -> Vec<String> {
    let mut groups = groups_of("vectors.json", 20);
    groups.extend(groups_of("webproxy-vectors.json", 10));
    groups
}

fn groups_of(file: &str, least: usize) -> Vec<String> {
    let text = fs::read(path("fixtures").join(file)).unwrap();
    let vectors: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).unwrap();
    assert!(vectors.len() >= least, "the vectors are gone");
    vectors.into_iter().filter(|(_, group)| !group.is_string()).map(|(group, _)| group).collect()
}

/// What stands in a file from its tests on; they are always last.
fn unit_tests(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).unwrap();
    if file.ends_with("tests.rs") {
        return Some(text);
    }
    let start = text.find("#[cfg(test)]\nmod tests {")?;
    Some(text[start..].to_owned())
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    below.filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
