//! Answers of the carriers.

use std::borrow::Cow;

use bytes::Bytes;

use crate::cover::site::extension::ExtensionAnswer;

/// An answer with these fields and `Cache-Control: no-store`.
pub fn answer(status: u16, fields: &[(&'static str, Cow<'static, str>)], content: Vec<Bytes>) -> ExtensionAnswer {
    let mut all = fields.to_vec();
    all.push(("Cache-Control", "no-store".into()));
    ExtensionAnswer::Reply {
        status,
        fields: all,
        content: content.into_iter().filter(|piece| !piece.is_empty()).collect(),
    }
}

/// The answer to what is authentic and of no use.
pub fn refused() -> ExtensionAnswer {
    answer(404, &[("Content-Type", "text/plain".into())], vec![Bytes::from_static(b"Not Found\n")])
}

/// The answer to what may be asked again in a second.
pub fn busy() -> ExtensionAnswer {
    answer(503, &[("Retry-After", "1".into()), ("Content-Type", "text/plain".into())], Vec::new())
}
