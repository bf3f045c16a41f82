//! What unit tests share: the captured hellos and the protocol vectors of `fixtures/`.

use std::path::PathBuf;

use serde_json::Value;

use crate::auth::UnixTime;

/// A hello that a real client sent.
pub struct Captured {
    pub file: String,
    pub record: Vec<u8>,
    /// The 16-byte key and the time in the hello, of clients that know a secret.
    pub signed: Option<([u8; 16], UnixTime)>,
    pub server_name: Option<String>,
}

/// Every captured hello.
pub fn captured() -> Vec<Captured> {
    let index: Value = serde_json::from_slice(&read("client_hello/index.json")).unwrap();
    let all: Vec<Captured> = index.as_array().unwrap().iter().map(one).collect();
    assert!(all.len() >= 30, "the captured hellos are gone");
    all
}

fn one(entry: &Value) -> Captured {
    let file = entry["file"].as_str().unwrap().to_owned();
    let signed = entry["secret"].as_str().map(|secret| {
        let key = unhex(&secret[2..34]).try_into().unwrap();
        (key, UnixTime(entry["signed_time"].as_i64().unwrap()))
    });
    let server_name = entry["sni"].as_str().map(str::to_owned);
    Captured { record: read(&format!("client_hello/{file}")), file, signed, server_name }
}

/// A value of the protocol vectors as bytes.
pub fn vector(group: &str, name: &str) -> Vec<u8> {
    unhex(&vector_text(group, name))
}

/// The same as it is written.
pub fn vector_text(group: &str, name: &str) -> String {
    let vectors: Value = serde_json::from_slice(&read("vectors.json")).unwrap();
    vectors[group][name].as_str().unwrap_or_else(|| panic!("no vector {group}/{name}")).to_owned()
}

/// The same as an array.
pub fn vector_array<const N: usize>(group: &str, name: &str) -> [u8; N] {
    vector(group, name).try_into().unwrap()
}

/// A value of the protocol vectors that is written as a number, `0x` and its digits.
pub fn vector_word(group: &str, name: &str) -> u32 {
    u32::from_str_radix(vector_text(group, name).strip_prefix("0x").unwrap(), 16).unwrap()
}

pub fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
}

fn read(path: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fixtures", path].iter().collect();
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A group of the vectors of WEB proxies.
pub fn web_vectors(group: &str) -> Value {
    let mut vectors: Value = serde_json::from_slice(&read("webproxy-vectors.json")).unwrap();
    let found = vectors[group].take();
    assert!(!found.is_null(), "no group {group}");
    found
}
