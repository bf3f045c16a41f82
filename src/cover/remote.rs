//! A cover elsewhere.

/// Settings of a remote cover.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host name or address literal.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether each connection to the cover begins with a PROXY protocol header that names the client.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Version of the PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}
