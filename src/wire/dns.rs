//! DNS messages (RFC 1035 §4), as much of them as asking for the addresses of a name takes.
//!
//! ```text
//! 0    2       4           6         8           10          12
//! ├ id ┼ flags ┼ questions ┼ answers ┼ authority ┼ additional ┼ name ┼ type ┼ class ┤ …
//!                             answer: ├ name ┼ type ┼ class ┼ time to live ┼ length ┼ data ┤
//! ```

use std::net::IpAddr;

use super::cursor::{Cursor, DecodeError};

const INTERNET: u16 = 1;
const RECURSION_DESIRED: u16 = 0x0100;
const IS_ANSWER: u16 = 0x8000;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

impl Kind {
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
        }
    }
}

/// Content of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The addresses, none if the name has none of this kind.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds they are good.
    pub ttl: Option<u32>,
}

/// Reason why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It is not understood.
    Malformed(DecodeError),
    /// The server that was asked has failed or refuses; the code of the answer.
    Failed(u16),
}

impl From<DecodeError> for NoAnswer {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A question, with the number 0 as RFC 8484 §4.1 wants it; `None` if this is no name.
pub fn question(name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for word in [0, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(u16::to_be_bytes(word));
    }
    let start = message.len();
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    if message.len() - start > 255 {
        return None;
    }
    message.extend(kind.number().to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
    Some(message)
}

/// Reads the answer to a question of this kind. The server that answers has followed all aliases, so every address in it counts.
pub fn answer(message: &[u8], kind: Kind) -> Result<Answer, NoAnswer> {
    const NO_SUCH_NAME: u16 = 3;
    let mut cursor = Cursor::new(message);
    let mut words = [0; 6];
    for word in &mut words {
        *word = cursor.u16("DNS header")?;
    }
    let [_, flags, questions, answers, ..] = words;
    match flags & 0xf {
        _ if flags & IS_ANSWER == 0 => return Err(DecodeError::Malformed("DNS flags").into()),
        0 | NO_SUCH_NAME => {}
        code => return Err(NoAnswer::Failed(code)),
    }
    for _ in 0..questions {
        skip_name(&mut cursor)?;
        cursor.take(4, "DNS question")?;
    }
    let mut found = Answer::default();
    for _ in 0..answers {
        skip_name(&mut cursor)?;
        let (number, class) = (cursor.u16("DNS type")?, cursor.u16("DNS class")?);
        let ttl = u32::from_be_bytes(*cursor.array("DNS time to live")?);
        let data = cursor.vector16("DNS data")?;
        if class != INTERNET {
            continue;
        }
        found.ttl = Some(found.ttl.map_or(ttl, |least| least.min(ttl)));
        if number == kind.number() {
            found.addresses.push(address(data, kind)?);
        }
    }
    Ok(found)
}

fn address(data: &[u8], kind: Kind) -> Result<IpAddr, DecodeError> {
    let wrong = |_| DecodeError::Malformed("DNS address");
    match kind {
        Kind::A => <[u8; 4]>::try_from(data).map(IpAddr::from).map_err(wrong),
        Kind::Aaaa => <[u8; 16]>::try_from(data).map(IpAddr::from).map_err(wrong),
    }
}

/// A name ends with an empty label, or with a pointer to where it was written before, which is not followed.
fn skip_name(cursor: &mut Cursor<'_>) -> Result<(), DecodeError> {
    loop {
        match cursor.u8("DNS name")? {
            0 => return Ok(()),
            length @ 1..64 => _ = cursor.take(length.into(), "DNS label")?,
            0xc0.. => return cursor.u8("DNS pointer").map(drop),
            _ => return Err(DecodeError::Malformed("DNS label")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer to `question`, with these records: type and data.
    fn answered(question: &[u8], flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (number, data) in records {
            message.extend([0xc0, 12]);
            message.extend(number.to_be_bytes());
            message.extend([0, 1, 0, 0, 1, 44]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn a_question_is_that_of_the_standard() {
        // RFC 8484 §4.1.1, with the flag and the number that it has.
        let expected = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
        assert_eq!(question("www.example.com", Kind::A).unwrap(), expected);
        assert_eq!(question("www.example.com.", Kind::A).unwrap(), expected);
        let long = "a".repeat(64);
        for name in ["", ".", "a..b", &long, &format!("{}b", "a.".repeat(127))] {
            assert_eq!(question(name, Kind::A), None, "{name}");
        }
    }

    #[test]
    fn addresses_come_out_behind_aliases() {
        let asked = question("www.example.com", Kind::A).unwrap();
        let alias = b"\x03web\xc0\x10";
        let message = answered(&asked, 0x8180, &[(5, alias), (1, &[192, 0, 2, 1]), (1, &[192, 0, 2, 2])]);
        let found = answer(&message, Kind::A).unwrap();
        assert_eq!(found.addresses, [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(found.ttl, Some(300));
        let six = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let asked = question("www.example.com", Kind::Aaaa).unwrap();
        let found = answer(&answered(&asked, 0x8180, &[(28, &six)]), Kind::Aaaa).unwrap();
        assert_eq!(found.addresses, [IpAddr::from(six)]);
    }

    #[test]
    fn no_such_name_is_an_answer_and_a_failure_is_none() {
        let asked = question("www.example.com", Kind::A).unwrap();
        assert_eq!(answer(&answered(&asked, 0x8183, &[]), Kind::A), Ok(Answer::default()));
        assert_eq!(answer(&answered(&asked, 0x8182, &[]), Kind::A), Err(NoAnswer::Failed(2)));
        assert!(matches!(answer(&asked, Kind::A), Err(NoAnswer::Malformed(_))), "that is a question");
        assert!(matches!(answer(&answered(&asked, 0x8180, &[(1, &[1])]), Kind::A), Err(NoAnswer::Malformed(_))));
    }

    #[test]
    fn no_part_of_an_answer_is_one() {
        let asked = question("www.example.com", Kind::A).unwrap();
        let message = answered(&asked, 0x8180, &[(1, &[192, 0, 2, 1])]);
        for length in 0..message.len() {
            assert!(answer(&message[..length], Kind::A).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), name in "\\PC{0,40}") {
            let _ = answer(&bytes, Kind::A);
            let _ = question(&name, Kind::Aaaa);
        }
    }
}
