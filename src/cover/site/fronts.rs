//! Web servers in front of the site, and whom their requests come from. Pure.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use ipnet::IpNet;

use super::message::values;

/// Field to which web servers add the address that has asked them.
pub const USUAL_FIELD: &str = "x-forwarded-for";

/// Web servers whose word about visitors counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fronts {
    networks: Vec<IpNet>,
    /// Header field that names the visitor.
    field: String,
}

impl Fronts {
    /// Those of these networks; `field` is the usual one unless it is stated.
    pub(super) fn new(networks: Vec<IpNet>, field: Option<&str>) -> Self {
        Self { networks, field: field.unwrap_or(USUAL_FIELD).to_owned() }
    }

    /// Whether this address is one of theirs.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The visitor for whom a trusted web server asks: the last address that is none of theirs, for each of them has added the
    /// one that it was asked by, and whatever stands before that is only what the visitor says. `None` if that is no address.
    pub(super) fn visitor(&self, fields: &[(Bytes, Bytes)]) -> Option<IpAddr> {
        let entries: Vec<&[u8]> =
            values(fields, &self.field).flat_map(|value| value.split(|byte| *byte == b',')).collect();
        let read = |entry: &&[u8]| std::str::from_utf8(entry).ok()?.trim().parse::<IpAddr>().ok();
        let named = entries.iter().rev().map(read);
        named
            .map(|entry| entry.map(|address| address.to_canonical()))
            .find(|entry| entry.is_none_or(|entry| !self.trusts(entry)))?
    }
}

/// The other end of a connection, as far as it bears on whom its requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrontPeer {
    pub(super) address: SocketAddr,
    /// Whether it has come by a socket in the file system, which only web servers may open that the operator lets in.
    pub(super) local: bool,
}

impl FrontPeer {
    /// Whether it is a web server whose word counts.
    pub(super) fn is_trusted(&self, fronts: &Fronts) -> bool {
        self.local || fronts.trusts(self.address.ip())
    }

    /// Whom a request with these fields comes from. The port is that of the connection.
    pub(super) fn visitor(&self, fronts: &Fronts, fields: &[(Bytes, Bytes)]) -> SocketAddr {
        let named = if self.is_trusted(fronts) { fronts.visitor(fields) } else { None };
        named.map_or(self.address, |visitor| SocketAddr::new(visitor, self.address.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(peer: &str, local: bool, field: Option<&str>, fields: &[(&'static str, &'static str)]) -> String {
        let fronts = Fronts::new(vec!["192.0.2.0/24".parse().unwrap()], field);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value))).collect();
        FrontPeer { address: peer.parse().unwrap(), local }.visitor(&fronts, &fields).ip().to_string()
    }

    #[test]
    fn only_what_a_trusted_web_server_has_added_is_believed() {
        let said = [("X-Forwarded-For", "203.0.113.9"), ("x-forwarded-for", "198.51.100.1, 192.0.2.8")];
        for (peer, local, expected) in [
            ("192.0.2.7:80", false, "198.51.100.1"),
            ("[::ffff:192.0.2.7]:80", false, "198.51.100.1"),
            ("203.0.113.5:80", false, "203.0.113.5"),
            ("127.0.0.1:80", false, "127.0.0.1"),
            ("127.0.0.1:80", true, "198.51.100.1"),
        ] {
            assert_eq!(visitor(peer, local, None, &said), expected, "{peer} {local}");
        }
        // Nothing behind what is no address is believed, and a socket makes no other address trusted.
        assert_eq!(visitor("192.0.2.7:80", false, None, &[("X-Forwarded-For", "198.51.100.1, unknown")]), "192.0.2.7");
        assert_eq!(visitor("127.0.0.1:0", true, None, &[("X-Forwarded-For", "198.51.100.1, 127.0.0.1")]), "127.0.0.1");
        assert_eq!(visitor("192.0.2.7:80", false, None, &[]), "192.0.2.7");
    }

    #[test]
    fn the_field_may_be_another() {
        let said = [("CF-Connecting-IP", "198.51.100.1"), ("X-Forwarded-For", "203.0.113.9")];
        assert_eq!(visitor("192.0.2.7:80", false, Some("cf-connecting-ip"), &said), "198.51.100.1");
        assert_eq!(visitor("192.0.2.7:80", false, Some("x-real-ip"), &said), "192.0.2.7");
    }
}
