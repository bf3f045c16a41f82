//! How much of what is framed goes into one write: a record, as TLS libraries write them, or all of it, as a relay does.
//!
//! A watcher sees where writes end: while a client takes whatever comes, the last segment of each is short and carries
//! PSH. The built-in site writes each record by itself. What comes from a remote cover is passed on to visitors in pieces as
//! large as have arrived, and so it is for sessions. Once the client's socket has been full, what is written joins what
//! waits in it, and segments are cut without regard to writes; then a single write looks the same anyway, and costs less.

use crate::wire::record::{HEADER, Header};

/// Decides the sizes of writes to one client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    by_record: bool,
    full: bool,
}

impl Writes {
    /// Each record by itself, as a web server does.
    pub const fn by_record() -> Self {
        Self { by_record: true, full: false }
    }

    /// All that there is, as a relay in front of a web server does.
    pub fn at_once() -> Self {
        Self::default()
    }

    /// Length of the next write of these records, which begin with a head unless the socket is full.
    pub fn next(self, records: &[u8]) -> usize {
        match records.first_chunk() {
            Some(head) if self.by_record && !self.full => {
                records.len().min(HEADER + usize::from(Header::decode(*head).length))
            }
            _ => records.len(),
        }
    }

    /// Whether the socket did not take all that it was offered last.
    pub fn is_full(self) -> bool {
        self.full
    }

    /// A socket was offered so many bytes and took so many.
    pub fn wrote(&mut self, offered: usize, taken: usize) {
        self.full = taken < offered;
    }

    /// Writes records with `write`, which returns how much the socket takes of what it is given; returns how much it took
    /// in all.
    pub fn write<E>(&mut self, records: &[u8], mut write: impl FnMut(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        let mut sent = 0;
        while sent < records.len() {
            let length = self.next(&records[sent..]);
            let taken = write(&records[sent..sent + length])?;
            self.wrote(length, taken);
            sent += taken;
            if taken < length {
                break;
            }
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(sizes: &[usize]) -> Vec<u8> {
        let record = |size: &usize| [&Header::application_data(*size as u16).encode()[..], &vec![7; *size]].concat();
        sizes.iter().flat_map(record).collect()
    }

    /// The lengths that a socket is offered which takes no more than `room` in all.
    fn offered(writes: &mut Writes, records: &[u8], mut room: usize) -> Vec<usize> {
        let mut offered = Vec::new();
        let mut write = |bytes: &[u8]| {
            offered.push(bytes.len());
            let taken = bytes.len().min(room);
            room -= taken;
            Ok::<_, ()>(taken)
        };
        writes.write(records, &mut write).unwrap();
        offered
    }

    #[test]
    fn each_record_is_a_write_while_the_client_takes_it() {
        let (mut writes, records) = (Writes::by_record(), records(&[16_401, 16_401, 89, 20]));
        assert_eq!(offered(&mut writes, &records, usize::MAX), [16_406, 16_406, 94, 25]);
        assert!(offered(&mut writes, &[], 0).is_empty());
    }

    #[test]
    fn what_meets_a_full_socket_goes_in_one_write() {
        let (mut writes, records) = (Writes::by_record(), records(&[100, 200, 300]));
        assert_eq!(offered(&mut writes, &records, 110), [105, 205]);
        assert_eq!(offered(&mut writes, &records, 400), [615]);
        assert_eq!(offered(&mut writes, &records, usize::MAX), [615], "still in one");
        assert_eq!(offered(&mut writes, &records, usize::MAX), [105, 205, 305], "there is room again");
    }

    #[test]
    fn a_relay_writes_what_there_is() {
        assert_eq!(offered(&mut Writes::at_once(), &records(&[100, 200]), usize::MAX), [310]);
    }

    #[test]
    fn what_is_no_whole_record_goes_as_it_is() {
        assert_eq!(offered(&mut Writes::by_record(), &[23, 3, 3], usize::MAX), [3]);
        assert_eq!(offered(&mut Writes::by_record(), &records(&[50])[..20], usize::MAX), [20]);
    }
}
