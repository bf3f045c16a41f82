//! Values as people write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::fmt::friendly::SpanParser;
use jiff::tz::Offset;

use crate::auth::{Period, Quota, Tagging, UnixTime};
use crate::net::listen::Address;
use crate::wire::rpc::AdTag;

/// Reason why a text is not the value that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// Not `address:port`.
    SocketAddress,
    /// Not a place to listen.
    Listener,
    /// A name where only an address can be.
    NameForAddress,
    /// Only a port where address and port are needed.
    PortAlone,
    /// Not `host:port`.
    HostAndPort,
    /// Neither a host name nor an address.
    Host,
    /// Not a port.
    Port,
    /// Not a length of time.
    Duration,
    /// A length of time that is too short or too long.
    DurationRange,
    /// A length of time that is too short or too long to do something again and again.
    Interval,
    /// Neither a date nor a time with its zone.
    Moment,
    /// Not a number of bytes, with a period or without.
    Quota,
    /// A quota so small that it could not be kept exactly.
    QuotaRange,
    /// A period that there is not.
    Period,
    /// Not a rate.
    Bandwidth,
    /// A rate that no one could work with.
    BandwidthRange,
    /// Not a whole number from 1 on.
    Count,
    /// Not a whole number from 0 to 64.
    UpTo64,
    /// Neither a network nor an address.
    Network,
    /// Not an address.
    Address,
    /// Not the tag of a promoted channel.
    AdTag,
}

impl ValueError {
    /// Advice on what to write instead.
    pub fn fix(self) -> &'static str {
        match self {
            Self::SocketAddress => "write an address and a port: \"0.0.0.0:443\", or \"[::]:443\" for IPv4 and IPv6",
            Self::Listener => {
                "write \"unix:/run/vizard/front.sock\", or \"systemd:NAME\" for a socket that systemd opens"
            }
            Self::NameForAddress => "write the address instead of the name: \"127.0.0.1:8443\"",
            Self::PortAlone => "write the address too: \"[::]:443\" is every address of this machine",
            Self::HostAndPort => {
                "write host and port: \"www.example.com:443\", \"192.0.2.1:443\" or \"[2001:db8::1]:443\""
            }
            Self::Host => "write a host name or an address, without scheme, port or path",
            Self::Port => "ports go from 1 to 65535",
            Self::Duration => "write a number with a unit: \"30s\", \"10m\", \"2h\", \"1h 30m\"",
            Self::Interval => "write something between a minute and a year: \"6h\", \"24h\"",
            Self::Moment => {
                "write a date like \"2026-12-31\" (its end counts), or a time with its zone: \"2026-12-31T18:00:00Z\""
            }
            Self::Quota => {
                "write a size, and after a `/` when it begins again: \"50GB/month\", \"500MB/calendar day\", \"1TB\""
            }
            Self::QuotaRange => "write 1MB or more",
            Self::Period => {
                "write day, week, month (from the first use on), calendar day, calendar week, calendar month, or total"
            }
            Self::Bandwidth => "write bits or bytes in a second: \"10Mbit\", \"1.5MB\"",
            Self::BandwidthRange => "write 8kbit (1kB) or more",
            Self::Count => "write a whole number from 1 on, or remove the line: then there is no limit",
            Self::UpTo64 => "write a whole number from 0 to 64",
            Self::Network => "write an address or a network: \"192.0.2.0/24\", \"2001:db8::/32\", \"192.0.2.7\"",
            Self::Address => "write an address: \"192.0.2.7\", \"2001:db8::7\"",
            Self::AdTag => {
                "write the 32 hexadecimal digits that @MTProxybot gives to a proxy, or \"none\" for a user without a tag"
            }
            Self::DurationRange => "write something between a millisecond and ten years",
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SocketAddress => "not an address with a port",
            Self::Listener => "not an address to listen on",
            Self::NameForAddress => "a name is not allowed here",
            Self::PortAlone => "the address is missing",
            Self::HostAndPort => "not a host with a port",
            Self::Host => "neither a host name nor an address",
            Self::Port => "not a port",
            Self::Duration => "not a length of time",
            Self::Interval => "this interval is out of range",
            Self::Moment => "neither a date nor a time with its zone",
            Self::Quota => "not a quota",
            Self::QuotaRange => "this quota is too small to be kept exactly",
            Self::Period => "unknown period",
            Self::Bandwidth => "not a rate",
            Self::BandwidthRange => "this rate is too small to work with",
            Self::Count => "not a number that can be a limit",
            Self::UpTo64 => "this number is out of range",
            Self::Network => "neither a network nor an address",
            Self::Address => "not an address",
            Self::AdTag => "not the tag of a promoted channel",
            Self::DurationRange => "this length of time is out of range",
        })
    }
}

impl std::error::Error for ValueError {}

/// `address:port`; port 0 lets the system choose.
pub fn socket_address(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| match text.rsplit_once(':') {
        _ if text.trim_start_matches(':').parse::<u16>().is_ok() => ValueError::PortAlone,
        Some((host, port)) if port.parse::<u16>().is_ok() && host_name(host).is_ok() => ValueError::NameForAddress,
        _ => ValueError::SocketAddress,
    })
}

/// A place to listen: `address:port`, `unix:path` or `systemd:name`.
pub fn listener(text: &str) -> Result<Address, ValueError> {
    let name_of_a_socket = |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    match (text.strip_prefix("unix:"), text.strip_prefix("systemd:")) {
        (Some(path), _) if !path.is_empty() => Ok(Address::Unix(path.into())),
        (_, Some(name)) if name_of_a_socket(&name) => Ok(Address::Systemd(name.into())),
        (None, None) => socket_address(text).map(Address::Tcp),
        _ => Err(ValueError::Listener),
    }
}

/// `host:port` with a host as [`host`] reads it and a port other than 0.
pub fn host_and_port(text: &str) -> Result<(String, u16), ValueError> {
    let (name, number) = text.rsplit_once(':').ok_or(ValueError::HostAndPort)?;
    let bare_v6 = name.contains(':') && !name.starts_with('[');
    match (host(name), port(number)) {
        (Ok(host), Ok(port)) if !bare_v6 => Ok((host, port)),
        _ => Err(ValueError::HostAndPort),
    }
}

/// A host name in lower case or an address, which comes back in its usual form and without brackets.
pub fn host(text: &str) -> Result<String, ValueError> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => host_name(text),
    }
}

/// Unlike the domain of a secret, a host may be as short as its owner likes.
fn host_name(text: &str) -> Result<String, ValueError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    let fits = text.len() <= 253 && text.split('.').all(label) && !text.rsplit('.').next().is_some_and(number);
    fits.then(|| text.to_ascii_lowercase()).ok_or(ValueError::Host)
}

/// A port other than 0.
pub fn port(text: &str) -> Result<u16, ValueError> {
    text.parse().ok().filter(|port| *port != 0).ok_or(ValueError::Port)
}

/// A length of time with units, zero included, of at most ten years: more would not fit into the clock everywhere.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    static PARSER: SpanParser = SpanParser::new();
    let parsed = PARSER.parse_unsigned_duration(text.trim()).map_err(|_| ValueError::Duration)?;
    if parsed > TEN_YEARS { Err(ValueError::DurationRange) } else { Ok(parsed) }
}

/// The same without zero.
pub fn some_duration(text: &str) -> Result<Duration, ValueError> {
    duration(text).and_then(|it| if it < Duration::from_millis(1) { Err(ValueError::DurationRange) } else { Ok(it) })
}

/// A moment: a date, of which the end counts, or a time with its zone. The calendar is that of UTC.
pub fn moment(text: &str) -> Result<UnixTime, ValueError> {
    let text = text.trim();
    if let Ok(date) =
        text.parse::<Date>().map_err(drop).and_then(|date| if text.len() > 10 { Err(()) } else { Ok(date) })
    {
        let next = date.tomorrow().map_err(|_| ValueError::Moment)?;
        let end = Offset::UTC.to_timestamp(next.to_datetime(Time::midnight())).map_err(|_| ValueError::Moment)?;
        return Ok(UnixTime(end.as_second()));
    }
    let time = text.parse::<Timestamp>().map_err(|_| ValueError::Moment)?;
    Ok(UnixTime(time.as_second()))
}

/// `SIZE` or `SIZE/PERIOD`.
pub fn quota(text: &str) -> Result<Quota, ValueError> {
    let (size, period) = text.split_once('/').unwrap_or((text, "total"));
    let bytes = bytes(size).ok_or(ValueError::Quota)?;
    let period = period.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    let period = Period::ALL.into_iter().find(|known| known.label() == period).ok_or(ValueError::Period)?;
    if bytes < LEAST_QUOTA { Err(ValueError::QuotaRange) } else { Ok(Quota { bytes, period }) }
}

/// A quota as [`quota`] reads it.
pub fn quota_text(quota: Quota) -> String {
    let size = size_text(quota.bytes);
    match quota.period {
        Period::Total => size,
        period => format!("{size}/{}", period.label()),
    }
}

/// A number of bytes with the largest unit that does not round it, or exactly.
pub fn size_text(bytes: u64) -> String {
    let units = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match units.into_iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => format!("{bytes}B"),
    }
}

/// The smallest quota: the steps in which less is used up would be a large part of it.
const LEAST_QUOTA: u64 = 1_000_000;

/// Bytes in a second: in bits with `bit`, otherwise in bytes; a `/s` behind it is welcome.
pub fn bandwidth(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    let text = text.strip_suffix("/s").unwrap_or(text).trim_end();
    let lower = text.to_ascii_lowercase();
    let rate = match lower.strip_suffix("bits").or(lower.strip_suffix("bit")) {
        Some(bits) => bytes(&format!("{bits}b")).map(|bits| bits / 8),
        None => bytes(text),
    };
    match rate {
        None => Err(ValueError::Bandwidth),
        Some(rate) if rate < LEAST_RATE => Err(ValueError::BandwidthRange),
        Some(rate) => Ok(rate),
    }
}

/// The smallest rate: with less a client would give up before it gets an answer.
const LEAST_RATE: u64 = 1000;

/// A size with its unit: a bare number might be meant as anything.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    text.ends_with(|last: char| last.is_ascii_alphabetic()).then_some(())?;
    Some(text.parse::<ByteSize>().ok()?.as_u64())
}

/// A limit of how many: from 1 on.
pub fn count(text: &str) -> Result<u32, ValueError> {
    text.parse().ok().filter(|count| *count != 0).ok_or(ValueError::Count)
}

/// A number of connections from 0 to 64.
pub fn up_to_64(text: &str) -> Result<u8, ValueError> {
    text.parse().ok().filter(|number| *number <= 64).ok_or(ValueError::UpTo64)
}

/// A network, or an address as the network that holds nothing else.
pub fn network(text: &str) -> Result<IpNet, ValueError> {
    let text = text.trim();
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(|network| canonical(network.trunc())).ok_or(ValueError::Network)
}

/// A network of IPv4 addresses that were written as IPv6 ones is one of IPv4: clients are compared with it as such.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let inner = v6.addr().to_ipv4_mapped().filter(|_| v6.prefix_len() >= 96);
    inner.and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok()).map_or(network, IpNet::V4)
}

/// An address without a port.
pub fn address(text: &str) -> Result<IpAddr, ValueError> {
    text.trim().parse::<IpAddr>().map(|address| address.to_canonical()).map_err(|_| ValueError::Address)
}

/// The tag of a promoted channel.
pub fn ad_tag(text: &str) -> Result<AdTag, ValueError> {
    text.trim().parse().map_err(|_| ValueError::AdTag)
}

/// The tag of one user: one of the user's own, or `none`.
pub fn tagging(text: &str) -> Result<Tagging, ValueError> {
    if text.trim() == "none" { Ok(Tagging::Without) } else { ad_tag(text).map(Tagging::Own) }
}

/// A tag as [`tagging`] reads it; nothing where the one of everybody counts.
pub fn tagging_text(tagging: Tagging) -> Option<String> {
    match tagging {
        Tagging::AsAll => None,
        Tagging::Own(tag) => Some(tag.to_string()),
        Tagging::Without => Some("none".to_owned()),
    }
}

/// Parses the interval of a repeated action: a minute to a year.
pub fn interval(text: &str) -> Result<Duration, ValueError> {
    const MINUTE: Duration = Duration::from_secs(60);
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    duration(text).and_then(|it| if (MINUTE..=YEAR).contains(&it) { Ok(it) } else { Err(ValueError::Interval) })
}

/// The same as [`count`], in a type that knows it.
pub fn some_count(text: &str) -> Result<NonZeroU32, ValueError> {
    count(text).and_then(|count| NonZeroU32::new(count).ok_or(ValueError::Count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_what_people_write_for_them() {
        assert_eq!(socket_address("[::]:443").unwrap().port(), 443);
        assert_eq!(socket_address("443"), Err(ValueError::PortAlone));
        assert_eq!(socket_address(":443"), Err(ValueError::PortAlone));
        assert_eq!(socket_address("localhost:443"), Err(ValueError::NameForAddress));
        for text in ["", "::", "1.2.3.4", "1.2.3.4:65536", "1.2.3.4:x"] {
            assert_eq!(socket_address(text), Err(ValueError::SocketAddress), "{text}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        assert_eq!(host("WWW.Example.com").unwrap(), "www.example.com");
        assert_eq!(host("[2001:DB8::1]").unwrap(), "2001:db8::1");
        assert_eq!(host_and_port("[::1]:8443").unwrap(), ("::1".into(), 8443));
        assert_eq!(host_and_port("nginx:80").unwrap(), ("nginx".into(), 80));
        for text in ["", "a b", "http://x", "1.2.3", "-x", "x..y", "x."] {
            assert_eq!(host(text), Err(ValueError::Host), "{text}");
        }
        for text in ["", "example.com", "example.com:0", "::1:443", "https://example.com:443"] {
            assert_eq!(host_and_port(text), Err(ValueError::HostAndPort), "{text}");
        }
    }

    #[test]
    fn durations_need_units() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(some_duration("0s"), Err(ValueError::DurationRange));
        assert_eq!(duration("20y"), Err(ValueError::Duration));
        assert_eq!(duration("100000h"), Err(ValueError::DurationRange));
        for text in ["", "10", "-5m", "soon"] {
            assert_eq!(duration(text), Err(ValueError::Duration), "{text}");
        }
    }

    #[test]
    fn moments_are_dates_or_times_with_a_zone() {
        assert_eq!(moment("2026-01-01"), Ok(UnixTime(1_767_225_600 + 86_400)));
        assert_eq!(moment("2026-01-01T00:00:00Z"), Ok(UnixTime(1_767_225_600)));
        assert_eq!(moment("2026-01-01 01:00:00+01:00"), Ok(UnixTime(1_767_225_600)));
        for text in ["", "soon", "2026-13-01", "2026-01-01T00:00:00", "2026", "12:00:00"] {
            assert_eq!(moment(text), Err(ValueError::Moment), "{text}");
        }
    }

    #[test]
    fn quotas_are_sizes_with_a_period() {
        let quota_of = |bytes, period| Ok(Quota { bytes, period });
        assert_eq!(quota("50GB/month"), quota_of(50_000_000_000, Period::Month));
        assert_eq!(quota("1 GiB"), quota_of(1 << 30, Period::Total));
        assert_eq!(quota("1.5MB / calendar  day"), quota_of(1_500_000, Period::CalendarDay));
        assert_eq!(quota("1TB/total"), quota_of(1_000_000_000_000, Period::Total));
        assert_eq!(quota("500kB/day"), Err(ValueError::QuotaRange));
        assert_eq!(quota("1GB/year"), Err(ValueError::Period));
        for text in ["", "GB", "5", "-5GB", "much/day", "/day"] {
            assert_eq!(quota(text), Err(ValueError::Quota), "{text}");
        }
        for text in ["50GB/month", "1500MB/calendar day", "1073741824B"] {
            assert_eq!(quota_text(quota(text).unwrap()), text);
        }
    }

    #[test]
    fn rates_are_bits_or_bytes() {
        assert_eq!(bandwidth("10Mbit"), Ok(1_250_000));
        assert_eq!(bandwidth("10 mbit/s"), Ok(1_250_000));
        assert_eq!(bandwidth("1MB"), Ok(1_000_000));
        assert_eq!(bandwidth("64kbit/s"), Ok(8000));
        assert_eq!(bandwidth("1bit"), Err(ValueError::BandwidthRange));
        for text in ["", "10", "bit", "fast", "-1MB"] {
            assert_eq!(bandwidth(text), Err(ValueError::Bandwidth), "{text}");
        }
    }

    #[test]
    fn networks_may_be_addresses_and_lose_what_is_behind_their_length() {
        assert_eq!(network("192.0.2.7/24").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(network("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
        assert_eq!(network("::ffff:192.0.2.7/120").unwrap().to_string(), "192.0.2.0/24");
        assert_eq!(network("::ffff:0.0.0.0/95").unwrap().to_string(), "::fffe:0:0/95");
        assert_eq!(network("192.0.2.0/33"), Err(ValueError::Network));
        assert_eq!(address("::ffff:192.0.2.7"), Ok([192, 0, 2, 7].into()));
        assert_eq!(address("192.0.2.7:1"), Err(ValueError::Address));
        assert_eq!(count("0"), Err(ValueError::Count));
        assert_eq!(count("18"), Ok(18));
        assert_eq!((up_to_64("0"), up_to_64("64")), (Ok(0), Ok(64)));
        assert_eq!((up_to_64("65"), up_to_64("-1")), (Err(ValueError::UpTo64), Err(ValueError::UpTo64)));
    }

    #[test]
    fn tags_are_digits_or_none_at_all() {
        let tag = AdTag([0xab; 16]);
        assert_eq!(ad_tag(&"aB".repeat(16)), Ok(tag));
        for known in [Tagging::Own(tag), Tagging::Without] {
            assert_eq!(tagging(&tagging_text(known).unwrap()), Ok(known));
        }
        for text in ["", "none", "ab", "g0112233445566778899aabbccddeeff"] {
            assert_eq!(ad_tag(text), Err(ValueError::AdTag), "{text}");
        }
    }
}
