//! The bridge: the page that an app's hidden view loads. Its script is `bridge.js`, in one piece with the document.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;

use super::capability::{BasePath, Host};
use super::frame::MAX_BATCH;
use super::session::Mode;
use super::token::Token;

/// Response to a bridge request. Hidden in `Debug`, since a session can be begun with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Page {
    /// Fields that it must have, beside its length.
    pub headers: Vec<(&'static str, String)>,
    /// The document.
    pub body: String,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page(hidden)")
    }
}

/// The bridge of a place, for one session to be created with this token. The nonce is new in every response.
pub fn bridge(host: &Host, base: &BasePath, bootstrap: &Token, mode: Mode, nonce: [u8; 18]) -> Page {
    let nonce = BASE64URL_NOPAD.encode(&nonce);
    // Clients without a browser look for these words exactly as they stand here.
    let values = format!(
        "const bootstrap=\"{}\", carrierMode=\"{mode}\", batchLimit={MAX_BATCH}, base=\"{}\";",
        bootstrap.text(),
        base.prefix()
    );
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>Loading</title>\n</head>\n<body>\n\
         <script nonce=\"{nonce}\">\n'use strict';\n{values}\n{SCRIPT}</script>\n</body>\n</html>\n"
    );
    Page { headers: headers(host, &nonce), body }
}

const SCRIPT: &str = include_str!("bridge.js");

/// What the page may do: talk to its own host, and nothing else. `frame-ancestors` is for the app that loads it in a
/// frame of a page on loopback; the socket's address is named because one engine does not count it to `'self'`.
fn headers(host: &Host, nonce: &str) -> Vec<(&'static str, String)> {
    let policy = format!(
        "default-src 'none'; base-uri 'none'; child-src 'none'; connect-src 'self' wss://{host}; font-src 'none'; \
         form-action 'none'; frame-ancestors http://127.0.0.1:*; frame-src 'none'; img-src 'none'; manifest-src 'none'; \
         media-src 'none'; object-src 'none'; script-src 'nonce-{nonce}'; style-src 'none'; worker-src 'none'; \
         sandbox allow-same-origin allow-scripts"
    );
    vec![
        ("Content-Type", "text/html; charset=utf-8".into()),
        ("Content-Security-Policy", policy),
        ("Cache-Control", "no-store".into()),
        ("Referrer-Policy", "no-referrer".into()),
        ("X-Content-Type-Options", "nosniff".into()),
        ("X-DNS-Prefetch-Control", "off".into()),
        ("Permissions-Policy", OFF.map(|feature| format!("{feature}=()")).join(", ")),
    ]
}

/// Features that the page has no use for.
const OFF: [&str; 24] = [
    "accelerometer",
    "autoplay",
    "camera",
    "clipboard-read",
    "clipboard-write",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "hid",
    "idle-detection",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-create",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "usb",
    "web-share",
    "xr-spatial-tracking",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::web_vectors;
    use crate::webproxy::request::RESUMABLE;
    use crate::webproxy::token::{TokenKey, TokenKind};

    fn page(mode: Mode) -> (Page, String) {
        let token = TokenKey::new(&[1; 32]).issue(TokenKind::Bootstrap, [2; 16]);
        let base = "a/b".parse().unwrap();
        (bridge(&"proxy.example.com".parse().unwrap(), &base, &token, mode, [3; 18]), token.text())
    }

    /// Double-quoted strings of 43 characters of base64url.
    fn long_strings(text: &str) -> Vec<&str> {
        let is =
            |part: &&str| part.len() == 43 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        text.split('"').filter(is).collect()
    }

    #[test]
    fn clients_without_a_browser_find_their_values() {
        for mode in Mode::ALL {
            let (page, token) = page(mode);
            let once = |words: &str| assert_eq!(page.body.matches(words).count(), 1, "{words}");
            once(&format!("bootstrap=\"{token}\""));
            once(&format!("carrierMode=\"{mode}\""));
            once("batchLimit=2097152");
            assert_eq!(long_strings(&page.body), [token]);
        }
    }

    #[test]
    fn nothing_secret_is_in_debug() {
        assert_eq!(format!("{:?}", page(Mode::Https).0), "Page(hidden)");
    }

    #[test]
    fn the_document_is_one_inline_script_and_asks_for_nothing() {
        let (page, _) = page(Mode::Https);
        assert_eq!(page.body.matches("<script").count(), 1);
        assert_eq!(page.body.matches("</script").count(), 1);
        assert_eq!(page.body.matches(&format!("<script nonce=\"{}\">", BASE64URL_NOPAD.encode(&[3; 18]))).count(), 1);
        for word in ["src=", "href=", "<link", "<img", "<style", "http://", "<!--"] {
            assert!(!page.body.contains(word), "{word}");
        }
        assert!(page.body.len() < 24 << 10, "{} bytes", page.body.len());
    }

    #[test]
    fn the_script_uses_nothing_that_an_app_takes_away() {
        for word in [
            "localStorage",
            "sessionStorage",
            "indexedDB",
            "document.cookie",
            "Worker",
            "RTCPeer",
            "WebTransport",
            "WebAssembly",
            "sendBeacon",
            "EventSource",
            "XMLHttpRequest",
            "alert(",
            "window.open",
            "innerHTML",
            "eval(",
            "console.",
        ] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        assert!(SCRIPT.contains(&format!("'{RESUMABLE}'")), "script and server name the resumable socket alike");
    }

    #[test]
    fn the_script_says_what_the_vectors_say_and_no_more() {
        let control = web_vectors("control");
        for row in control["page_to_app"].as_array().unwrap() {
            for word in ["t", "state"].iter().filter_map(|key| row[key].as_str()) {
                assert!(SCRIPT.contains(&format!("'{word}'")), "{word}");
            }
        }
        let said: Vec<&str> = SCRIPT.split("{t: '").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
        for word in said {
            let rows = control["page_to_app"].as_array().unwrap();
            assert!(rows.iter().any(|row| row["t"] == word), "{word}");
        }
        assert!(SCRIPT.contains(control["parent_to_page"]["t"].as_str().unwrap()));
        let (name, nonce) = control["android_fragment"].as_str().unwrap().split_once('=').unwrap();
        assert!(SCRIPT.contains(&format!("^{name}=")));
        assert_eq!(nonce.len(), 43);
    }

    #[test]
    fn the_headers_are_those_that_the_apps_insist_on() {
        let (page, _) = page(Mode::Https);
        let of = |name: &str| {
            let mut all = page.headers.iter().filter(|(found, _)| *found == name);
            all.next().filter(|_| all.next().is_none()).unwrap_or_else(|| panic!("{name}")).1.as_str()
        };
        assert_eq!(page.headers.len(), 7);
        assert_eq!(of("Content-Type"), "text/html; charset=utf-8");
        let nonce = BASE64URL_NOPAD.encode(&[3; 18]);
        assert_eq!(
            of("Content-Security-Policy"),
            format!(
                "default-src 'none'; base-uri 'none'; child-src 'none'; connect-src 'self' wss://proxy.example.com; \
                 font-src 'none'; form-action 'none'; frame-ancestors http://127.0.0.1:*; frame-src 'none'; img-src 'none'; \
                 manifest-src 'none'; media-src 'none'; object-src 'none'; script-src 'nonce-{nonce}'; style-src 'none'; \
                 worker-src 'none'; sandbox allow-same-origin allow-scripts"
            )
        );
        assert_eq!((of("Cache-Control"), of("Referrer-Policy")), ("no-store", "no-referrer"));
        assert_eq!((of("X-Content-Type-Options"), of("X-DNS-Prefetch-Control")), ("nosniff", "off"));
        assert!(of("Permissions-Policy").starts_with("accelerometer=(), autoplay=(), camera=()"));
        assert!(of("Permissions-Policy").ends_with("web-share=(), xr-spatial-tracking=()"));
        assert_eq!(of("Permissions-Policy").matches("=()").count(), OFF.len());
    }
}
