//! The section `[middle]`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Resolver;
use crate::config::layer::{MiddleWritten, Written};
use crate::config::report::Complaint;
use crate::config::units;
use crate::crypto::middle_kdf::MiddleSecret;
use crate::telegram::Family;
use crate::telegram::middle::{Settings, own};

impl Resolver<'_> {
    /// Settings for middle proxies, but for what other sections say.
    pub(super) fn middle(&mut self, written: MiddleWritten) -> Settings {
        Settings {
            secret: written.secret_file.and_then(|file| self.middle_secret(file)),
            addresses: self.data_centres(written.addresses),
            prefer: Family::default(),
            own: own::Settings {
                stated: self.public_addresses(&written.public_addresses),
                stun: self.value(written.stun, units::host_and_port),
                name: None,
            },
            tell_addresses: written.client_addresses.is_some_and(|written| written.value),
        }
    }

    fn middle_secret(&mut self, file: Written<PathBuf>) -> Option<MiddleSecret> {
        let at = file.at.clone();
        let path = self.path(file);
        self.files.push(path.clone());
        match read(&path) {
            Ok(bytes) => {
                let secret = MiddleSecret::new(&bytes);
                if secret.is_none() {
                    let what = "this file does not hold the secret of middle proxies";
                    let fix = "fetch it again, as it is: curl -o FILE https://core.telegram.org/getProxySecret";
                    self.complaints.push(Complaint::new(&at, what, fix));
                }
                secret
            }
            Err(error) => {
                self.unusable(&at, "this file cannot be read", &error);
                None
            }
        }
    }

    fn public_addresses(&mut self, written: &[Written<String>]) -> Vec<std::net::IpAddr> {
        let mut known: Vec<(std::net::IpAddr, &Written<String>)> = Vec::new();
        for text in written {
            let Some(address) = self.check(text, units::address) else { continue };
            match known.iter().find(|(other, _)| other.is_ipv4() == address.is_ipv4()) {
                Some((_, other)) => {
                    let what = "there are two addresses of one family";
                    let fix = "name one IPv4 and one IPv6 address at most: those that connections from here come from";
                    self.complaints.push(Complaint::new(&text.at, what, fix).and(&other.at, "the other one"));
                }
                None => known.push((address, text)),
            }
        }
        known.into_iter().map(|(address, _)| address).collect()
    }
}

/// A little more than any secret has, since a wrong path may lead to something without an end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(*MiddleSecret::LENGTHS.end() as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
