//! Invitation links, their QR codes, and the address that a link can name when no one configured one.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use fast_qr::{ECL, QRBuilder, QRCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{Domain, Secret};
use crate::webproxy::link::WebLink;
use crate::webproxy::{self, BasePath, Host};

/// Contents of an invitation link.
#[derive(Clone, Debug)]
pub struct Link {
    /// Host name or address literal, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The user's key.
    pub secret: Secret,
    /// The name that the client puts into its hello.
    pub domain: Domain,
}

/// Encoding of the secret in a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Lower-case hexadecimal: every client of every age.
    #[default]
    Hex,
    /// Base64url: shorter, but misread by old clients.
    Base64Url,
}

impl Link {
    /// The link that opens the app: `tg://proxy?…`.
    pub fn tg(&self, form: Form) -> String {
        format!("tg://proxy?{}", self.query(form))
    }

    /// The link for the web, which leads to the same place: `https://t.me/proxy?…`.
    pub fn web(&self, form: Form) -> String {
        format!("https://t.me/proxy?{}", self.query(form))
    }

    /// Clients want an IPv6 address bare, and a colon may stand in a query as it is.
    fn query(&self, form: Form) -> String {
        let secret = match form {
            Form::Hex => self.secret.ee_hex(&self.domain),
            Form::Base64Url => self.secret.ee_base64url(&self.domain),
        };
        format!("server={}&port={}&secret={secret}", self.host, self.port)
    }
}

/// Links of one user's WEB proxy. The key is that of the other links, and each link is good by itself.
#[derive(Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebLinks {
    /// `tg://webproxy?…` for the root of the site, which all apps with WEB proxies read.
    pub root: String,
    /// The same with `dd` before the key: apps pad what they send.
    pub root_dd: String,
    /// The link for the path of the configuration, which newer apps read; none without a path.
    pub path: Option<String>,
    /// The same with `dd` before the key.
    pub path_dd: Option<String>,
}

impl WebLinks {
    /// The links for a user with this key, at the root of the site and at `path`.
    pub fn new(host: &Host, path: &BasePath, secret: &Secret) -> Self {
        let link = |base: &BasePath, form| {
            WebLink { host: host.clone(), base: base.clone(), secret: secret.clone(), form }.tg()
        };
        let root = BasePath::default();
        let at_path = |form| (!path.is_root()).then(|| link(path, form));
        Self {
            root: link(&root, webproxy::Form::Plain),
            root_dd: link(&root, webproxy::Form::Dd),
            path: at_path(webproxy::Form::Plain),
            path_dd: at_path(webproxy::Form::Dd),
        }
    }

    /// The links of one form, that for the root first.
    pub fn of_form(&self, dd: bool) -> impl Iterator<Item = &str> {
        let (root, path) = if dd { (&self.root_dd, &self.path_dd) } else { (&self.root, &self.path) };
        std::iter::once(root).chain(path).map(String::as_str)
    }
}

/// The links hold the key.
impl fmt::Debug for WebLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebLinks(hidden)")
    }
}

/// `text` as a QR code for a terminal: half blocks in explicit black on white inside a white margin, so that a phone
/// reads it whatever the colours of the terminal are. `None` if the text is too long for any QR code.
pub fn qr(text: &str) -> Option<String> {
    let code = QRBuilder::new(text).ecl(ECL::L).build().ok()?;
    let side = code.size + 2 * MARGIN;
    let mut drawn = String::new();
    for row in (0..side).step_by(2) {
        let mut colours = None;
        for column in 0..side {
            let pair = (is_dark(&code, row, column), is_dark(&code, row + 1, column));
            if colours.replace(pair) != Some(pair) {
                // Entries 16 and 231 of the palette are black and white by definition; 0 to 15 follow the theme.
                let _ = write!(drawn, "\x1b[38;5;{};48;5;{}m", ink(pair.0), ink(pair.1));
            }
            drawn.push('▀');
        }
        drawn.push_str("\x1b[0m\n");
    }
    Some(drawn)
}

/// `text` as a QR code for a page: black on white with its margin. `None` if the text is too long for any QR code.
pub fn qr_svg(text: &str) -> Option<String> {
    let code = QRBuilder::new(text).ecl(ECL::L).build().ok()?;
    let side = code.size + 2 * MARGIN;
    let dark = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
    let dark = dark.filter(|(row, column)| is_dark(&code, *row, *column));
    let path = dark.fold(String::new(), |mut path, (row, column)| {
        let _ = write!(path, "M{column} {row}h1v1h-1z");
        path
    });
    Some(format!(
        "<svg viewBox=\"0 0 {side} {side}\" role=\"img\" aria-label=\"QR code\" shape-rendering=\"crispEdges\">\
         <rect width=\"{side}\" height=\"{side}\" fill=\"#fff\"/><path d=\"{path}\" fill=\"#000\"/></svg>"
    ))
}

/// The width of the white margin that readers need, in modules.
const MARGIN: usize = 4;

fn is_dark(code: &QRCode, row: usize, column: usize) -> bool {
    let inside = |at: usize| at.checked_sub(MARGIN).filter(|at| *at < code.size);
    match (inside(row), inside(column)) {
        (Some(row), Some(column)) => code[row][column].value(),
        _ => false,
    }
}

fn ink(dark: bool) -> u8 {
    if dark { 16 } else { 231 }
}

/// An address for links that no one configured, with what is known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether clients anywhere on the Internet may reach it, as far as the address itself can tell.
    pub public: bool,
}

impl OwnAddress {
    /// Judges an address by itself.
    pub fn new(address: IpAddr) -> Self {
        Self { address, public: is_public(address) }
    }

    /// The address from which the kernel would send to the Internet: a public one if there is one, IPv4 before IPv6.
    /// Nothing is sent.
    pub fn find() -> Option<Self> {
        // Documentation addresses follow the default route like any other, and no one is at the far end.
        let v4 = source_towards(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
        let v6 = source_towards(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
        Self::best([v4, v6].into_iter().flatten().map(Self::new))
    }

    fn best(found: impl Iterator<Item = Self>) -> Option<Self> {
        found.min_by_key(|own| !own.public)
    }
}

impl fmt::Display for OwnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

fn source_towards(any: IpAddr, far: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(far, 443)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// Whether an address is meant to be reached from all over the Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let carrier_grade_nat = a == 100 && (64..128).contains(&b);
            let reserved = a == 0 || a >= 240;
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_documentation())
                && !(carrier_grade_nat || reserved || v4.is_multicast())
        }
        IpAddr::V6(v6) => {
            let documentation = v6.segments()[..2] == [0x2001, 0xdb8];
            v6.segments()[0] & 0xe000 == 0x2000 && !documentation
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(host: &str) -> Link {
        let secret = Secret::new([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        Link { host: host.into(), port: 443, secret, domain: "example.com".parse().unwrap() }
    }

    #[test]
    fn links_are_those_of_the_protocol_notes() {
        let hex = "server=192.0.2.10&port=443&secret=ee000102030405060708090a0b0c0d0e0f6578616d706c652e636f6d";
        let base64 = "server=192.0.2.10&port=443&secret=7gABAgMEBQYHCAkKCwwNDg9leGFtcGxlLmNvbQ";
        let link = link("192.0.2.10");
        assert_eq!(link.tg(Form::Hex), format!("tg://proxy?{hex}"));
        assert_eq!(link.web(Form::Hex), format!("https://t.me/proxy?{hex}"));
        assert_eq!(link.tg(Form::Base64Url), format!("tg://proxy?{base64}"));
        assert_eq!(link.web(Form::Base64Url), format!("https://t.me/proxy?{base64}"));
    }

    /// The forms of webproxy.md, section 2: hexadecimal at the root, the mark before the key at a path.
    #[test]
    fn links_of_web_proxies_are_written_as_apps_read_them() {
        let links = |path: &str| {
            let (host, path) = ("proxy.example.com".parse().unwrap(), path.parse().unwrap());
            WebLinks::new(&host, &path, &link("").secret)
        };
        let all = links("a/b");
        let start = "tg://webproxy?server=proxy.example.com";
        let root = |dd| format!("{start}&secret={dd}000102030405060708090a0b0c0d0e0f");
        let path = |secret: &str| format!("{start}%2Fa%2Fb&secret={secret}");
        let (plain, dd) = (path("cAABAgMEBQYHCAkKCwwNDg8"), path("cN0AAQIDBAUGBwgJCgsMDQ4P"));
        assert_eq!(all.of_form(false).collect::<Vec<_>>(), [&root(""), &plain]);
        assert_eq!(all.of_form(true).collect::<Vec<_>>(), [&root("dd"), &dd]);
        assert_eq!(links("").of_form(false).collect::<Vec<_>>(), [&root("")]);
        assert!(!format!("{all:?}").contains("0001"));
    }

    #[test]
    fn an_ipv6_address_stands_bare() {
        assert!(link("2001:db8::10").tg(Form::Hex).starts_with("tg://proxy?server=2001:db8::10&port=443&"));
    }

    /// Colours of the upper and lower half of every character, read back from the escapes as a terminal would.
    fn pixels(drawn: &str) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        for line in drawn.lines() {
            let (mut upper, mut lower) = (Vec::new(), Vec::new());
            let mut colours = None;
            let mut rest = line;
            while let Some(character) = rest.chars().next() {
                if let Some(after) = rest.strip_prefix("\x1b[") {
                    let (code, after) = after.split_once('m').unwrap();
                    let numbers: Vec<&str> = code.split(';').collect();
                    colours = match numbers[..] {
                        ["0"] => None,
                        ["38", "5", upper, "48", "5", lower] => Some((grey(upper), grey(lower))),
                        _ => panic!("unknown escape {code}"),
                    };
                    rest = after;
                    continue;
                }
                assert_eq!(character, '▀');
                let (above, below) = colours.expect("every character has both colours stated");
                upper.push(above);
                lower.push(below);
                rest = &rest[character.len_utf8()..];
            }
            assert_eq!(colours, None, "colours end with the line");
            rows.extend([upper, lower]);
        }
        rows
    }

    fn grey(palette: &str) -> u8 {
        match palette {
            "16" => 0,
            "231" => 255,
            other => panic!("colour {other} follows the theme"),
        }
    }

    fn scan(rows: &[Vec<u8>]) -> String {
        const SCALE: usize = 4;
        let (width, height) = (rows[0].len() * SCALE, rows.len() * SCALE);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| rows[y / SCALE][x / SCALE]);
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }

    #[test]
    fn the_drawn_code_scans_as_the_link() {
        for host in ["192.0.2.10", "2001:db8:1111:2222:3333:4444:5555:6666", "a-rather-long-name.of.a.host.example.com"]
        {
            let link = link(host).tg(Form::Hex);
            assert_eq!(scan(&pixels(&qr(&link).unwrap())), link);
        }
    }

    #[test]
    fn the_code_of_a_page_scans_as_the_link() {
        let link = link("192.0.2.10").tg(Form::Hex);
        let drawn = qr_svg(&link).unwrap();
        let side: usize = drawn.split("viewBox=\"0 0 ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let mut rows = vec![vec![255; side]; side];
        for module in drawn.split('M').skip(1) {
            let place = module.split('h').next().unwrap();
            let (column, row) = place.split_once(' ').unwrap();
            rows[row.parse::<usize>().unwrap()][column.parse::<usize>().unwrap()] = 0;
        }
        assert_eq!(scan(&rows), link);
        assert!(!drawn.contains("style"), "the policy of the pages refuses that");
    }

    #[test]
    fn the_drawn_code_has_a_white_margin() {
        let rows = pixels(&qr("tg://proxy").unwrap());
        let white = |row: &[u8]| row.iter().all(|pixel| *pixel == 255);
        assert!(rows[..MARGIN].iter().chain(&rows[rows.len() - MARGIN..]).all(|row| white(row)));
        assert!(rows.iter().all(|row| white(&row[..MARGIN]) && white(&row[row.len() - MARGIN..])));
    }

    #[test]
    fn a_text_beyond_every_code_is_refused() {
        assert_eq!(qr(&"x".repeat(5000)), None);
    }

    #[test]
    fn private_addresses_are_known() {
        let judge = |text: &str| OwnAddress::new(text.parse().unwrap()).public;
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "192.0.2.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!judge(private), "{private}");
        }
        for public in ["9.9.9.9", "100.128.0.1", "172.32.0.1", "2620:fe::fe", "::ffff:9.9.9.9"] {
            assert!(judge(public), "{public}");
        }
    }

    #[test]
    fn a_public_address_of_any_family_goes_before_a_private_one() {
        let own = |text: &str| OwnAddress::new(text.parse().unwrap());
        let best = |found: &[OwnAddress]| OwnAddress::best(found.iter().copied());
        assert_eq!(best(&[own("10.0.0.1"), own("2620:fe::fe")]), Some(own("2620:fe::fe")));
        assert_eq!(best(&[own("9.9.9.9"), own("2620:fe::fe")]), Some(own("9.9.9.9")));
        assert_eq!(best(&[own("10.0.0.1"), own("fd00::1")]), Some(own("10.0.0.1")));
        assert_eq!(best(&[]), None);
    }
}
