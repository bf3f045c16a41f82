//! What is wrong with a request.

/// Reason why a request gets a page in place of what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is no HTTP, or contradicts itself.
    BadRequest,
    /// A method that the oldest version does not know.
    OldMethod,
    /// Its first line is longer than a server reads.
    LongLine,
    /// Its header is longer than a server reads.
    LongHeader,
    /// A version that is not spoken.
    Version,
    /// A coding of the body that is not known.
    Coding,
    /// A method that is never served.
    Method,
}

impl Fault {
    /// The status that it is answered with.
    pub(super) fn status(self) -> u16 {
        match self {
            Fault::BadRequest | Fault::OldMethod | Fault::LongHeader => 400,
            Fault::LongLine => 414,
            Fault::Version => 505,
            Fault::Coding => 501,
            Fault::Method => 405,
        }
    }
}
