//! Links of WEB proxies, written for and read as strictly as the apps do.
//!
//! ```text
//! root   tg://webproxy?server=HOST&secret=HEX
//! path   tg://webproxy?server=HOST%2FPATH&secret=MARKED     base64url of the byte 70 and the secret
//! ```
//!
//! The mark makes apps that know no base paths refuse the link instead of connecting to the root.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

use super::capability::{BasePath, Form, Host, NameError};
use crate::auth::Secret;

/// Link of a WEB proxy. There is no port in it: the port is 443.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebLink {
    /// Host of the site.
    pub host: Host,
    /// Base path of the bridge.
    pub base: BasePath,
    /// The user's key.
    pub secret: Secret,
    /// Whether the key stands behind `dd`.
    pub form: Form,
}

impl WebLink {
    /// The link that opens the app.
    pub fn tg(&self) -> String {
        format!("tg://webproxy?{}", self.query())
    }

    /// The link for the web. Apps read it, but t.me has no page for it: hand out [`Self::tg`].
    pub fn web(&self) -> String {
        format!("https://t.me/webproxy?{}", self.query())
    }

    fn query(&self) -> String {
        let mut secret = Zeroizing::new(Vec::with_capacity(18));
        if !self.base.is_root() {
            secret.push(MARK);
        }
        if self.form == Form::Dd {
            secret.push(DD);
        }
        secret.extend_from_slice(self.secret.bytes());
        match self.base.is_root() {
            true => format!("server={}&secret={}", self.host, HEXLOWER.encode(&secret)),
            false => {
                let path = self.base.as_str().replace('/', "%2F");
                format!("server={}%2F{path}&secret={}", self.host, BASE64URL_NOPAD.encode(&secret))
            }
        }
    }
}

impl FromStr for WebLink {
    type Err = LinkError;

    fn from_str(link: &str) -> Result<Self, LinkError> {
        let query = STARTS.iter().find_map(|start| link.trim().strip_prefix(start)).ok_or(LinkError::Kind)?;
        let (server, secret) = parts(query)?;
        let (host, path) = server.split_once('/').map_or((server.as_str(), None), |(host, path)| (host, Some(path)));
        let (secret, form, marked) = read_secret(&secret)?;
        let base = match path {
            None => BasePath::default(),
            Some("") => return Err(LinkError::Name(NameError::Path)),
            Some(path) => path.parse().map_err(LinkError::Name)?,
        };
        if !base.is_root() && !marked {
            return Err(LinkError::Unmarked);
        }
        Ok(Self { host: Host::lowered(host).map_err(LinkError::Name)?, base, secret, form })
    }
}

/// Server and secret of a link. A part that is there twice is refused, and so are both names of the server at once.
fn parts(query: &str) -> Result<(Zeroizing<String>, Zeroizing<String>), LinkError> {
    let (mut server, mut secret) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "server" | "host" => &mut server,
            "secret" => &mut secret,
            _ => continue,
        };
        if place.replace(Zeroizing::new(value.into_owned())).is_some() {
            return Err(LinkError::Twice);
        }
    }
    Ok((server.ok_or(LinkError::NoServer)?, secret.ok_or(LinkError::NoSecret)?))
}

/// Key and form of a secret as it is written, and whether the mark of base paths stands before them. The length alone tells
/// a bare key from one behind `dd`: a bare key may begin with that byte too.
fn read_secret(text: &str) -> Result<(Secret, Form, bool), LinkError> {
    let hex = matches!(text.len(), 32 | 34) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let encoding = if hex { &HEXLOWER_PERMISSIVE } else { &BASE64URL_NOPAD };
    let bytes = Zeroizing::new(encoding.decode(text.as_bytes()).map_err(|_| LinkError::Secret)?);
    let (bytes, marked) = match &bytes[..] {
        [MARK, rest @ ..] if !hex && rest.len() >= Secret::LENGTH => (rest, true),
        bytes => (bytes, false),
    };
    let (key, form) = match bytes {
        [DD, key @ ..] if key.len() == Secret::LENGTH => (key, Form::Dd),
        key => (key, Form::Plain),
    };
    Ok((Secret::new(key.try_into().map_err(|_| LinkError::Secret)?), form, marked))
}

const STARTS: [&str; 6] = [
    "tg://webproxy?",
    "https://t.me/webproxy?",
    "http://t.me/webproxy?",
    "https://telegram.me/webproxy?",
    "https://telegram.dog/webproxy?",
    "http://telegram.me/webproxy?",
];
const MARK: u8 = 0x70;
const DD: u8 = 0xdd;

/// Why a text is no link of a WEB proxy. Says nothing about the secret in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// Another kind of link, or none.
    Kind,
    /// No server in it.
    NoServer,
    /// No secret in it.
    NoSecret,
    /// A part that is there twice.
    Twice,
    /// A host or base path that the apps refuse.
    Name(NameError),
    /// A secret of another form.
    Secret,
    /// A base path with a secret that has no mark.
    Unmarked,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => f.write_str("not the link of a WEB proxy"),
            Self::NoServer => f.write_str("the link has no server"),
            Self::NoSecret => f.write_str("the link has no secret"),
            Self::Twice => f.write_str("the link has its server or its secret twice"),
            Self::Name(error) => write!(f, "in the server of the link: {error}"),
            Self::Secret => f.write_str("the secret of the link has neither 16 bytes nor `dd` and 16 bytes"),
            Self::Unmarked => f.write_str("the link has a base path, but its secret lacks the mark for one"),
        }
    }
}

impl std::error::Error for LinkError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{unhex, web_vectors};

    #[test]
    fn links_are_read_and_written_as_the_vectors_say() {
        let rows = web_vectors("links");
        assert!(rows.as_array().unwrap().len() >= 25);
        for row in rows.as_array().unwrap() {
            let text = row["link"].as_str().unwrap();
            let read = text.parse::<WebLink>();
            if row["error"].is_string() {
                assert!(read.is_err(), "{text}: {}", row["error"]);
                continue;
            }
            let link = read.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(link.host.as_str(), row["host"].as_str().unwrap());
            assert_eq!(link.base.as_str(), row["path"].as_str().unwrap());
            let secret = unhex(row["secret"].as_str().unwrap());
            assert_eq!(link.secret.bytes()[..], secret[secret.len() - 16..]);
            assert_eq!(link.form == Form::Dd, secret.len() == 17, "{text}");
            assert_eq!(link.tg(), row["canonical"].as_str().unwrap());
        }
    }

    #[test]
    fn parts_that_are_there_twice_are_refused() {
        let secret = "secret=000102030405060708090a0b0c0d0e0f";
        for query in [
            format!("server=a.example&server=a.example&{secret}"),
            format!("server=a.example&host=a.example&{secret}"),
            format!("server=a.example&{secret}&{secret}"),
        ] {
            assert_eq!(format!("tg://webproxy?{query}").parse::<WebLink>(), Err(LinkError::Twice), "{query}");
        }
    }

    #[test]
    fn a_bare_key_may_begin_with_any_byte() {
        for first in [0x70, 0xdd, 0xee] {
            let mut key = [5; 16];
            key[0] = first;
            let link = |base: &str, form| WebLink {
                host: "a.example".parse().unwrap(),
                base: base.parse().unwrap(),
                secret: Secret::new(key),
                form,
            };
            for link in [link("", Form::Plain), link("", Form::Dd), link("p", Form::Plain), link("p", Form::Dd)] {
                assert_eq!(link.tg().parse(), Ok(link.clone()));
                assert_eq!(link.web().parse(), Ok(link));
            }
        }
    }

    proptest! {
        #[test]
        fn every_link_is_read_as_it_was_written(
            key: [u8; 16], dd: bool, host in "[a-z]{1,9}\\.[a-z]{2,5}", base in "([A-Za-z0-9][A-Za-z0-9_-]{0,5}(/[a-z0-9]{1,5}){0,2})?"
        ) {
            let form = if dd { Form::Dd } else { Form::Plain };
            let link =
                WebLink { host: host.parse().unwrap(), base: base.parse().unwrap(), secret: Secret::new(key), form };
            prop_assert_eq!(link.tg().parse(), Ok(link));
        }

        #[test]
        fn no_text_is_too_odd_to_be_read(query in ".*") {
            let _ = format!("tg://webproxy?{query}").parse::<WebLink>();
        }
    }
}
