//! The target of a request: escapes, dots and doubled slashes resolved as nginx resolves them. Pure.

use bytes::Bytes;

use super::fault::Fault;
use super::message::Target;

/// Resolves what stands in the first line, behind the host if there is one.
pub(super) fn resolve(raw: Bytes) -> Result<Target, Fault> {
    // A host alone, or one that is followed by a query, means its root.
    let whole = match raw.first() {
        Some(b'/') => raw.clone(),
        _ => Bytes::from([b"/", &raw[..]].concat()),
    };
    let (path, query) = split(&whole);
    let query = query.map(|query| whole.slice_ref(query));
    Ok(Target { path: path_of(path)?, query, raw: if raw.is_empty() { whole } else { raw } })
}

/// Path and query, without a fragment.
fn split(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let before = |bytes: &'_ [u8], byte| bytes.iter().position(|found| *found == byte).unwrap_or(bytes.len());
    let stop = before(target, b'?').min(before(target, b'#'));
    match target.get(stop) {
        Some(b'?') => {
            let query = &target[stop + 1..];
            (&target[..stop], Some(&query[..before(query, b'#')]))
        }
        _ => (&target[..stop], None),
    }
}

/// Escaped slashes and dots count like plain ones; what leads above the root is refused.
fn path_of(path: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut resolved: Vec<u8> = Vec::with_capacity(path.len());
    // Where the present name begins: behind its slash.
    let mut name = 0;
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => escaped(bytes.next(), bytes.next())?,
            plain => plain,
        };
        if byte == b'/' {
            close(&mut resolved, &mut name)?;
            if resolved.last() != Some(&b'/') {
                resolved.push(b'/');
            }
            name = resolved.len();
        } else {
            resolved.push(byte);
        }
    }
    close(&mut resolved, &mut name)?;
    Ok(resolved)
}

/// Ends a name: one that means "here" or "above" leaves no trace.
fn close(resolved: &mut Vec<u8>, name: &mut usize) -> Result<(), Fault> {
    match &resolved[*name..] {
        b"." => resolved.truncate(*name),
        b".." => {
            let parent = resolved[..name.saturating_sub(1)].iter().rposition(|byte| *byte == b'/');
            resolved.truncate(parent.ok_or(Fault::BadRequest)? + 1);
        }
        _ => {}
    }
    Ok(())
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Result<u8, Fault> {
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) if high + low > 0 => u8::try_from(high << 4 | low).map_err(|_| Fault::BadRequest),
        _ => Err(Fault::BadRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved() {
        let table = [
            ("/", "/"),
            ("/a/b.c", "/a/b.c"),
            ("//a///b/", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/...", "/a/..."),
            ("/%2e%2E/a", ""),
            ("/a%2fb%2f%2e%2e", "/a/"),
            ("/..", ""),
            ("/a/../../b", ""),
            ("/%41%20%3f%23%25", "/A ?#%"),
            ("/a?b?c#d", "/a"),
            ("/a#b?c", "/a"),
            ("", "/"),
            ("?x", "/"),
            ("/%00", ""),
            ("/%zz", ""),
            ("/%4", ""),
            ("/%", ""),
        ];
        for (raw, path) in table {
            let resolved = resolve(Bytes::from(raw)).map(|target| String::from_utf8(target.path).unwrap());
            assert_eq!(resolved.unwrap_or_default(), path, "{raw}");
        }
        assert_eq!(resolve(Bytes::from("/a?b?c#d")).unwrap().query.unwrap(), "b?c");
    }
}
