//! Conditional and partial requests: which of them a file satisfies, by the rules of nginx. Pure.

use super::date;
use super::message::Fields;

/// Properties that tell one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Seconds since 1970.
    pub(super) modified: i64,
    pub(super) length: u64,
}

impl Stamp {
    /// The tag of a file by its time and size.
    pub(super) fn tag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.modified, self.length)
    }
}

/// Result of evaluating a condition (RFC 9110, 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The file is sent.
    Holds,
    /// The client has it.
    NotModified,
    /// It is another than the client wants.
    Failed,
}

/// Weighs the conditions of a request against a file.
pub(super) fn weigh(fields: &Fields, stamp: &Stamp) -> Condition {
    if let Some(since) = fields.get("if-unmodified-since")
        && moment(since).is_none_or(|since| since < stamp.modified)
    {
        return Condition::Failed;
    }
    if let Some(tags) = fields.get("if-match")
        && !lists(tags, &stamp.tag(), false)
    {
        return Condition::Failed;
    }
    let since = fields.get("if-modified-since").map(|since| moment(since) == Some(stamp.modified));
    let tagged = fields.get("if-none-match").map(|tags| lists(tags, &stamp.tag(), true));
    match (since, tagged) {
        (None, None) | (Some(false), _) | (_, Some(false)) => Condition::Holds,
        _ => Condition::NotModified,
    }
}

/// Parts of a file that a request asks for: all of it, or ranges, each from its first byte to the one behind its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Whole,
    Parts(Vec<(u64, u64)>),
    /// Parts that the file does not have.
    Beyond,
}

/// Reads the ranges of a request. More than the file has in all is answered with the file.
pub(super) fn share(fields: &Fields, stamp: &Stamp) -> Share {
    let Some(range) = fields.get("range").filter(|range| range.len() >= 7) else { return Share::Whole };
    if !range[..6].eq_ignore_ascii_case(b"bytes=") {
        return Share::Whole;
    }
    if let Some(wanted) = fields.get("if-range") {
        let current = match wanted {
            [.., _, b'"'] => wanted == stamp.tag().as_bytes(),
            date => moment(date) == Some(stamp.modified),
        };
        if !current {
            return Share::Whole;
        }
    }
    let (mut parts, mut size) = (Vec::new(), 0_u64);
    for text in range[6..].split(|byte| *byte == b',') {
        match part(text, stamp.length) {
            None => return Share::Beyond,
            Some((start, end)) if start < end => {
                parts.push((start, end));
                size = size.saturating_add(end - start);
            }
            Some((0, _)) => return Share::Whole,
            Some(_) => {}
        }
    }
    match parts.is_empty() {
        true => Share::Beyond,
        false if size > stamp.length => Share::Whole,
        false => Share::Parts(parts),
    }
}

/// One range, cut to the file; `None` if it cannot be read.
fn part(text: &[u8], length: u64) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (first, last) = text.trim_matches(' ').split_once('-')?;
    let (first, last) = (first.trim_end_matches(' '), last.trim_start_matches(' '));
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
    match (first, last) {
        ("", last) => {
            let tail = number(last)?.unsigned_abs();
            Some((length.saturating_sub(tail), length))
        }
        (first, "") => Some((number(first)?.unsigned_abs(), length)),
        (first, last) => {
            let (first, last) = (number(first)?.unsigned_abs(), number(last)?.unsigned_abs());
            Some((first, length.min(last.saturating_add(1))))
        }
    }
}

fn moment(text: &[u8]) -> Option<i64> {
    date::parse(std::str::from_utf8(text).ok()?)
}

/// Whether a list names a tag; the weak comparison does not mind who says that the bytes may differ.
fn lists(tags: &[u8], tag: &str, weak: bool) -> bool {
    let Ok(tags) = std::str::from_utf8(tags) else { return false };
    let bare = |listed: &'_ str| match weak {
        true => listed.strip_prefix("W/").unwrap_or(listed).to_owned(),
        false => listed.to_owned(),
    };
    tags == "*" || tags.split(',').any(|listed| bare(listed.trim_matches([' ', '\t'])) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { modified: 784_111_777, length: 100 };
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn fields(list: &[(&'static str, &str)]) -> Fields {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.push(*name, value.to_string()));
        fields
    }

    #[test]
    fn conditions_are_weighed() {
        let tag = STAMP.tag();
        let weak = format!("W/{tag}");
        let list = format!("\"x\", {weak}");
        use Condition::{Failed, Holds, NotModified};
        let table: [(&[(&str, &str)], Condition); 15] = [
            (&[], Holds),
            (&[("If-Modified-Since", DATE)], NotModified),
            (&[("If-Modified-Since", LATER)], Holds),
            (&[("If-Modified-Since", "yesterday")], Holds),
            (&[("If-None-Match", &tag)], NotModified),
            (&[("If-None-Match", &list)], NotModified),
            (&[("If-None-Match", "*")], NotModified),
            (&[("If-None-Match", "\"x\"")], Holds),
            (&[("If-None-Match", "\"x\""), ("If-Modified-Since", DATE)], Holds),
            (&[("If-None-Match", &tag), ("If-Modified-Since", LATER)], Holds),
            (&[("If-Match", &tag)], Holds),
            (&[("If-Match", &weak)], Failed),
            (&[("If-Unmodified-Since", LATER)], Holds),
            (&[("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")], Failed),
            (&[("If-Unmodified-Since", "never")], Failed),
        ];
        for (list, outcome) in table {
            assert_eq!(weigh(&fields(list), &STAMP), outcome, "{list:?}");
        }
    }

    #[test]
    fn ranges_are_read() {
        let parts = |list: &[(u64, u64)]| Share::Parts(list.to_vec());
        let table = [
            ("bytes=0-4", parts(&[(0, 5)])),
            ("bytes=5-", parts(&[(5, 100)])),
            ("bytes=-3", parts(&[(97, 100)])),
            ("bytes=-300", parts(&[(0, 100)])),
            ("bytes=0-999999", parts(&[(0, 100)])),
            ("bytes=0-1, 4-5", parts(&[(0, 2), (4, 6)])),
            ("bytes=0-90,10-99", Share::Whole),
            ("bytes=100-", Share::Beyond),
            ("bytes=-0", Share::Beyond),
            ("bytes=9-5", Share::Beyond),
            ("bytes=x-5", Share::Beyond),
            ("bytes=99999999999999999999-", Share::Beyond),
            ("lines=0-4", Share::Whole),
            ("bytes=", Share::Whole),
        ];
        for (range, share_of) in table {
            assert_eq!(share(&fields(&[("Range", range)]), &STAMP), share_of, "{range}");
        }
        let tag = STAMP.tag();
        for (wanted, whole) in [(tag.as_str(), false), (DATE, false), (LATER, true), ("\"x\"", true), ("W/\"x\"", true)]
        {
            let share = share(&fields(&[("Range", "bytes=0-4"), ("If-Range", wanted)]), &STAMP);
            assert_eq!(share == Share::Whole, whole, "{wanted}");
        }
    }
}
