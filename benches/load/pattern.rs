//! Payload whose every byte tells where it belongs, so that anything lost, doubled, swapped or foreign is seen.

use std::sync::OnceLock;

use vizard::audit::dice::Dice;

/// Length of the random bytes that repeat: a prime, so that no buffer size divides it.
const LENGTH: usize = 1_048_573;

/// A place in the endless payload of one transfer.
#[derive(Clone, Debug)]
pub struct Pattern(usize);

impl Pattern {
    /// The payload of this transfer, from its beginning.
    pub fn new(seed: u64) -> Self {
        Self((seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % LENGTH as u64) as usize)
    }

    /// Writes what comes next.
    pub fn fill(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let here = self.next(out.len());
            let (now, later) = out.split_at_mut(here.len());
            now.copy_from_slice(here);
            out = later;
        }
    }

    /// Whether these bytes are what comes next.
    pub fn holds(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let here = self.next(bytes.len());
            let (now, later) = bytes.split_at(here.len());
            if now != here {
                return false;
            }
            bytes = later;
        }
        true
    }

    /// At most so many bytes from here, and steps over them.
    fn next(&mut self, most: usize) -> &'static [u8] {
        static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
        let table = TABLE.get_or_init(|| Dice::new(1).bytes(LENGTH));
        let end = LENGTH.min(self.0 + most);
        let here = &table[self.0..end];
        self.0 = end % LENGTH;
        here
    }
}
