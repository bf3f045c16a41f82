//! Hellos that real clients sent, byte for byte: the templates of every probe that begins like a client.
//!
//! Where they come from and who sent them is written beside the files, in `fixtures/client_hello`.

use super::hello::{Parts, ext};

/// A hello as a real client sent it.
#[derive(Clone, Copy, Debug)]
pub struct Captured {
    /// Its file in `fixtures/client_hello`.
    pub file: &'static str,
    /// The program that sent it.
    pub client: &'static str,
    /// The version of that program.
    pub version: &'static str,
    /// The TLS record.
    pub record: &'static [u8],
}

/// The name that most of the captured hellos ask for.
pub const CAPTURED_NAME: &str = "mask.example.org";

/// Every captured hello, in the order of the index.
pub fn captured() -> &'static [Captured] {
    &ALL
}

/// The captured hello in `file`, named without `.bin`.
pub fn find(file: &str) -> Option<&'static Captured> {
    ALL.iter().find(|hello| hello.file.strip_suffix(".bin") == Some(file))
}

/// The first capture of each client and version.
pub fn classes() -> Vec<&'static Captured> {
    let mut classes: Vec<&'static Captured> = Vec::new();
    for hello in &ALL {
        if !classes.iter().any(|known| (known.client, known.version) == (hello.client, hello.version)) {
            classes.push(hello);
        }
    }
    classes
}

/// A client with a post-quantum key share.
pub fn tdlib() -> &'static Captured {
    find("tdlib-1.8.69-1").unwrap_or(&ALL[0])
}

/// A client with the old fixed length of 517 bytes.
pub fn tdesktop() -> &'static Captured {
    find("tdesktop-5.7.2-1").unwrap_or(&ALL[0])
}

impl Captured {
    /// The hello taken apart.
    pub fn parts(&self) -> Parts {
        Parts::parse(self.record).unwrap_or_default()
    }

    /// The hello as this client would send it to the site `name`.
    ///
    /// A client that pads its hello to a fixed length pads it to that length for every name. A hello that was captured
    /// with a name of its own keeps it: the name is what it was captured for.
    pub fn parts_for(&self, name: &str) -> Parts {
        let parts = self.parts();
        if name == CAPTURED_NAME || parts.name() != Some(CAPTURED_NAME.as_bytes()) {
            return parts;
        }
        let parts = parts.named(&[name.as_bytes()]);
        let Some(padding) = parts.extension(ext::PADDING).map(<[u8]>::len) else { return parts };
        let padded = (padding + CAPTURED_NAME.len()).saturating_sub(name.len());
        parts.with(ext::PADDING, vec![0; padded])
    }
}

macro_rules! captured {
    ($file:literal, $client:literal, $version:literal) => {
        Captured {
            file: concat!($file, ".bin"),
            client: $client,
            version: $version,
            record: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/client_hello/", $file, ".bin")),
        }
    };
}

static ALL: [Captured; 39] = [
    captured!("chromium-156.0.8078.79-1", "chromium", "156.0.8078.79"),
    captured!("chromium-156.0.8078.79-2", "chromium", "156.0.8078.79"),
    captured!("chromium-156.0.8078.79-3", "chromium", "156.0.8078.79"),
    captured!("chromium-156.0.8078.79-4", "chromium", "156.0.8078.79"),
    captured!("curl-7.88.1-1", "curl", "7.88.1"),
    captured!("curl-7.88.1-2", "curl", "7.88.1"),
    captured!("mtcute-0.30.3-1", "mtcute", "0.30.3"),
    captured!("mtcute-0.30.3-2", "mtcute", "0.30.3"),
    captured!("mtcute-0.30.3-3", "mtcute", "0.30.3"),
    captured!("mtcute-0.30.3-4", "mtcute", "0.30.3"),
    captured!("openssl-3.0.22-1", "openssl", "3.0.22"),
    captured!("openssl-3.0.22-2", "openssl", "3.0.22"),
    captured!("tdesktop-4.6.5-1", "tdesktop", "4.6.5"),
    captured!("tdesktop-4.6.5-2", "tdesktop", "4.6.5"),
    captured!("tdesktop-4.6.5-3", "tdesktop", "4.6.5"),
    captured!("tdesktop-4.6.5-4", "tdesktop", "4.6.5"),
    captured!("tdesktop-4.6.5-5", "tdesktop", "4.6.5"),
    captured!("tdesktop-4.6.5-6", "tdesktop", "4.6.5"),
    captured!("tdesktop-5.7.2-1", "tdesktop", "5.7.2"),
    captured!("tdesktop-5.7.2-2", "tdesktop", "5.7.2"),
    captured!("tdesktop-5.7.2-3", "tdesktop", "5.7.2"),
    captured!("tdesktop-5.7.2-4", "tdesktop", "5.7.2"),
    captured!("tdesktop-5.7.2-5", "tdesktop", "5.7.2"),
    captured!("tdesktop-5.7.2-6", "tdesktop", "5.7.2"),
    captured!("tdlib-1.8.69-1", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-2", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-3", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-4", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-5", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-6", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-7", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-8", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-ipv6-1", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-longsni-1", "tdlib", "1.8.69"),
    captured!("tdlib-1.8.69-shortsni-1", "tdlib", "1.8.69"),
    captured!("telethonfaketls-2022.4.4-1", "telethonfaketls", "2022.4.4"),
    captured!("telethonfaketls-2022.4.4-2", "telethonfaketls", "2022.4.4"),
    captured!("telethonfaketls-2022.4.4-3", "telethonfaketls", "2022.4.4"),
    captured!("telethonfaketls-2022.4.4-4", "telethonfaketls", "2022.4.4"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_index() {
        let index = include_str!("../../fixtures/client_hello/index.json");
        let index: Vec<serde_json::Value> = serde_json::from_str(index).unwrap();
        let known: Vec<_> = ALL.iter().map(|hello| (hello.file, hello.client, hello.version)).collect();
        let text = |entry: &serde_json::Value, field: &str| entry[field].as_str().unwrap().to_owned();
        let listed: Vec<_> =
            index.iter().map(|entry| (text(entry, "file"), text(entry, "client"), text(entry, "version"))).collect();
        assert_eq!(known.len(), listed.len());
        for (known, listed) in known.iter().zip(&listed) {
            assert_eq!(*known, (listed.0.as_str(), listed.1.as_str(), listed.2.as_str()));
        }
    }

    #[test]
    fn every_capture_can_be_taken_apart_and_named_anew() {
        for hello in captured() {
            assert_eq!(hello.parts().record(), hello.record, "{}", hello.file);
            assert_eq!(hello.parts_for(CAPTURED_NAME).record(), hello.record, "{}", hello.file);
        }
        assert_eq!(tdlib().client, "tdlib");
        let short = tdesktop().parts_for("a.example");
        assert_eq!((short.record().len(), short.name()), (517, Some(&b"a.example"[..])));
        assert_eq!(find("tdlib-1.8.69-shortsni-1").unwrap().parts_for("b.example").name(), Some(&b"a.io"[..]));
    }
}
