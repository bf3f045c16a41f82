//! Taking a section `[[users]]` out of a text, with the comments that are about no one else.
//!
//! This works on lines, for a parsed document does not know whose a comment is. That nothing else was lost is checked on
//! what both texts mean.

use toml::{Table, Value};

/// The text without the section of this number; `None` if it cannot be told from what surrounds it.
pub(super) fn without(text: &str, index: usize) -> Option<String> {
    let shorter = cut(text, index)?;
    let (mut before, mut after) = (text.parse::<Table>().ok()?, shorter.parse::<Table>().ok()?);
    let users = before.get_mut("users")?.as_array_mut()?;
    if index >= users.len() {
        return None;
    }
    users.remove(index);
    // The last of the sections takes the list along.
    after.entry("users").or_insert(Value::Array(Vec::new()));
    (before == after).then_some(shorter)
}

/// Number of headers of such sections that begin in a text.
pub(super) fn count(text: &str) -> usize {
    text.lines().filter(|line| is_users(line)).count()
}

pub(super) fn cut(text: &str, index: usize) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let header = (0..lines.len()).filter(|at| is_users(lines[*at])).nth(index)?;
    let next = (header + 1..lines.len()).find(|at| is_header(lines[*at])).unwrap_or(lines.len());
    let last = (header..next).rev().find(|at| !is_comment(lines[*at]) && !is_blank(lines[*at]))?;
    let run = |from: usize, to: usize, fits: fn(&str) -> bool| (from..to).find(|at| !fits(lines[*at])).unwrap_or(to);
    // Comments that touch the section are its own, unless they touch the next header or begin the file.
    let mut end = run(last + 1, next, is_comment);
    if end == next && next < lines.len() {
        end = last + 1;
    }
    let above = (0..header).rev().take_while(|at| is_comment(lines[*at])).count();
    let start = if above == header { header } else { header - above };
    let end = run(end, next, is_blank);
    Some([&lines[..start], &lines[end..]].concat().concat())
}

pub(super) fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

pub(super) fn is_users(line: &str) -> bool {
    let bare = line.split('#').next().unwrap_or_default();
    bare.split_whitespace().collect::<String>() == "[[users]]"
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

pub(super) fn is_blank(line: &str) -> bool {
    line.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(text: &str) -> Vec<Option<String>> {
        (0..3).map(|index| without(text, index)).collect()
    }

    #[test]
    fn comments_go_with_the_section_that_they_touch() {
        let text = "# Head.\n[[users]]\nname = 'a'\n# of a\n\n# Of nobody.\n\n# Of b.\n[[ users ]] # b\nname = 'b'\n\n# Rest.\n[x]\n";
        let first = "# Head.\n# Of nobody.\n\n# Of b.\n[[ users ]] # b\nname = 'b'\n\n# Rest.\n[x]\n";
        let second = "# Head.\n[[users]]\nname = 'a'\n# of a\n\n# Of nobody.\n\n# Rest.\n[x]\n";
        assert_eq!(cases(text), [Some(first.into()), Some(second.into()), None]);
    }

    #[test]
    fn the_only_section_leaves_nothing_behind() {
        assert_eq!(without("a = 1\n\n# me\n[[users]]\nname = 'a'", 0).unwrap(), "a = 1\n\n");
    }

    #[test]
    fn what_only_looks_like_a_section_is_not_cut() {
        let text = "[[users]]\nname = 'a'\nnote = \"\"\"\n[[users]]\n\"\"\"\n[[users]]\nname = 'b'\n";
        assert_eq!(cases(text), [None, None, None]);
    }
}
