//! What can be found out about this machine without being told.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use crate::auth::Domain;
use crate::cli::doctor::name::{self, Leads};
use crate::cli::progress;
use crate::config::embedded::full_host_name;
use crate::ops::links::OwnAddress;

/// Questions about the machine.
pub trait Machine {
    /// The address from which it would send to the Internet.
    fn own(&self) -> Option<OwnAddress>;
    /// Whether a port can be had.
    fn port(&self, number: u16) -> Port;
    /// Its name, if that may be one that the world knows.
    fn host_name(&self) -> Option<Domain>;
    /// Resolves a name.
    fn leads(&self, domain: &Domain) -> Leads;
    /// Chain and key for this name, where they usually are.
    fn certificate(&self, domain: &Domain) -> Option<(PathBuf, PathBuf)>;
}

/// Whether a port can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// It can.
    Free,
    /// Another program has it.
    Taken,
    /// Not by this user.
    Forbidden,
}

/// The machine that this runs on.
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn own(&self) -> Option<OwnAddress> {
        OwnAddress::find()
    }

    fn port(&self, number: u16) -> Port {
        match TcpListener::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), number)) {
            Ok(_) => Port::Free,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Port::Forbidden,
            Err(_) => Port::Taken,
        }
    }

    fn host_name(&self) -> Option<Domain> {
        full_host_name()?.parse().ok()
    }

    fn leads(&self, domain: &Domain) -> Leads {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return Leads::Nowhere(io::ErrorKind::Other);
        };
        let leads =
            progress::during(format!("looking up {domain}"), || runtime.block_on(name::leads(domain.as_str(), None)));
        // The system's resolver takes as long as it likes.
        runtime.shutdown_background();
        leads
    }

    fn certificate(&self, domain: &Domain) -> Option<(PathBuf, PathBuf)> {
        let folder = PathBuf::from("/etc/letsencrypt/live").join(domain.as_str());
        let (chain, key) = (folder.join("fullchain.pem"), folder.join("privkey.pem"));
        (chain.is_file() && key.is_file()).then_some((chain, key))
    }
}
