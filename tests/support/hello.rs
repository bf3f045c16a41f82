//! The hellos of the audit, with what only tests know of them: the secret and the time that they were signed with.

use std::sync::OnceLock;

use vizard::audit::captured;
pub use vizard::audit::hello::*;

/// One file of `fixtures/client_hello` with what `index.json` says about it.
#[derive(Clone, Debug)]
pub struct Captured {
    hello: captured::Captured,
    pub sni: String,
    pub key: Option<Key>,
    pub signed_time: Option<u32>,
}

impl std::ops::Deref for Captured {
    type Target = captured::Captured;

    fn deref(&self) -> &captured::Captured {
        &self.hello
    }
}

/// Every captured hello, in the order of the index.
pub fn captured() -> &'static [Captured] {
    static ALL: OnceLock<Vec<Captured>> = OnceLock::new();
    ALL.get_or_init(|| {
        let index = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/client_hello/index.json"));
        let index: Vec<serde_json::Value> = serde_json::from_str(index).expect("index is JSON");
        assert_eq!(index.len(), captured::captured().len());
        captured::captured().iter().zip(&index).map(|(hello, entry)| Captured::with(*hello, entry)).collect()
    })
}

/// The captured hello in `file`, named without `.bin`.
pub fn capture(file: &str) -> &'static Captured {
    let wanted = format!("{file}.bin");
    captured().iter().find(|hello| hello.file == wanted).unwrap_or_else(|| panic!("no captured hello {file}"))
}

impl Captured {
    fn with(hello: captured::Captured, entry: &serde_json::Value) -> Self {
        assert_eq!(entry["file"], hello.file);
        let key = entry["secret"].as_str().map(|secret| {
            let bytes = data_encoding::HEXLOWER.decode(secret.as_bytes()).expect("secret in hex");
            bytes[1..17].try_into().expect("16 bytes")
        });
        let signed_time = entry["signed_time"].as_u64().map(|time| time as u32);
        Self { hello, sni: entry["sni"].as_str().unwrap_or_default().to_owned(), key, signed_time }
    }
}
