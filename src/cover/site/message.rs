//! Requests and answers as both versions of HTTP have them in common. Header fields keep their order and, where the
//! protocol has one, their case: both tell servers apart.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::content::Content;

/// The version of the protocol that a request was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Http09,
    Http10,
    Http11,
    Http2,
}

/// Header fields in the order and the case in which they came. Values are hidden in `Debug`: some are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(pub(super) Vec<(Bytes, Bytes)>);

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Fields {
    /// The first value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        let found = self.0.iter().find(|field| field.0.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| &value[..])
    }

    /// The first value of a field, if it is ASCII.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok()).filter(|value| value.is_ascii())
    }

    /// All values of a field.
    pub(super) fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
        values(&self.0, name)
    }

    pub(super) fn push(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }
}

/// All values of the field `name`, whatever its case.
pub(super) fn values<'f>(fields: &'f [(Bytes, Bytes)], name: &'f str) -> impl Iterator<Item = &'f [u8]> + use<'f> {
    let found = move |field: &&(Bytes, Bytes)| field.0.eq_ignore_ascii_case(name.as_bytes());
    fields.iter().filter(found).map(|(_, value)| &value[..])
}

/// The target of a request. Hidden in `Debug`: a query may be a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// As it was sent, without scheme and host.
    pub(super) raw: Bytes,
    /// The path with escapes, dots and doubled slashes resolved.
    pub(super) path: Vec<u8>,
    /// Query: the part behind the question mark.
    pub(super) query: Option<Bytes>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target(hidden)")
    }
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Bytes,
    pub(super) target: Target,
    pub(super) version: Version,
    /// The host that is asked for: lower case, without a port.
    pub(super) host: Option<String>,
    pub(super) fields: Fields,
    /// Length of the body; `None` if it is not told beforehand.
    pub(super) length: Option<u64>,
}

impl Request {
    pub(super) fn is_head(&self) -> bool {
        &self.method[..] == b"HEAD"
    }

    /// Whether there is a body behind the head.
    pub(super) fn has_body(&self) -> bool {
        self.length != Some(0)
    }
}

/// The body of a request, piece by piece; an error if it does not come whole.
pub(super) type Upload = mpsc::Receiver<Result<Bytes, Broken>>;

/// A body that has broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// The answer to a request.
pub(super) struct Reply {
    pub(super) status: u16,
    /// The first line, where it is not that of this server.
    pub(super) line: Option<Bytes>,
    pub(super) head: Head,
    pub(super) content: Content,
    /// Whether the connection ends after it.
    pub(super) last: bool,
}

/// The header fields of an answer.
pub(super) enum Head {
    /// Those of a server of its own.
    Own(Box<Own>),
    /// Those of another server, in its order.
    Theirs(Fields),
    /// Those of an extension, to which the site adds nothing of its own.
    Exact(Fields),
}

/// The fields that a server of its own sends, in the order in which it does.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    pub(super) kind: Option<Cow<'static, str>>,
    pub(super) length: Option<u64>,
    pub(super) modified: Option<String>,
    pub(super) location: Option<String>,
    pub(super) varies: bool,
    pub(super) more: Vec<(&'static str, String)>,
}

impl Own {
    /// All of them; `framing` stands where the connection is spoken of.
    pub(super) fn fields(self, server: &str, date: String, framing: &[(&'static str, &'static str)]) -> Fields {
        let mut fields = Fields(Vec::with_capacity(12));
        fields.push("Server", server.to_owned());
        fields.push("Date", date);
        let optional = [
            ("Content-Type", self.kind.map(Cow::into_owned)),
            ("Content-Length", self.length.map(|length| length.to_string())),
            ("Last-Modified", self.modified),
            ("Location", self.location),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                fields.push(name, value);
            }
        }
        framing.iter().for_each(|(name, value)| fields.push(*name, *value));
        if self.varies {
            fields.push("Vary", "Accept-Encoding");
        }
        self.more.into_iter().for_each(|(name, value)| fields.push(name, value));
        fields
    }
}

/// The words that go with a status.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        413 => "Request Entity Too Large",
        412 => "Precondition Failed",
        414 => "Request-URI Too Large",
        416 => "Requested Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Temporarily Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_in_debug() {
        let mut fields = Fields::default();
        fields.push("Authorization", "Bearer hidden-value");
        let raw = Bytes::from_static(b"/?bridge=hidden-value");
        let target = Target { query: Some(raw.slice(2..)), path: b"/".to_vec(), raw };
        let debug = format!("{fields:?} {target:?}");
        assert!(debug.contains("Authorization") && !debug.contains("hidden-value"), "{debug}");
    }
}
