//! The style of the pages, and how numbers and names are put on them.

use std::fmt::Write;

pub const STYLE: &str = include_str!("style.css");

/// Bytes for people.
pub fn bytes(count: f64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut count, mut unit) = (count, 0);
    while count >= 1000.0 && unit + 1 < units.len() {
        count /= 1000.0;
        unit += 1;
    }
    if unit == 0 || count >= 100.0 {
        format!("{count:.0} {}", units[unit])
    } else {
        format!("{count:.1} {}", units[unit])
    }
}

/// Bytes in a second for people.
pub fn rate(count: f64) -> String {
    format!("{}/s", bytes(count))
}

/// A count for people.
pub fn whole(count: f64) -> String {
    format!("{count:.0}")
}

/// Things in a second for people.
pub fn per_second(count: f64) -> String {
    if count >= 10.0 { format!("{count:.0}/s") } else { format!("{count:.1}/s") }
}

/// A length of time for people.
pub fn length(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// The day and the time of an RFC 3339 time, without the rest.
pub fn short(time: &str) -> String {
    let (day, rest) = time.split_once('T').unwrap_or((time, ""));
    format!("{day} {}", rest.get(..5).unwrap_or_default()).trim_end().to_owned()
}

/// A name as a part of a path.
pub fn encoded(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'@' => out.push(byte.into()),
            // A dot may be a whole part by itself, which browsers take for a way up.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 123_456.0, 2.5e9, 9e15].map(bytes),
            ["0 B", "999 B", "1.0 kB", "123 kB", "2.5 GB", "9000 TB"]
        );
        assert_eq!([5, 300, 7260, 200_000].map(length), ["5 s", "5 min", "2 h 1 min", "2 d 7 h"]);
        assert_eq!(short("2026-01-02T03:04:05Z"), "2026-01-02 03:04");
        assert_eq!(short(""), "");
    }

    #[test]
    fn names_cannot_leave_their_part_of_a_path() {
        assert_eq!(encoded("al.ice/../é"), "al%2Eice%2F%2E%2E%2F%C3%A9");
    }
}
