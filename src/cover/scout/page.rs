//! What a page leads to: enough of HTML to find something large on the same site.

/// Most links that are followed from one page.
const MOST: usize = 6;

/// Longest path that is asked for.
const LONGEST: usize = 512;

/// Endings of what is usually larger than a page.
const LARGE: [&str; 14] = [
    ".mp4", ".webm", ".zip", ".pdf", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".js", ".mjs", ".css", ".woff2", ".bin",
];

/// Paths on the site `name` that a page at the path `base` refers to, likely large ones first.
pub(super) fn links(page: &[u8], name: &str, base: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for reference in references(page) {
        if found.len() == 16 * MOST {
            break;
        }
        match path_on_site(&reference, name, base) {
            Some(path) if path != base && !found.contains(&path) => found.push(path),
            _ => {}
        }
    }
    found.sort_by_key(|path| !is_likely_large(path));
    found.truncate(MOST);
    found
}

/// The path that a reference leads to, if it stays on the site.
pub(super) fn path_on_site(reference: &str, name: &str, base: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default().replace("&amp;", "&");
    let fine =
        |path: &str| !path.is_empty() && path.len() <= LONGEST && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !fine(&reference) {
        return None;
    }
    let whole = reference.strip_prefix("https:").unwrap_or(&reference);
    let path = match whole.strip_prefix("//") {
        Some(rest) => match rest.strip_prefix(name)? {
            "" => "/".to_owned(),
            path => path.strip_prefix(":443").unwrap_or(path).to_owned(),
        },
        None if whole.starts_with('/') => whole.to_owned(),
        None if whole.split(['/', '?']).next().is_some_and(|first| first.contains(':')) => return None,
        None => format!("{}/{whole}", base.rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    (path.starts_with('/') && fine(&path)).then_some(path)
}

fn is_likely_large(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
    LARGE.iter().any(|ending| path.ends_with(ending))
}

/// Values of `src` and `href`, quoted or not.
fn references(page: &[u8]) -> impl Iterator<Item = String> {
    let starts = (0..page.len()).filter_map(|at| {
        let rest = &page[at..];
        let name = [&b"src="[..], b"href="].into_iter().find(|name| starts_with_any_case(rest, name))?;
        let preceded = at > 0 && page[at - 1].is_ascii_whitespace();
        preceded.then(|| &rest[name.len()..])
    });
    starts.filter_map(|value| {
        let (value, ends): (_, fn(&u8) -> bool) = match value.first()? {
            b'"' => (&value[1..], |byte| *byte == b'"'),
            b'\'' => (&value[1..], |byte| *byte == b'\''),
            _ => (value, |byte| byte.is_ascii_whitespace() || *byte == b'>'),
        };
        let end = value.iter().take(LONGEST).position(ends)?;
        String::from_utf8(value[..end].to_vec()).ok()
    })
}

fn starts_with_any_case(bytes: &[u8], start: &[u8]) -> bool {
    bytes.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_stay_on_the_site_and_large_things_come_first() {
        let page =
            br##"<a href="/about?a=1&amp;b=2#top">x</a> <IMG SRC='photo.JPG'> <a href=#here> <a href=mailto:a@b.c>
            <script src=//cover.example/a.js></script> <a href="https://cover.example">home</a> <a data-href="/no">
            <a href="https://cover.example.evil/x.js"> <a href="http://cover.example/y.js"> <a href="/photo.JPG">"##;
        assert_eq!(links(page, "cover.example", "/"), ["/photo.JPG", "/a.js", "/about?a=1&b=2"]);
        assert_eq!(links(b"<a href=b.png>", "cover.example", "/a/c.html"), ["/a/b.png"]);
    }

    #[test]
    fn few_links_are_followed_however_many_there_are() {
        let page: String = (0..10_000).map(|n| format!("<a href=/{n}>")).collect();
        assert_eq!(links(page.as_bytes(), "cover.example", "/").len(), MOST);
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page in "(<a (href|src)=[\"']?|[/:a-z.#?\"' >é])*", base in "/[a-z/]*") {
            for path in links(page.as_bytes(), "a.b", &base) {
                prop_assert!(path.starts_with('/') && path.len() <= LONGEST);
            }
        }
    }
}
