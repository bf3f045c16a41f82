//! Conditional and partial requests: which of them a file's answer satisfies. Pure arithmetic on headers.

use hyper::HeaderMap;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

/// What a request asks for besides the file itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    none_match: Option<String>,
    modified_since: Option<Timestamp>,
    if_range: Option<String>,
}

impl Wishes {
    /// Takes the conditions out of a request, and the ranges that are better answered with the whole file: several at
    /// once, units other than bytes, and any that come with `HEAD`.
    pub(super) fn take(headers: &mut HeaderMap, head: bool) -> Wishes {
        let single = text(headers, &RANGE).is_some_and(|range| range.starts_with("bytes=") && !range.contains(','));
        if head || !single {
            headers.remove(RANGE);
        }
        let mut take = |name: HeaderName| headers.remove(name).and_then(|value| value.to_str().map(str::to_owned).ok());
        Wishes {
            none_match: take(IF_NONE_MATCH),
            modified_since: take(IF_MODIFIED_SINCE).and_then(|date| moment(&date)),
            if_range: take(IF_RANGE),
        }
    }

    /// Whether the client has this very file already. A tag, where there is one, counts more than a date.
    pub(super) fn already_there(&self, response: &HeaderMap) -> bool {
        match (&self.none_match, self.modified_since) {
            (Some(tags), _) => text(response, &ETAG).is_some_and(|tag| lists(tags, tag)),
            (None, Some(since)) => modified(response).is_some_and(|modified| modified <= since),
            (None, None) => false,
        }
    }

    /// Whether the client wants a part only of a file that is no longer the one served.
    pub(super) fn part_of_another(&self, response: &HeaderMap) -> bool {
        self.if_range.as_deref().is_some_and(|wanted| {
            Some(wanted) != text(response, &ETAG) && Some(wanted) != text(response, &LAST_MODIFIED)
        })
    }
}

/// The tag of a file by its time and size, in the form that nginx made common.
pub(super) fn tag(response: &HeaderMap) -> Option<HeaderValue> {
    let size: u64 = match text(response, &CONTENT_RANGE) {
        Some(range) => range.rsplit_once('/')?.1.parse().ok()?,
        None => text(response, &CONTENT_LENGTH)?.parse().ok()?,
    };
    HeaderValue::try_from(format!("\"{:x}-{size:x}\"", modified(response)?.as_second())).ok()
}

/// A tag that says "the same content, in other bytes".
pub(super) fn weak(tag: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("W/{}", tag.to_str().ok()?)).ok()
}

fn modified(response: &HeaderMap) -> Option<Timestamp> {
    moment(text(response, &LAST_MODIFIED)?)
}

fn moment(date: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(date).ok()
}

/// The comparison of `If-None-Match` is the weak one.
fn lists(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|listed| listed == "*" || listed.strip_prefix("W/").unwrap_or(listed) == tag)
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sat, 13 Jul 2024 15:09:59 GMT";

    fn headers(list: &[(HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn response() -> HeaderMap {
        let mut response = headers(&[(LAST_MODIFIED, DATE), (CONTENT_LENGTH, "255")]);
        let tag = tag(&response).unwrap();
        response.insert(ETAG, tag);
        response
    }

    fn already_there(list: &[(HeaderName, &str)]) -> bool {
        Wishes::take(&mut headers(list), false).already_there(&response())
    }

    #[test]
    fn tag_is_the_same_for_the_whole_and_for_a_part() {
        assert_eq!(response()[ETAG], "\"669298c7-ff\"");
        let part = headers(&[(LAST_MODIFIED, DATE), (CONTENT_LENGTH, "5"), (CONTENT_RANGE, "bytes 0-4/255")]);
        assert_eq!(tag(&part).unwrap(), response()[ETAG]);
        assert_eq!(weak(&tag(&part).unwrap()).unwrap(), "W/\"669298c7-ff\"");
    }

    #[test]
    fn knows_what_the_client_has() {
        assert!(already_there(&[(IF_MODIFIED_SINCE, DATE)]));
        assert!(already_there(&[(IF_MODIFIED_SINCE, "Sat, 13 Jul 2024 15:10:00 GMT")]));
        assert!(!already_there(&[(IF_MODIFIED_SINCE, "Sat, 13 Jul 2024 15:09:58 GMT")]));
        assert!(!already_there(&[(IF_MODIFIED_SINCE, "yesterday")]));
        assert!(already_there(&[(IF_NONE_MATCH, "\"669298c7-ff\"")]));
        assert!(already_there(&[(IF_NONE_MATCH, "\"x\", W/\"669298c7-ff\"")]));
        assert!(already_there(&[(IF_NONE_MATCH, "*")]));
        assert!(!already_there(&[(IF_NONE_MATCH, "\"669298c7-fe\"")]));
        assert!(!already_there(&[(IF_NONE_MATCH, "\"other\""), (IF_MODIFIED_SINCE, DATE)]), "the tag counts more");
        assert!(!already_there(&[]));
    }

    #[test]
    fn part_is_of_the_file_that_the_client_knows() {
        let asked = |value| Wishes::take(&mut headers(&[(IF_RANGE, value)]), false).part_of_another(&response());
        assert!(!asked("\"669298c7-ff\""));
        assert!(!asked(DATE));
        assert!(asked("\"669298c7-fe\""));
        assert!(asked("W/\"669298c7-ff\""), "a weak tag never allows a part");
        assert!(!Wishes::default().part_of_another(&response()));
    }

    #[test]
    fn only_one_range_of_bytes_is_left_in() {
        let left = |range, head| {
            let mut headers = headers(&[(RANGE, range)]);
            Wishes::take(&mut headers, head);
            headers.contains_key(RANGE)
        };
        assert!(left("bytes=0-4", false));
        assert!(!left("bytes=0-4", true));
        assert!(!left("bytes=0-4,6-7", false));
        assert!(!left("lines=0-4", false));
    }
}
