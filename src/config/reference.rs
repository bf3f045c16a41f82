//! What every key means: the one source of what is refused as unknown, of the table in docs/configuration.md and of the
//! schema that editors take.
//!
//! A new key gets a row here. `BLESS=1 cargo test --test operator config_files` then writes the table and the
//! schema again.

use serde_json::{Value as Json, json};

use self::AppliesWhen::{AtOnce, Connection, Handshake, Hello, Request, Restart, Session};
use self::DefaultValue::{Needed, Value, Words};
use self::Kind::{
    Addresses, Count, Duration, Moment, Names, Numbers, OneOf, Path, Port, Rate, Section, Sections, Size, SomeOf,
    Switch, Text, Texts, UpTo,
};

/// A key, as its users are told of it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its dotted path. Elements of an array of tables go by the name of the array.
    pub path: &'static str,
    /// Kind of value.
    pub kind: Kind,
    /// Default value.
    pub usual: DefaultValue,
    /// Moment when a change takes effect in a running proxy.
    pub holds: AppliesWhen,
    /// Purpose of the key, in Markdown.
    pub about: &'static str,
}

/// Kind of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words for each are below")]
pub enum Kind {
    Section,
    Sections,
    Text,
    Path,
    Switch,
    Count,
    UpTo(u32),
    Port,
    Duration,
    Moment,
    Size,
    Rate,
    Texts,
    Numbers,
    Names,
    Addresses,
    OneOf(&'static [&'static str]),
    SomeOf(&'static [&'static str]),
}

/// Default of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// This, in TOML.
    Value(&'static str),
    /// A default described in words, in Markdown.
    Words(&'static str),
    /// Nothing: it has to be written.
    Needed,
}

/// Moment when a change takes effect in a running proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppliesWhen {
    /// As soon as the file is read again.
    AtOnce,
    /// For the next hello.
    Hello,
    /// For the next connection.
    Connection,
    /// For the next handshake.
    Handshake,
    /// For the next session.
    Session,
    /// For the next request.
    Request,
    /// For the next start.
    Restart,
}

const fn key(path: &'static str, kind: Kind, usual: DefaultValue, holds: AppliesWhen, about: &'static str) -> Key {
    Key { path, kind, usual, holds, about }
}

/// Sections are there or not; it is their keys that hold at some time.
const fn section(path: &'static str, kind: Kind, about: &'static str) -> Key {
    key(path, kind, Words("none"), AtOnce, about)
}

/// Every key that a file may have, in the order in which people are told of them.
pub const REFERENCE: &[Key] = &[
    key("state_dir", Path, Words("see below"), Restart, "folder for what must survive a restart"),
    key(
        "domain",
        Text,
        Words("the one inside the secrets, else made up"),
        Hello,
        "name that links carry: 4 to 182 lower-case letters, digits, `-` and `.`; other alphabets in punycode",
    ),
    key(
        "names",
        Texts,
        Words("none"),
        Hello,
        "further names of the same site, over which [many users are spread](users.md#many-users); its certificate has to \
         hold them all",
    ),
    key(
        "listen",
        Texts,
        Words("`[\"[::]:443\"]`, or port 8443 where 443 is not permitted"),
        AtOnce,
        "addresses to accept clients on; also `\"unix:PATH\"`, and `\"systemd:NAME\"` for sockets that systemd opens",
    ),
    section("proxy_protocol", Section, "clients that another program forwards"),
    key(
        "proxy_protocol.listen",
        Texts,
        Words("none"),
        AtOnce,
        "listeners for clients that another program forwards with a PROXY protocol header; see \
         [front.md](front.md)",
    ),
    key(
        "proxy_protocol.from",
        Texts,
        Value("[\"127.0.0.1\", \"::1\"]"),
        AtOnce,
        "networks of the programs whose headers are trusted; to others such a listener is like any other",
    ),
    key(
        "ad_tag",
        Text,
        Words("none"),
        Session,
        "tag of a [promoted channel](promoted-channel.md), 32 hexadecimal digits; sessions of users with a tag go \
         through Telegram's middle proxies",
    ),
    section("users", Sections, "the users: one section for each"),
    key("users.name", Text, Needed, Hello, "1 to 64 letters, digits, `-`, `_`, `.` and `@`"),
    key(
        "users.secret",
        Text,
        Words("needed, unless there is a file of it"),
        Hello,
        "key: 32 hexadecimal digits, or any form that clients use (base64, base64url, `dd…`, `ee…`)",
    ),
    key(
        "users.secret_file",
        Path,
        Words("none"),
        Hello,
        "file with the key instead; only its owner should be able to read it",
    ),
    key(
        "users.previous_secret",
        Text,
        Words("none"),
        Hello,
        "the previous key, which is valid until `users.previous_until`",
    ),
    key("users.previous_secret_file", Path, Words("none"), Hello, "file with that key instead"),
    key("users.previous_until", Moment, Words("none"), Hello, "needed where there is a previous key"),
    key("users.enabled", Switch, Value("true"), Hello, "whether the user is active"),
    key(
        "users.expires",
        Moment,
        Words("never"),
        Hello,
        "date (its end in UTC) or time with its zone; from then on the user is rejected",
    ),
    key(
        "users.quota",
        Size,
        Words("none"),
        Hello,
        "traffic quota, both directions together: `\"50GB/month\"`, `\"500MB/calendar day\"`, `\"1TB\"`; see \
         [users.md](users.md)",
    ),
    key(
        "users.bandwidth_up",
        Rate,
        Words("none"),
        Hello,
        "rate from the client, all sessions together: `\"10Mbit\"`, `\"1MB\"`",
    ),
    key("users.bandwidth_down", Rate, Words("none"), Hello, "rate to the client"),
    key("users.max_sessions", Count, Words("none"), Hello, "sessions at once; one client opens 13 to 18"),
    key(
        "users.max_addresses",
        Count,
        Words("none"),
        Hello,
        "addresses at once, counted for IPv4 and IPv6 apart; those of one /64 are one",
    ),
    key("users.allow", Texts, Words("anywhere"), Hello, "networks or addresses that the user may come from"),
    key(
        "users.deny",
        Texts,
        Words("none"),
        Hello,
        "networks or addresses that the user may not come from, even if they are allowed",
    ),
    key("users.note", Text, Words("none"), Hello, "a note for yourself"),
    key("users.ad_tag", Text, Words("the global `ad_tag`"), Hello, "tag of one user, or `\"none\"`"),
    key(
        "users.middle",
        OneOf(&["tagged", "media", "all"]),
        Words("`middle.sessions`"),
        Hello,
        "sessions of one user that go through middle proxies",
    ),
    key(
        "users.domain",
        Text,
        Words("the one inside the secret, else `domain`"),
        Hello,
        "name of the site that the user's link carries: `domain`, or one of `names`",
    ),
    section("link", Section, "what links name as the server"),
    key("link.host", Text, Words("see below"), AtOnce, "host name or address in links"),
    key("link.port", Port, Words("port of the first listener"), AtOnce, "port in links"),
    section("hello", Section, "the ClientHello"),
    key("hello.time_window", Duration, Value("\"10m\""), Hello, "how far a client's clock may be off, either way"),
    key(
        "hello.accept_names",
        Names,
        Value("\"any\""),
        Hello,
        "names that a hello with a right secret may carry besides those of the site",
    ),
    section("cover", Section, "what visitors see"),
    key(
        "cover.kind",
        OneOf(&["site", "remote"]),
        Words("see below"),
        Connection,
        "what visitors see: the built-in site, or a web server elsewhere",
    ),
    key("cover.address", Text, Words("port 443 of the domain"), Connection, "`\"host:port\"` of a remote cover"),
    key(
        "cover.proxy_protocol",
        OneOf(&["v1", "v2"]),
        Words("none"),
        Connection,
        "tells a remote cover the client's address, in a header of this version",
    ),
    key("cover.route", Text, Words("directly"), Connection, "name of the [route](routes.md) to a remote cover"),
    key(
        "cover.private_addresses",
        Switch,
        Value("false"),
        Connection,
        "whether the name of a remote cover may lead to this machine or a private network, which visitors then see; an \
         IP address is always allowed",
    ),
    key(
        "cover.accept_grade_c",
        Switch,
        Value("false"),
        Connection,
        "whether a remote cover may send its first flight in several encrypted records, which one flow tells apart from the \
         single one that clients get",
    ),
    section("site", Section, "the built-in web server"),
    key(
        "site.certificate",
        Path,
        Words("self-signed"),
        Handshake,
        "PEM file of the certificate chain, read again when it changes; or let one be issued, with a section \
         `[site.acme]`: see [certificates.md](certificates.md)",
    ),
    key("site.key", Path, Words("self-signed"), Handshake, "PEM file of the private key"),
    key("site.folder", Path, Words("a small site in the state directory"), Connection, "files to serve"),
    key(
        "site.upstream",
        Text,
        Words("none"),
        Connection,
        "`\"http://host:port\"` of a web server to serve instead of a folder",
    ),
    key(
        "site.server_header",
        Text,
        Words("none"),
        Connection,
        "value of the header `Server`, if it should not be `nginx` or the upstream's own",
    ),
    key(
        "site.redirect_from",
        Texts,
        Words("none"),
        AtOnce,
        "addresses on which plain HTTP is answered with a redirect to HTTPS",
    ),
    key(
        "site.trusted_proxies",
        Texts,
        Words("none"),
        Connection,
        "networks of web proxies, of a CDN for instance, whose `X-Forwarded-For` and `X-Forwarded-Proto` reach the upstream; \
         other claims of where a visitor comes from are replaced",
    ),
    key(
        "site.http_listen",
        Texts,
        Words("none"),
        AtOnce,
        "addresses on which the site is served over plain HTTP, for a [web server in front](web.md#behind-another-web-server) that \
         speaks TLS: `\"127.0.0.1:8080\"`, `\"unix:/run/vizard/site.sock\"`; elsewhere than on this machine only to `trusted_proxies`",
    ),
    key(
        "site.visitor_header",
        Text,
        Value("\"X-Forwarded-For\""),
        Connection,
        "header field in which `trusted_proxies`, and web servers that come by a socket in the file system, name a visitor's address for \
         limits and lists of WEB proxies",
    ),
    section(
        "site.acme",
        Section,
        "a certificate that an authority issues; the empty section is enough, and accepts its terms",
    ),
    key(
        "site.acme.staging",
        Switch,
        Value("false"),
        AtOnce,
        "uses the authority's staging server, whose certificates no browser trusts",
    ),
    key("site.acme.directory", Text, Words("Let's Encrypt"), AtOnce, "URL of another authority's ACME directory"),
    key(
        "site.acme.challenge",
        OneOf(&["tls-alpn-01", "http-01"]),
        Value("\"tls-alpn-01\""),
        AtOnce,
        "how the authority is shown that the domain is yours: in a handshake on port 443, or with `\"http-01\"` over \
         plain HTTP on port 80, for which `site.redirect_from` has to be there",
    ),
    key("site.acme.email", Text, Words("none"), AtOnce, "address that the authority may write to; none is needed"),
    key(
        "site.acme.ca_file",
        Path,
        Words("those that browsers trust"),
        AtOnce,
        "PEM file of the roots of a private authority's own certificate",
    ),
    key(
        "site.acme.eab_key_id",
        Text,
        Words("none"),
        AtOnce,
        "identifier of an external account, which some authorities require",
    ),
    key("site.acme.eab_key_file", Path, Words("none"), AtOnce, "file with its key in base64"),
    section(
        "web",
        Section,
        "Telegram's [WEB proxies](web.md): apps come through the pages of the built-in site, in a browser of their own",
    ),
    key(
        "web.enabled",
        Switch,
        Value("false"),
        Connection,
        "whether the built-in site serves them; its certificate has to be one that browsers believe",
    ),
    key(
        "web.carrier",
        OneOf(&["https", "https-lanes", "websocket", "websocket-lanes"]),
        Value("\"websocket\""),
        Session,
        "what the page carries an app's connections in: requests, or WebSockets; with `-lanes` each connection in its own",
    ),
    key(
        "web.path",
        Text,
        Words("none"),
        Connection,
        "a path below which the site serves them as well, as in `\"pages/team\"`; links that name it are for apps that know of \
         such paths",
    ),
    section("telegram", Section, "how to reach Telegram"),
    key("telegram.prefer", OneOf(&["ipv4", "ipv6"]), Value("\"ipv4\""), Session, "family that is tried first"),
    key(
        "telegram.addresses",
        Addresses,
        Words("built in"),
        Session,
        "addresses by number of the data centre: `2 = [\"192.0.2.1:443\"]`; `-2` is the media of 2",
    ),
    key(
        "telegram.warm",
        UpTo(64),
        Value("8"),
        Session,
        "most idle connections to each data centre, kept ready for the next sessions; their number follows the demand \
         of the last minutes; 0: none",
    ),
    key(
        "telegram.refresh",
        Switch,
        Value("true"),
        Session,
        "fetches Telegram's lists of addresses hourly, once something needs them: sessions with 203, or a tag of a \
         [promoted channel](promoted-channel.md)",
    ),
    key(
        "telegram.lists",
        Text,
        Value("\"https://core.telegram.org\""),
        Session,
        "where these lists are: `https://` URL (or `http://` to this machine) that `getProxySecret`, `getProxyConfig` and \
         `getProxyConfigV6` are put behind",
    ),
    key(
        "telegram.routes",
        Texts,
        Words("all of them"),
        Session,
        "names of the [routes](routes.md) to Telegram; without any `[[routes]]` it is reached directly",
    ),
    section("middle", Section, "Telegram's middle proxies, for sessions with a tag and others"),
    key(
        "middle.sessions",
        OneOf(&["tagged", "media", "all"]),
        Value("\"tagged\""),
        Session,
        "sessions that go through middle proxies: those with a tag, these and all for \
         [media](promoted-channel.md#media-without-premium), or all",
    ),
    key(
        "middle.secret_file",
        Path,
        Words("published by Telegram"),
        Session,
        "file with the secret of middle proxies, as it is; see [promoted-channel.md](promoted-channel.md)",
    ),
    key(
        "middle.addresses",
        Addresses,
        Words("published by Telegram"),
        Session,
        "their addresses by number of the data centre: `2 = [\"192.0.2.1:8888\"]`; if there are any here, those that \
         are published are ignored",
    ),
    key(
        "middle.public_addresses",
        Texts,
        Words("see there"),
        Session,
        "the public IPv4 and IPv6 address of this machine, if it is behind NAT",
    ),
    key("middle.stun", Text, Words("none"), Session, "`\"host:port\"` of a STUN server that is asked for that address"),
    key(
        "middle.client_addresses",
        Switch,
        Value("false"),
        Session,
        "whether middle proxies, and so Telegram, are told the addresses of clients",
    ),
    section("routes", Sections, "ways to Telegram and to a remote cover: one section for each"),
    key("routes.name", Text, Needed, Session, "1 to 32 letters, digits, `-`, `_` and `.`"),
    key(
        "routes.kind",
        OneOf(&["direct", "socks5", "socks4a", "http", "shadowsocks", "mtproto"]),
        Needed,
        Session,
        "how it connects: directly, through a proxy (`http` is CONNECT), or through another vizard or any proxy for \
         Telegram; `shadowsocks` where vizard was built with it",
    ),
    key(
        "routes.address",
        Text,
        Words("needed for proxies"),
        Session,
        "`\"host:port\"` of a proxy of the kinds `socks5`, `socks4a`, `http` and `shadowsocks`",
    ),
    key(
        "routes.method",
        Text,
        Words("needed for `shadowsocks`"),
        Session,
        "how the server of a `shadowsocks` route encrypts, such as `\"aes-256-gcm\"`",
    ),
    key("routes.user", Text, Words("none"), Session, "user name for that proxy"),
    key("routes.password", Text, Words("none"), Session, "for `socks5`, `http` and `shadowsocks`"),
    key(
        "routes.password_file",
        Path,
        Words("none"),
        Session,
        "file with it instead; only its owner should be able to read it",
    ),
    key(
        "routes.link",
        Text,
        Words("needed for `mtproto`, unless there is a file of it"),
        Session,
        "the link that the other proxy prints, `\"tg://proxy?…\"` or `\"https://t.me/proxy?…\"`",
    ),
    key("routes.link_file", Path, Words("none"), Session, "file with it instead"),
    key("routes.source", Text, Words("as the system decides"), Session, "address of this machine to connect from"),
    key("routes.interface", Text, Words("as the system decides"), Session, "interface to connect through"),
    key(
        "routes.mark",
        UpTo(u32::MAX),
        Words("none"),
        Session,
        "number for the kernel's rules (`SO_MARK`); needs CAP_NET_ADMIN",
    ),
    key("routes.order", Count, Words("place in the file"), Session, "lower ones are tried first"),
    key("routes.weight", Count, Value("1"), Session, "share of the sessions among routes of the same order"),
    key(
        "routes.data_centres",
        Numbers,
        Words("all"),
        Session,
        "numbers of the data centres that the route is for, with their media: `[2, 4]`",
    ),
    key("routes.users", Texts, Words("all"), Session, "names of the users that the route is for"),
    section("dns", Section, "how names are looked up"),
    key(
        "dns.https",
        Text,
        Words("the system is asked"),
        Session,
        "URL of a server for DNS over HTTPS, which is asked about the names of a remote cover and of proxies",
    ),
    key("dns.route", Text, Words("directly"), Session, "name of the [route](routes.md) to it"),
    key("dns.ca_file", Path, Words("those that browsers trust"), Session, "PEM file of the roots of its certificate"),
    section("session", Section, "sessions of clients"),
    key(
        "session.idle",
        Duration,
        Words("as long as the cover bears a visitor who rests, 75 seconds at least"),
        Session,
        "a session without a byte for this long is ended; a longer time than the cover's shows to who watches",
    ),
    key("session.drain", Duration, Value("\"10s\""), AtOnce, "how long sessions may go on after SIGTERM"),
    key(
        "session.handover",
        Duration,
        Value("\"10m\""),
        AtOnce,
        "how long sessions may go on in the old process after another has [taken over](operation.md#upgrade)",
    ),
    key(
        "session.fillers",
        SomeOf(&["chrome-hybrid", "chrome", "safari-hybrid", "padded-517", "other"]),
        Value("[\"chrome-hybrid\", \"padded-517\"]"),
        Session,
        "classes of clients that get records of NOP frames in place of the cover's session tickets; of `chrome-hybrid` \
         and `padded-517` only TDLib and Telegram Desktop, known by their complete hello; the others are off because \
         none of their clients could be tested; `[]`: no client gets any",
    ),
    key(
        "session.end_unanswered",
        OneOf(&["off", "apple", "all"]),
        Value("\"apple\""),
        Session,
        "clients whose session ends, a few times and then later and later, when they say nothing [behind an \
         answer](protocol.md#ends-and-silences): those whose hello looks like that of an app for Apple's systems, all, \
         or none",
    ),
    section("limits", Section, "limits on connections: those above a limit get the cover only"),
    key(
        "limits.connections",
        Count,
        Words("none"),
        Connection,
        "connections at once; above it clients wait in the listener's queue",
    ),
    key("limits.rate", Count, Words("none"), Connection, "new connections in a second; a burst of 64 is allowed"),
    key(
        "limits.address_connections",
        Count,
        Words("none"),
        Connection,
        "connections at once from one address (IPv6: one network of 64 bits)",
    ),
    key(
        "limits.address_rate",
        Count,
        Words("none"),
        Connection,
        "new connections in a second from one address; a burst of 64 is allowed",
    ),
    key(
        "limits.network_connections",
        Count,
        Words("none"),
        Connection,
        "connections at once from one network (24 bits of IPv4, 56 of IPv6)",
    ),
    key(
        "limits.network_rate",
        Count,
        Words("none"),
        Connection,
        "new connections in a second from one network; a burst of 64 is allowed",
    ),
    key(
        "limits.excess",
        OneOf(&["pass", "delay"]),
        Value("\"pass\""),
        Connection,
        "what happens to connections above a rate: `\"pass\"` gives them the cover only, `\"delay\"` lets them wait, \
         up to five seconds",
    ),
    section("lists", Section, "deny and allow lists of addresses; a denied address gets the cover only"),
    key(
        "lists.deny",
        Texts,
        Words("none"),
        Connection,
        "files or `https://` URLs of lists of addresses that get the cover only",
    ),
    key(
        "lists.allow",
        Texts,
        Words("none"),
        Connection,
        "the same for addresses that no other list and no country denies",
    ),
    key("lists.allow_only", Switch, Value("false"), Connection, "addresses on no list of `allow` get the cover only"),
    key("lists.refresh", Duration, Value("\"24h\""), Connection, "how often URLs are fetched, plus or minus a tenth"),
    key("lists.country_database", Path, Words("none"), Connection, "file in MaxMind's format, which you supply"),
    key("lists.deny_countries", Texts, Words("none"), Connection, "countries that get the cover only: `[\"XX\"]`"),
    key("lists.allow_countries", Texts, Words("none"), Connection, "the only countries that are accepted"),
    section("alarms", Section, "alarms, and where they are sent"),
    key(
        "alarms.webhook",
        Text,
        Words("none"),
        Connection,
        "`https://` URL (or `http://` to this machine) that alarms are posted to as JSON",
    ),
    key(
        "alarms.webhook_token_file",
        Path,
        Words("none"),
        Connection,
        "file with a token that is sent along as `Authorization: Bearer …`",
    ),
    key("alarms.networks", Count, Value("10"), Connection, "most networks that one user may connect from within a day"),
    key("alarms.replays", Count, Value("3"), Connection, "most replayed hellos of one user within an hour"),
    key(
        "alarms.declines",
        Count,
        Value("1000"),
        Connection,
        "most hellos declined within ten minutes; above it is an alarm if that is also ten times the usual",
    ),
    key(
        "alarms.failures",
        Count,
        Value("5"),
        Connection,
        "most clients in a row that find the cover or a data centre unreachable",
    ),
    key(
        "alarms.certificate_days",
        Count,
        Value("14"),
        Connection,
        "days before a certificate expires from which it raises an alarm",
    ),
    section("audit_log", Section, "a file of admitted users, and of clients declined although they had a key"),
    key(
        "audit_log.file",
        Path,
        Words("none: no audit log"),
        Restart,
        "file for admissions and declines of users, and for actions through the admin listener",
    ),
    key(
        "audit_log.addresses",
        OneOf(&["none", "truncated", "hashed"]),
        Value("\"none\""),
        Restart,
        "`\"none\"`, `\"truncated\"` (24 or 48 bits) or `\"hashed\"` (under a key that is forgotten daily)",
    ),
    key("audit_log.max_megabytes", Count, Value("64"), Restart, "size at which the file is rotated"),
    key("audit_log.max_age", Duration, Value("\"24h\""), Restart, "age at which the file is rotated"),
    key("audit_log.keep_days", Count, Value("30"), Restart, "days after which a file is removed"),
    section("sandbox", Section, "limits on what the proxy may do once it has read its configuration"),
    key(
        "sandbox.enabled",
        Switch,
        Value("true"),
        Restart,
        "whether the proxy enters a [sandbox](hardening.md#the-sandbox) once it has read its configuration",
    ),
    key(
        "sandbox.read",
        Texts,
        Words("none"),
        Restart,
        "files and folders that may be read inside it besides those that the other settings name",
    ),
    section("log", Section, "the log, which goes to the standard error stream"),
    key(
        "log.format",
        OneOf(&["text", "json"]),
        Words("text on a terminal, else json"),
        Restart,
        "the format of the log",
    ),
    key(
        "log.level",
        OneOf(&["error", "warn", "info", "debug", "trace"]),
        Value("\"info\""),
        AtOnce,
        "the least severe level that is logged",
    ),
    key("log.client_addresses", Switch, Value("false"), AtOnce, "whether addresses of clients may appear in the log"),
    section("admin", Section, "the admin listener; without this section there is none"),
    key(
        "admin.listen",
        Text,
        Words("the socket `admin` in the state directory"),
        Restart,
        "where the [admin listener](admin-api.md) is, if there is a section `[admin]`: `127.0.0.1:PORT` or \
         `unix:PATH`; any other address needs `certificate`, `key` and tokens, or the start is refused",
    ),
    key(
        "admin.certificate",
        Path,
        Words("none"),
        Handshake,
        "PEM file for TLS on the admin listener, read again when it changes",
    ),
    key("admin.key", Path, Words("none"), Handshake, "PEM file of its private key"),
    key(
        "admin.hosts",
        Texts,
        Words("none"),
        Request,
        "names and addresses that browsers may know the admin listener by, besides `localhost`, its own address and the \
         names of its certificate; requests for others are refused",
    ),
    key(
        "admin.per_user_metrics",
        Switch,
        Value("true"),
        Restart,
        "whether [metrics](monitoring.md) name users, the first 500 of them",
    ),
    section("admin.tokens", Sections, "tokens for the admin listener: one section for each"),
    key("admin.tokens.name", Text, Needed, Request, "who uses this token; shown in the log of actions"),
    key(
        "admin.tokens.role",
        OneOf(&["metrics", "viewer", "operator", "admin"]),
        Needed,
        Request,
        "what the token permits",
    ),
    key("admin.tokens.hash", Text, Needed, Request, "the SHA-256 that `vizard token` prints; not the token"),
];

impl Kind {
    /// Describes the values that can be written.
    fn words(self) -> String {
        let quoted = |choices: &[&str]| {
            let quoted: Vec<_> = choices.iter().map(|choice| format!("`\"{choice}\"`")).collect();
            quoted.join(", ")
        };
        match self {
            Section | Sections => "section".into(),
            Text => "text".into(),
            Path => "path".into(),
            Switch => "`true`, `false`".into(),
            Count => "number".into(),
            UpTo(u32::MAX) => "number from 0 on".into(),
            UpTo(most) => format!("number, 0 to {most}"),
            Port => "port".into(),
            Duration => "length of time".into(),
            Moment => "date or time".into(),
            Size => "size".into(),
            Rate => "rate".into(),
            Texts => "list of texts".into(),
            Numbers => "list of numbers".into(),
            Names => "`\"any\"` or list of names".into(),
            Addresses => "table".into(),
            OneOf(choices) => quoted(choices),
            SomeOf(choices) => format!("list of {}", quoted(choices)),
        }
    }

    /// Whether it is one with keys of its own.
    pub fn is_section(self) -> bool {
        matches!(self, Section | Sections)
    }

    /// The schema of a value; that of a section lacks its keys.
    fn schema(self) -> Json {
        let texts = json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
        match self {
            Section => json!({ "type": "object", "additionalProperties": false, "properties": {} }),
            Sections => json!({ "type": "array", "items": Section.schema() }),
            Text | Path | Duration | Moment | Size | Rate => json!({ "type": "string" }),
            Switch => json!({ "type": "boolean" }),
            Count => json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX }),
            UpTo(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
            Port => json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX }),
            Texts => texts,
            Numbers => json!({ "type": "array", "items": { "type": "integer" }, "minItems": 1 }),
            Names => json!({ "anyOf": [{ "enum": ["any"] }, texts] }),
            Addresses => json!({ "type": "object", "additionalProperties": texts }),
            OneOf(choices) => json!({ "enum": choices }),
            SomeOf(choices) => json!({ "type": "array", "items": { "enum": choices } }),
        }
    }
}

impl DefaultValue {
    fn words(self) -> String {
        match self {
            Value(toml) => format!("`{toml}`"),
            Words(words) => words.into(),
            Needed => "needed".into(),
        }
    }

    /// The value, if it is one.
    fn json(self) -> Option<Json> {
        let Value(text) = self else { return None };
        let table: toml::Table = format!("it = {text}").parse().ok()?;
        serde_json::to_value(table.get("it")?).ok()
    }
}

impl AppliesWhen {
    fn words(self) -> &'static str {
        match self {
            AtOnce => "at once",
            Hello => "next hello",
            Connection => "next connection",
            Handshake => "next handshake",
            Session => "next session",
            Request => "next request",
            Restart => "restart",
        }
    }

    fn sentence(self) -> String {
        match self {
            AtOnce => "A change applies at once.".into(),
            Restart => "A change applies after a restart.".into(),
            later => format!("A change applies to the {}.", later.words()),
        }
    }
}

/// The table of docs/configuration.md.
pub fn table() -> String {
    let head = "| key | value | default | a change applies | meaning |\n|---|---|---|---|---|\n";
    let row = |key: &Key| {
        let Key { path, kind, usual, holds, about } = key;
        format!("| `{path}` | {} | {} | {} | {about} |\n", kind.words(), usual.words(), holds.words())
    };
    let keys = REFERENCE.iter().filter(|key| !key.kind.is_section());
    head.to_owned() + &keys.map(row).collect::<String>()
}

/// A JSON schema of configuration files, which editors of TOML take as well.
pub fn schema() -> Json {
    let mut schema = Section.schema();
    for key in REFERENCE {
        if let Some(place) = place(&mut schema, key.path) {
            *place = described(key);
        }
    }
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "Configuration of vizard".into();
    schema
}

/// Finds the place for the schema of a key: below that of its section, which stands before it.
fn place<'s>(schema: &'s mut Json, path: &str) -> Option<&'s mut Json> {
    let mut at = schema;
    let (owner, name) = path.rsplit_once('.').map_or((None, path), |(owner, name)| (Some(owner), name));
    for part in owner.into_iter().flat_map(|owner| owner.split('.')) {
        at = at.get_mut("properties")?.get_mut(part)?;
        if at.get("items").is_some() {
            at = at.get_mut("items")?;
        }
    }
    let properties = at.get_mut("properties")?.as_object_mut()?;
    Some(properties.entry(name).or_insert(Json::Null))
}

fn described(key: &Key) -> Json {
    let mut schema = key.kind.schema();
    schema["description"] = match (key.kind.is_section(), key.usual) {
        (true, _) => format!("{}.", key.about).into(),
        (false, Words(words)) => format!("{}. Default: {words}. {}", key.about, key.holds.sentence()).into(),
        (false, _) => format!("{}. {}", key.about, key.holds.sentence()).into(),
    };
    if let Some(usual) = key.usual.json() {
        schema["default"] = usual;
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_stands_before_its_keys_and_every_key_has_a_place() {
        for (at, key) in REFERENCE.iter().enumerate() {
            let before = &REFERENCE[..at];
            assert!(before.iter().all(|other| other.path != key.path), "{} stands twice", key.path);
            if let Some((owner, _)) = key.path.rsplit_once('.') {
                assert!(before.iter().any(|key| key.path == owner && key.kind.is_section()), "{owner}: {}", key.path);
            }
            assert!(!key.about.ends_with('.') && !key.about.contains('|'), "{}: {}", key.path, key.about);
            let described = schema().pointer(&pointer(key.path)).and_then(|key| key["description"].as_str()).is_some();
            assert!(described, "{} is not in the schema", key.path);
        }
    }

    /// Where a key is in the schema.
    fn pointer(path: &str) -> String {
        let mut pointer = String::new();
        for (at, _) in path.match_indices('.').chain([(path.len(), "")]) {
            let (owner, name) = path[..at].rsplit_once('.').unwrap_or(("", &path[..at]));
            let many = REFERENCE.iter().any(|key| key.path == owner && key.kind == Sections);
            pointer += if many { "/items/properties/" } else { "/properties/" };
            pointer += name;
        }
        pointer
    }

    #[test]
    fn defaults_are_of_the_kind_that_they_stand_for() {
        for key in REFERENCE.iter().filter(|key| matches!(key.usual, Value(_))) {
            let usual = key.usual.json().unwrap_or_else(|| panic!("{}: not TOML", key.path));
            let fits = match key.kind {
                OneOf(choices) => usual.as_str().is_some_and(|usual| choices.contains(&usual)),
                Switch => usual.is_boolean(),
                Count | UpTo(_) | Port => usual.is_u64(),
                Texts | SomeOf(_) => usual.is_array(),
                _ => usual.is_string(),
            };
            assert!(fits, "{}: {usual}", key.path);
        }
    }
}
