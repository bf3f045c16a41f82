//! Hiding what may be a secret in texts that are shown: in a drawn file, a flag, a message.
//!
//! No one knows for sure what is a secret in a text with a mistake in it, so rather too much is hidden than too little.
//! Hidden bytes become stars: lengths and lines stay, and carets go on pointing at their places.

use std::ops::Range;

/// The text with stars over these spans and over everything that looks like a secret.
pub fn redacted(text: &str, spans: impl IntoIterator<Item = Range<usize>>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let found = assignments(text).chain(runs(text)).chain(urls(text)).chain(passwords(text));
    let spans = spans.into_iter().chain(found);
    for byte in spans.filter_map(|span| text.get(span.clone()).map(|_| span)).flatten() {
        if !matches!(bytes[byte], b'\n' | b'\r' | b'\t' | b' ' | b'"' | b'\'') {
            bytes[byte] = b'*';
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The same for a text of which nothing is known.
pub fn plain(text: &str) -> String {
    redacted(text, [])
}

/// Finds what follows `secret =` and its like up to the end of the line, for files that are too broken to parse.
fn assignments(text: &str) -> impl Iterator<Item = Range<usize>> {
    ["secret", "password", "token", "webhook"].into_iter().flat_map(move |word| {
        text.match_indices(word).filter_map(|(at, word)| {
            let start = at + word.len();
            let line = text[start..].lines().next().unwrap_or_default();
            let value = line.trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=')?;
            Some(start + line.len() - value.len()..start + line.len())
        })
    })
}

/// Runs of 32 hexadecimal digits and more, wherever they stand.
fn runs(text: &str) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for (at, byte) in text.bytes().chain([b'\n']).enumerate() {
        if !byte.is_ascii_hexdigit() {
            if at - start >= 32 {
                runs.push(start..at);
            }
            start = at + 1;
        }
    }
    runs
}

/// Of URLs the user with the password, and everything behind the host: services put keys into both.
fn urls(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").flat_map(|(at, mark)| {
        let start = at + mark.len();
        let end = start + word(&text[start..]).len();
        let host = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
        let path = text[host..end].find(['/', '?', '#']).map_or(end, |at| host + at + 1);
        [start..host.saturating_sub(1).max(start), path..end]
    })
}

/// Finds what stands before an `@` and has a colon in it: `user:password@host`, without a scheme.
fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices('@').filter_map(|(at, _)| {
        let before = &text[..at];
        let after = |end: usize| end + before[end..].chars().next().map_or(1, char::len_utf8);
        let start = before.rfind(ends_a_word).map_or(0, after);
        let start = before[start..].rfind("://").map_or(start, |mark| start + mark + 3);
        before[start..].contains(':').then_some(start..at)
    })
}

/// The text up to the first character that cannot be part of a URL.
fn word(text: &str) -> &str {
    text.find(ends_a_word).map_or(text, |end| &text[..end])
}

fn ends_a_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_key_is_hidden_and_what_helps_to_find_the_mistake_is_not() {
        for (text, shown) in [
            ("address = \"user:pass@host:443\"", "address = \"*********@host:443\""),
            ("socks5://user:p/ss@192.0.2.1:1080", "socks5://*********@192.0.2.1:1080"),
            ("deny = [\"ftp://lists.example/KEY/x?y=z\"]", "deny = [\"ftp://lists.example/*********\"]"),
            ("https://lists.example?key=1#a", "https://lists.example?*******"),
            ("https://host:8443", "https://host:8443"),
            ("write http://user@h, please", "write http://****@h, please"),
            ("email = \"me@example.com\"", "email = \"me@example.com\""),
            ("ünü:x@h", "*******@h"),
            ("token=abc", "token=***"),
        ] {
            assert_eq!(plain(text), shown);
        }
        assert!(!plain("k = 00112233445566778899aabbccddeeff").contains("0011"));
    }
}
