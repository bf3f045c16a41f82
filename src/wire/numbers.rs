//! Numbers out of the registries of TLS (RFC 8446 §11, IANA "TLS Parameters"), once for everybody who asks for them.

/// TLS 1.3 as a version.
pub const TLS13: u16 = 0x0304;

/// Types of extensions.
#[expect(missing_docs, reason = "the names are those of the registry")]
pub mod extension {
    pub const SERVER_NAME: u16 = 0;
    pub const STATUS_REQUEST: u16 = 5;
    pub const SUPPORTED_GROUPS: u16 = 10;
    pub const EC_POINT_FORMATS: u16 = 11;
    pub const SIGNATURE_ALGORITHMS: u16 = 13;
    pub const ALPN: u16 = 16;
    pub const SIGNED_CERTIFICATE_TIMESTAMP: u16 = 18;
    pub const PADDING: u16 = 21;
    pub const EXTENDED_MASTER_SECRET: u16 = 23;
    pub const COMPRESS_CERTIFICATE: u16 = 27;
    pub const SESSION_TICKET: u16 = 35;
    pub const SUPPORTED_VERSIONS: u16 = 43;
    pub const PSK_KEY_EXCHANGE_MODES: u16 = 45;
    pub const KEY_SHARE: u16 = 51;
    /// ALPS, under the number that Chrome gives it; it is in no registry.
    pub const ALPS: u16 = 0x44cd;
    /// Next protocol negotiation, which came before ALPN; it is in no registry.
    pub const NEXT_PROTOCOL: u16 = 0x3374;
    pub const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
    pub const RENEGOTIATION_INFO: u16 = 0xff01;
}

/// Named groups.
#[expect(missing_docs, reason = "the names are those of the registry")]
pub mod group {
    pub const SECP256R1: u16 = 0x0017;
    pub const SECP384R1: u16 = 0x0018;
    pub const SECP521R1: u16 = 0x0019;
    pub const X25519: u16 = 0x001d;
    pub const X25519MLKEM768: u16 = 0x11ec;
}
