//! A session through the proxy, as a client with the secret has it: what came of the data centre is told from what the
//! proxy says of its own accord.
//!
//! A data centre is asked what every client asks first, and nothing behind it.

use std::net::SocketAddr;

use tokio::time::{Duration, Instant};

use super::captured::Captured;
use super::dice::Dice;
use super::ending::ConversationEnd;
use super::fake_tls::{CCS, authentic};
use super::hello::{self, RANDOM, ext, push_counted};
use super::look::SceneSetup;
use super::obfuscated::{Header, PADDED};
use super::talk::{Conversation, records};

/// The data centre that sessions ask for.
pub const DC: i16 = 2;

/// A client that the proxy has admitted.
pub struct ClientSession {
    /// The conversation.
    pub talk: Conversation,
    header: Header,
    started: bool,
    /// Bytes of the first flight.
    pub flight: usize,
}

/// Protocols that the hello of this client offers.
pub fn protocols(client: &Captured) -> Vec<Vec<u8>> {
    let parts = client.parts();
    let mut list = parts.extension(ext::ALPN).and_then(|body| body.get(2..)).unwrap_or_default();
    let mut protocols = Vec::new();
    while let Some((length, rest)) = list.split_first() {
        let Some((name, behind)) = rest.split_at_checked(usize::from(*length)) else { break };
        protocols.push(name.to_vec());
        list = behind;
    }
    protocols
}

impl ClientSession {
    /// Greets the proxy; `None` if it does not admit the client.
    pub async fn start(target: SocketAddr, client: &Captured, look: &SceneSetup<'_>) -> Option<Self> {
        let subject = &look.plan.subject;
        // Its key shares as they were: some clients are known by what is odd in them.
        let mut record = client.parts_for(&subject.name).fresh(&mut Dice::unseen()).record();
        hello::sign(&mut record, &subject.key, hello::now());
        let mut talk = Conversation::start(target, look.line, None).await?;
        talk.send(&record).await;
        let until = Instant::now() + look.plan.lineup.limit.max(Duration::from_secs(15));
        while records(&talk.reply).len() < 3 && talk.hear(until).await {}
        let flight = records(&talk.reply).get(2).map(|last| last.at + last.length)?;
        let whole = talk.reply.get(..flight)?;
        if !authentic(whole, &subject.key, &record[RANDOM]) {
            talk.reset();
            return None;
        }
        let header = Header::make(Some(&subject.key), PADDED, DC, &mut Dice::unseen());
        Some(Self { talk, header, started: false, flight })
    }

    /// A request for the first step of a key exchange in a record, behind the header if it is the first.
    pub fn request(&mut self) -> Vec<u8> {
        let mut dice = Dice::unseen();
        // No key yet, a number of the message, 20 bytes: req_pq_multi and a nonce.
        let mut packet = [&[0; 8][..], &(u64::from(hello::now()) << 32).to_le_bytes(), &[20, 0, 0, 0]].concat();
        packet.extend(0xbe7e_8ef1_u32.to_le_bytes());
        packet.extend(dice.bytes(16));
        let mut sealed = [&(packet.len() as u32).to_le_bytes()[..], &packet].concat();
        self.header.up.apply(&mut sealed);
        let mut wire = Vec::new();
        if !std::mem::replace(&mut self.started, true) {
            wire.extend(CCS);
            sealed.splice(..0, self.header.wire);
        }
        wire.extend([23, 3, 3]);
        push_counted(&mut wire, 2, &sealed);
        wire
    }

    /// Payload sizes of all records behind the flight, with whether the data centre's packets are in them. To be called once.
    pub fn opened(&mut self) -> Vec<(usize, bool)> {
        let reply = &self.talk.reply[self.flight..];
        let (mut plain, mut ends) = (Vec::new(), Vec::new());
        for record in records(reply) {
            plain.extend(&reply[record.at..record.at + record.length]);
            ends.push((plain.len(), record.length));
        }
        self.header.down.apply(&mut plain);
        let packets = packets(&plain);
        let has = |end: usize, length: usize| packets.iter().any(|(from, to)| *from < end && *to > end - length);
        ends.into_iter().map(|(end, length)| (length, has(end, length))).collect()
    }

    /// Waits for its end, without what comes of the data centre.
    pub async fn ending(mut self, limit: Duration) -> ConversationEnd {
        let before = records(&self.talk.reply[self.flight..]).len();
        let ending = ConversationEnd::of(&mut self.talk, limit).await;
        let own = self.opened().into_iter().skip(before).filter(|(_, packet)| !packet);
        ConversationEnd { sizes: own.map(|(length, _)| length).collect(), ..ending }
    }
}

/// Beginning and end of every frame that is more than padding.
fn packets(plain: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut packets) = (0, Vec::new());
    while let Some(head) = plain.get(at..at + 4) {
        let head = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let length = if head & 1 << 31 != 0 { 0 } else { head as usize };
        let end = at.saturating_add(4).saturating_add(length);
        let filler = (4..16).contains(&length) && plain.get(at + 4..at + 8) == Some(&[0; 4]);
        if !filler {
            packets.push((at, end));
        }
        at = end;
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_are_told_from_packets() {
        let filler = [&12u32.to_le_bytes()[..], &[0; 12]].concat();
        let packet = [&40u32.to_le_bytes()[..], &[7; 40]].concat();
        let plain = [&filler[..], &filler, &packet, &filler].concat();
        assert_eq!(packets(&plain), [(32, 76)]);
        assert_eq!(packets(&u32::MAX.to_le_bytes()), [(0, 4)], "a bare token");
        assert_eq!(packets(&[1, 0]), []);
    }

    #[test]
    fn protocols_are_those_of_the_hello() {
        let offered = protocols(super::super::captured::tdlib());
        assert_eq!(offered, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }
}
