//! The commands in the documents: each is understood by the program, and what can be run offline is run.
//!
//! A block of `sh` or `console` is run unless a comment `<!-- not run: why -->` stands above it. Blocks of one document
//! are run one after the other in a folder of their own, in which there are `vizard.toml` and the program.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A block of commands.
struct Block {
    document: PathBuf,
    line: usize,
    text: String,
    runs: bool,
}

fn documents() -> Vec<PathBuf> {
    let mut documents = vec![PathBuf::from("README.md")];
    let entries = fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path());
    documents.extend(entries.filter(|path| path.extension().is_some_and(|it| it == "md")));
    documents.sort();
    assert!(documents.len() >= 15, "docs has lost its documents");
    documents
}

fn blocks(document: &Path) -> Vec<Block> {
    let text = fs::read_to_string(document).unwrap();
    let (mut blocks, mut above, mut open) = (Vec::new(), "", None::<Block>);
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.trim()) {
            (None, "```sh" | "```console" | "```bash") => {
                let runs = !above.trim().starts_with("<!-- not run: ");
                open = Some(Block { document: document.into(), line: number + 1, text: String::new(), runs });
            }
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), _) => block.text += &format!("{}\n", command(line)),
            (None, _) => above = line,
        }
    }
    assert!(open.is_none(), "{}: a block has no end", document.display());
    blocks
}

/// A line without the prompt of a `console`.
fn command(line: &str) -> &str {
    line.trim_start().strip_prefix("$ ").unwrap_or(line)
}

/// The calls of the program in a block, as words.
fn calls(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| line.starts_with("vizard "));
    let words = lines.map(|line| shell_words::split(line).unwrap_or_else(|error| panic!("{line}: {error}")));
    // What stands behind a redirection, a pipe or a comment is the shell's.
    let ours = |word: &String| !["|", "||", "&&", ">", ">>", "#", ";"].contains(&word.as_str());
    words.map(|words| words.into_iter().take_while(ours).collect()).collect()
}

#[test]
fn every_command_is_understood() {
    let mut count = 0;
    for block in documents().iter().flat_map(|document| blocks(document)) {
        for words in calls(&block.text) {
            let said = words.join(" ");
            let understood = vizard::cli::understands(words.into_iter().map(OsString::from));
            let place = format!("{}:{}", block.document.display(), block.line);
            understood.unwrap_or_else(|error| panic!("{place}: {said}\n{error}"));
            count += 1;
        }
    }
    assert!(count >= 20, "only {count} commands were found");
    let wrong = calls("vizard no-such-command --flag | cat\n");
    assert!(vizard::cli::understands(wrong[0].iter().map(OsString::from)).is_err());
}

const CONFIG: &str = "\
domain = \"www.example.com\"
listen = [\"127.0.0.1:8443\"]
[[users]]
name = \"alice\"
secret = \"00112233445566778899aabbccddeeff\"
[link]
host = \"192.0.2.1\"
[site]
";

#[test]
fn what_can_be_run_works() {
    let mut count = 0;
    for document in documents() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vizard"), bin.join("vizard")).unwrap();
        fs::write(home.path().join("vizard.toml"), if document.ends_with("users.md") { "" } else { CONFIG }).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        for block in blocks(&document).into_iter().filter(|block| block.runs) {
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-c", &block.text]).current_dir(home.path()).stdin(Stdio::null());
            command
                .env_clear()
                .env("PATH", &path)
                .env("HOME", home.path())
                .env("STATE_DIRECTORY", home.path().join("state"));
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            let place = format!("{}:{}", block.document.display(), block.line);
            assert!(output.status.success(), "{place}\n{}\n{said}", block.text);
            count += 1;
        }
    }
    assert!(count >= 6, "only {count} blocks were run");
}

#[test]
fn what_is_linked_is_there() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') || link.is_empty() {
                continue;
            }
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            let folder = document.parent().unwrap_or(Path::new(""));
            let target = if path.is_empty() { document.clone() } else { folder.join(path) };
            assert!(target.exists(), "{}: {link} is not there", document.display());
            if !part.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let anchors = there.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(
                    anchors.into_iter().any(|anchor| anchor == part),
                    "{}: {link} has no such heading",
                    document.display()
                );
            }
        }
    }
}

/// What a heading is called in links.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn readme_shows_two_commands_and_what_the_first_one_prints() {
    let shown = blocks(Path::new("README.md"));
    let commands: Vec<&str> = shown.iter().flat_map(|block| block.text.lines()).collect();
    assert_eq!(commands, ["cargo run --release -- run", "bash tests/run.sh"]);
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, sample) = readme.split_once("```text\nvizard ").expect("a sample");
    let (sample, _) = sample.split_once("\n```").unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vizard"));
    command.args(["link", "--no-qr", "--host", "198.51.100.7", "--state-dir"]).arg(home.path().join("state"));
    command.args(["--secret", "default=00112233445566778899aabbccddeeff", "--domain", "lakeguitars.com"]);
    command.args(["--listen", "[::]:443", "--cover", "site"]);
    let output = command.env_clear().output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let links: Vec<&str> = printed.lines().filter(|line| line.contains("://")).map(str::trim).collect();
    assert_eq!(links.len(), 2, "{printed}{}", String::from_utf8_lossy(&output.stderr));
    for link in links {
        assert!(sample.lines().any(|line| line.trim() == link), "README lacks {link}");
    }
}

/// Documents in which all words are the field's; the others have still to follow.
const REWRITTEN: [&str; 22] = [
    "README.md",
    "docs/admin-api.md",
    "docs/auditing.md",
    "docs/certificates.md",
    "docs/choosing-a-cover.md",
    "docs/contributing.md",
    "docs/deployment.md",
    "docs/doctor.md",
    "docs/hardening.md",
    "docs/incident.md",
    "docs/law-and-privacy.md",
    "docs/maintenance.md",
    "docs/monitoring.md",
    "docs/moving.md",
    "docs/operation.md",
    "docs/out-of-scope.md",
    "docs/promoted-channel.md",
    "docs/quick-start.md",
    "docs/releasing.md",
    "docs/routes.md",
    "docs/security.md",
    "docs/troubleshooting.md",
];

#[test]
fn documents_use_the_words_of_the_field() {
    let private = ["mend", "mends", "heed", "heeds", "hush", "anew", "whoever", "somebody", "nobody"];
    for document in REWRITTEN {
        let text = fs::read_to_string(document).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            // What stands in backticks is the program's to name.
            let prose = line.split('`').step_by(2);
            let mut words = prose.flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
            if let Some(word) = words.find(|word| private.contains(word)) {
                panic!("{document}:{}: {word} is no word of the field", number + 1);
            }
        }
    }
}

/// Pages for operators that are read from top to bottom, and how many words they may have.
#[test]
fn pages_for_operators_stay_short() {
    for page in ["quick-start", "deployment", "operation", "users", "troubleshooting", "maintenance", "incident"] {
        let text = fs::read_to_string(Path::new("docs").join(page).with_extension("md")).unwrap();
        let words = text.split_whitespace().count();
        assert!(words <= 1300, "docs/{page}.md has {words} words");
    }
}

#[test]
fn the_map_names_what_is_there() {
    let map = fs::read_to_string("docs/architecture.md").unwrap();
    let names: Vec<&str> = map.split('`').skip(1).step_by(2).collect();
    let files: Vec<&&str> = names.iter().filter(|name| name.ends_with(".rs") && !name.contains(' ')).collect();
    assert!(files.len() >= 20, "the map names {} files", files.len());
    for file in files {
        let path = Path::new("src").join(file.trim_start_matches("src/"));
        assert!(path.is_file(), "docs/architecture.md: {file} is not there");
    }
    let (_, layers) = map.split_once("## Layers").unwrap();
    let (layers, _) = layers.split_once("## ").unwrap();
    for entry in fs::read_dir("src").unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(layers.contains(&format!("| `{name}` |")), "docs/architecture.md lacks the folder {name}");
    }
    let glossary = map.split("## Glossary").nth(1).expect("a glossary");
    for noun in ["cover", "visitor", "gate", "judge", "verdict", "admission", "promotion", "scout", "profile"] {
        assert!(glossary.contains(&format!("\n| {noun} |")), "the glossary lacks {noun}");
    }
}
