//! Values as people write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;

/// Why a text is not the value that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// Not `address:port`.
    SocketAddress,
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
    /// Not a number of things.
    Count,
}

impl ValueError {
    /// What to write instead.
    pub fn mend(self) -> &'static str {
        match self {
            Self::SocketAddress => "write an address and a port: \"0.0.0.0:443\", or \"[::]:443\" for IPv4 and IPv6",
            Self::NameForAddress => "write the address instead of the name: \"127.0.0.1:8443\"",
            Self::PortAlone => "write the address too: \"[::]:443\" is every address of this machine",
            Self::HostAndPort => {
                "write host and port: \"www.example.com:443\", \"192.0.2.1:443\" or \"[2001:db8::1]:443\""
            }
            Self::Host => "write a host name or an address, without scheme, port or path",
            Self::Port => "ports go from 1 to 65535",
            Self::Duration => "write a number with a unit: \"30s\", \"10m\", \"2h\", \"1h 30m\"",
            Self::Interval => "write something between a minute and a year: \"6h\", \"24h\"",
            Self::Count => "write a whole number from 1 to 1000000000; remove the line for none",
            Self::DurationRange => "write something between a millisecond and ten years",
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SocketAddress => "not an address with a port",
            Self::NameForAddress => "a name cannot stand here",
            Self::PortAlone => "the address is missing",
            Self::HostAndPort => "not a host with a port",
            Self::Host => "neither a host name nor an address",
            Self::Port => "not a port",
            Self::Duration => "not a length of time",
            Self::Interval => "this interval is out of range",
            Self::Count => "not a number that can stand here",
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

/// How long until something is done again: a minute to a year.
pub fn interval(text: &str) -> Result<Duration, ValueError> {
    const MINUTE: Duration = Duration::from_secs(60);
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    duration(text).and_then(|it| if (MINUTE..=YEAR).contains(&it) { Ok(it) } else { Err(ValueError::Interval) })
}

/// A number of things, of which there is at least one.
pub fn count(text: &str) -> Result<NonZeroU32, ValueError> {
    const MOST: u32 = 1_000_000_000;
    text.replace('_', "").parse().ok().filter(|count: &NonZeroU32| count.get() <= MOST).ok_or(ValueError::Count)
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
}
