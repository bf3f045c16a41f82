//! Every fuzz target over the corpus that is kept for it, so that what fuzzing has found once is tried by every test run.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn below(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(folder);
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_target_takes_its_corpus_and_every_beginning_of_it() {
    for (name, target) in targets::ALL {
        let inputs = below(&format!("corpus/{name}"));
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            // Said where a target panics.
            eprintln!("{}", input.display());
            target(&bytes);
            let step = bytes.len() / 16 + 1;
            (0..bytes.len()).step_by(step).for_each(|end| target(&bytes[..end]));
        }
    }
}

#[test]
fn every_target_has_a_program_and_every_program_a_target() {
    let names = |of: Vec<PathBuf>| -> BTreeSet<String> {
        of.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let targets: BTreeSet<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(below("fuzz_targets")), targets);
    assert_eq!(names(below("corpus")), targets);
}
