//! The certificate and its key: read from PEM files, read again when they change, made when there are none.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::acme::Validity;
use super::error::SiteError;
use crate::auth::UnixTime;
use crate::base::files::{self, Access};
use crate::cover::chain::Chain;

/// The certificate of the site, which follows its files.
pub(super) struct Watched {
    files: Files,
    /// Files of a better one, which may not be there yet.
    issued: Option<Files>,
    current: ArcSwap<Loaded>,
    watch: Mutex<Watch>,
    interval: Duration,
}

struct Loaded {
    certified: Arc<CertifiedKey>,
    /// Whether a better one is wanted and not there.
    stands_in: bool,
}

impl Watched {
    /// Reads both files; or, as soon as it exists, the one `issued` in their place, which has certificate and key.
    pub(super) fn open(certificate: &Path, key: &Path, issued: Option<PathBuf>) -> Result<Watched, SiteError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let issued = issued.map(|file| Files { certificate: file.clone(), key: file });
        // Looked at before reading: a change in between is then noticed and read once more.
        let seen = stamps(&files, issued.as_ref());
        let loaded = match load(&files, issued.as_ref()) {
            Err(error) if issued.is_some() => {
                tracing::warn!(%error, "the issued certificate cannot be used, and the self-signed one is");
                Loaded { certified: Arc::new(files.load()?), stands_in: true }
            }
            loaded => loaded?,
        };
        let current = ArcSwap::from_pointee(loaded);
        Ok(Watched {
            files,
            issued,
            current,
            watch: Mutex::new(Watch { seen, next: Instant::now() + INTERVAL }),
            interval: INTERVAL,
        })
    }

    /// The certificate as its files have it, at most [`INTERVAL`] late.
    ///
    /// Two `stat` calls every few seconds, and a file of a few kilobytes every few weeks, are too little to leave the
    /// handshake for.
    fn current(&self) -> Arc<Loaded> {
        if self.changed() {
            match load(&self.files, self.issued.as_ref()) {
                Ok(fresh) => {
                    let files = self.issued.as_ref().filter(|_| !fresh.stands_in).unwrap_or(&self.files);
                    tracing::info!(file = %files.certificate.display(), "certificate reloaded");
                    self.current.store(Arc::new(fresh));
                }
                Err(error) => tracing::warn!(%error, "certificate not reloaded, the previous one stays in use"),
            }
        }
        self.current.load_full()
    }

    /// Reads the files now, whether they look changed or not; says whether their content is another.
    pub(super) fn reload(&self) -> Result<bool, SiteError> {
        let seen = stamps(&self.files, self.issued.as_ref());
        let fresh = load(&self.files, self.issued.as_ref())?;
        let new = self.current.load().certified.cert != fresh.certified.cert;
        self.current.store(Arc::new(fresh));
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        (watch.seen, watch.next) = (seen, Instant::now() + self.interval);
        Ok(new)
    }

    /// From when to when the certificate is good; `None` if it does not say so in a way that can be read, and while it
    /// stands in for a better one.
    pub(super) fn validity(&self) -> Option<Validity> {
        let current = self.current();
        validity_of(&current.certified).filter(|_| !current.stands_in)
    }

    /// Whether the certificate is for all of these names.
    pub(super) fn is_for(&self, names: &[String]) -> bool {
        let chain = Chain::read(&self.current().certified.cert);
        chain.is_some_and(|chain| chain.lacking(names.iter().map(String::as_str)).is_empty())
    }

    /// Whether the files differ from when they were last looked at. A bad file is thus complained of once.
    fn changed(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < watch.next {
            return false;
        }
        watch.next = now + self.interval;
        let seen = stamps(&self.files, self.issued.as_ref());
        std::mem::replace(&mut watch.seen, seen) != seen
    }
}

impl ResolvesServerCert for Watched {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().certified))
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Makes a self-signed certificate for the names of a site and its key as files in `dir`, unless they are there already. The
/// files have the first name. A certificate that lacks a name is made again under the same key, so that the two fit at every
/// moment. Returns the paths of the certificate and of the key.
pub fn self_signed(names: &[&str], dir: &Path) -> Result<(PathBuf, PathBuf), SiteError> {
    let bad_domain = |name: &str| SiteError::BadDomain(name.to_owned());
    if let Some(bad) = names.iter().find(|name| name.is_empty() || name.contains(['/', '\0'])) {
        return Err(bad_domain(bad));
    }
    let first = names.first().ok_or_else(|| bad_domain(""))?;
    let certificate = dir.join(format!("self-signed-{first}.crt"));
    let key = dir.join(format!("self-signed-{first}.key"));
    let there = certificate.exists() && key.exists();
    if there && lacking(&certificate, names)?.is_empty() {
        return Ok((certificate, key));
    }
    let kept = there.then(|| read(&key)).transpose()?;
    let kept = kept.and_then(|text| KeyPair::from_pem(std::str::from_utf8(&text).ok()?).ok());
    files::private_folder(dir).map_err(|error| SiteError::Unwritable(dir.to_owned(), error))?;
    let pair = match kept {
        Some(pair) => pair,
        None => {
            let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
                .map_err(|error| SiteError::Made(error.to_string()))?;
            // The certificate comes last, so that a pair cut short by a crash is seen as missing.
            let secret = Zeroizing::new(pair.serialize_pem());
            files::replace_file(&key, secret.as_bytes(), Access::Private)
                .map_err(|error| SiteError::Unwritable(key.clone(), error))?;
            pair
        }
    };
    let chain = made(names, &pair).map_err(|_| bad_domain(first))?;
    files::replace_file(&certificate, chain.as_bytes(), Access::Public)
        .map_err(|error| SiteError::Unwritable(certificate.clone(), error))?;
    Ok((certificate, key))
}

/// The names among these that the certificate in a file is not for.
pub fn lacking(certificate: &Path, names: &[&str]) -> Result<Vec<String>, SiteError> {
    let files = Files { certificate: certificate.to_owned(), key: PathBuf::new() };
    let chain = Chain::read(&files.chain()?).ok_or_else(|| SiteError::BadCertificate(certificate.to_owned()))?;
    Ok(chain.lacking(names.iter().copied()))
}

/// Whether the certificate in a file is signed by itself. One that cannot be read is told elsewhere.
pub fn is_self_signed(certificate: &Path) -> bool {
    let files = Files { certificate: certificate.to_owned(), key: PathBuf::new() };
    files.chain().ok().and_then(|chain| Chain::read(&chain)).is_some_and(|chain| chain.self_signed)
}

/// Until when the certificate in a file, with its key, is good, if it is for all of these names.
pub(super) fn good_until(file: &Path, names: &[String]) -> Option<UnixTime> {
    let pair = Files { certificate: file.to_owned(), key: file.to_owned() }.load().ok()?;
    let lacking = Chain::read(&pair.cert)?.lacking(names.iter().map(String::as_str));
    validity_of(&pair).filter(|_| lacking.is_empty()).map(|validity| validity.not_after)
}

fn validity_of(pair: &CertifiedKey) -> Option<Validity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(pair.cert.first()?).ok()?;
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(Validity { not_before: UnixTime(not_before), not_after: UnixTime(not_after) })
}

/// A certificate of this key as PEM.
fn made(names: &[&str], key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, names.first().copied().unwrap_or_default());
    params.distinguished_name = name;
    // In form and dates like the one that Debian makes for every new machine (ssl-cert): good from this second on.
    params.is_ca = IsCa::ExplicitNoCa;
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    params.not_after = params.not_before + VALID;
    Ok(params.self_signed(key)?.pem())
}

/// The issued certificate if there is one, else what stands in for it.
fn load(files: &Files, issued: Option<&Files>) -> Result<Loaded, SiteError> {
    match issued {
        Some(issued) if issued.certificate.exists() => issued.load().map(|pair| (pair, false)),
        issued => files.load().map(|pair| (pair, issued.is_some())),
    }
    .map(|(pair, stands_in)| Loaded { certified: Arc::new(pair), stands_in })
}

fn stamps(files: &Files, issued: Option<&Files>) -> [Option<Stamp>; 3] {
    let issued = issued.and_then(|issued| Stamp::of(&issued.certificate));
    [Stamp::of(&files.certificate), Stamp::of(&files.key), issued]
}

/// Paths of certificate and key.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn load(&self) -> Result<CertifiedKey, SiteError> {
        let chain = self.chain()?;
        let key = self.private_key()?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                SiteError::Mismatch { certificate: self.certificate.clone(), key: self.key.clone() }
            }
            rustls::Error::InvalidCertificate(_) => SiteError::BadCertificate(self.certificate.clone()),
            _ => SiteError::BadKey(self.key.clone()),
        })
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, SiteError> {
        let text = read(&self.certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        match chain {
            Ok(chain) if chain.is_empty() => Err(SiteError::NoCertificate(self.certificate.clone())),
            Ok(chain) => Ok(chain),
            Err(_) => Err(SiteError::NotPem(self.certificate.clone())),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, SiteError> {
        PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| match error {
            pem::Error::NoItemsFound => SiteError::NoKey(self.key.clone()),
            _ => SiteError::NotPem(self.key.clone()),
        })
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SiteError> {
    fs::read(path).map(Zeroizing::new).map_err(|error| SiteError::Unreadable(path.to_owned(), error))
}

/// Properties that change when a file is written again or another one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let meta = fs::metadata(path).ok()?;
        Some(Stamp { inode: meta.ino(), length: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

/// Properties of the files at the last check, and the time of the next one.
struct Watch {
    seen: [Option<Stamp>; 3],
    next: Instant,
}

/// Interval at which the files are checked.
const INTERVAL: Duration = Duration::from_secs(2);

/// Validity of a self-signed certificate. No one checks it, and no one should have to renew it.
const VALID: Duration = Duration::from_secs(3650 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn watched(certificate: &Path, key: &Path) -> Watched {
        let mut watched = Watched::open(certificate, key, None).unwrap();
        watched.interval = Duration::ZERO;
        watched.watch.get_mut().unwrap().next = Instant::now();
        watched
    }

    fn failure(certificate: &Path, key: &Path) -> String {
        Watched::open(certificate, key, None).unwrap_err().to_string()
    }

    #[test]
    fn follows_its_files_and_keeps_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let (one, one_key) = self_signed(&["one.example"], dir.path()).unwrap();
        let (two, two_key) = self_signed(&["two.example"], dir.path()).unwrap();
        let (certificate, key) = (dir.path().join("site.crt"), dir.path().join("site.key"));
        fs::copy(&one, &certificate).unwrap();
        fs::copy(&one_key, &key).unwrap();
        let watched = watched(&certificate, &key);
        let first = watched.current().certified.clone();

        fs::write(&certificate, "-----BEGIN").unwrap();
        assert_eq!(watched.current().certified.cert, first.cert, "a damaged file changes nothing");
        fs::copy(&two, &certificate).unwrap();
        assert_eq!(watched.current().certified.cert, first.cert, "half of a new pair changes nothing");
        fs::remove_file(&key).unwrap();
        assert_eq!(watched.current().certified.cert, first.cert, "a missing file changes nothing");
        fs::copy(&two_key, &key).unwrap();
        let second = watched.current().certified.clone();
        assert_ne!(second.cert, first.cert, "the new pair is taken");
        assert!(second.keys_match().is_ok());
        assert!(Arc::ptr_eq(&second, &watched.current().certified), "what did not change is not read again");
    }

    #[test]
    fn a_self_signed_certificate_is_for_all_names_and_made_again_for_others_under_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(&["a.example"], dir.path()).unwrap();
        let (first, secret) = (fs::read(&certificate).unwrap(), fs::read(&key).unwrap());
        let names = ["a.example", "b.example", "c.example"];
        assert_eq!(lacking(&certificate, &names).unwrap(), names[1..]);
        assert_eq!(self_signed(&names, dir.path()).unwrap(), (certificate.clone(), key.clone()));
        let second = fs::read(&certificate).unwrap();
        assert!(first != second && lacking(&certificate, &names).unwrap().is_empty());
        assert!(fs::read(&key).unwrap() == secret, "a pair fits at every moment");
        let watched = Watched::open(&certificate, &key, None).unwrap();
        assert!(watched.is_for(&names.map(str::to_owned)) && !watched.is_for(&["d.example".to_owned()]));
        self_signed(&names[..2], dir.path()).unwrap();
        assert!(fs::read(&certificate).unwrap() == second, "one for more names is good for fewer");
    }

    #[test]
    fn looks_at_the_files_only_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(&["one.example"], dir.path()).unwrap();
        let watched = Watched::open(&certificate, &key, None).unwrap();
        fs::remove_file(&certificate).unwrap();
        assert!(!watched.changed());
    }

    #[test]
    fn an_issued_certificate_takes_the_place_of_what_stands_in() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(&["one.example"], dir.path()).unwrap();
        let (better, better_key) = self_signed(&["two.example"], dir.path()).unwrap();
        let issued = dir.path().join("issued.pem");
        let mut watched = Watched::open(&certificate, &key, Some(issued.clone())).unwrap();
        watched.interval = Duration::ZERO;
        watched.watch.get_mut().unwrap().next = Instant::now();
        let stand_in = watched.current().certified.clone();
        assert_eq!(watched.validity(), None, "one that stands in has no end that matters");
        let pem = [fs::read(&better_key).unwrap(), fs::read(&better).unwrap()].concat();
        fs::write(&issued, &pem).unwrap();
        let found = watched.current().certified.clone();
        assert!(found.cert != stand_in.cert && watched.validity().is_some());
        fs::write(&issued, "damaged").unwrap();
        assert_eq!(watched.current().certified.cert, found.cert, "a damaged one changes nothing");
        let reopened = Watched::open(&certificate, &key, Some(issued.clone())).unwrap();
        assert!(reopened.current().certified.cert == stand_in.cert && reopened.validity().is_none());
        fs::write(&issued, &pem).unwrap();
        assert!(reopened.reload().unwrap() && reopened.validity().is_some());
    }

    #[test]
    fn complaints_name_the_file_and_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = self_signed(&["one.example"], dir.path()).unwrap();
        let (_, other_key) = self_signed(&["two.example"], dir.path()).unwrap();
        let missing = dir.path().join("missing.pem");
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let damaged = dir.path().join("damaged.pem");
        fs::write(&damaged, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
        let table = [
            (missing.as_path(), key.as_path(), "missing.pem: No such file"),
            (&certificate, &missing, "missing.pem: No such file"),
            (&empty, &key, "empty.pem holds no certificate"),
            (&certificate, &empty, "empty.pem holds no private key"),
            (&key, &key, "self-signed-one.example.key holds no certificate"),
            (&certificate, &certificate, "self-signed-one.example.crt holds no private key"),
            (&damaged, &key, "damaged.pem is not valid PEM"),
            (&certificate, &other_key, "two.example.key does not belong to the certificate in"),
        ];
        for (certificate, key, complaint) in table {
            let text = failure(certificate, key);
            assert!(text.contains(complaint), "{text:?} should say {complaint:?}");
        }
    }

    #[test]
    fn self_signed_pair_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (certificate, key) = self_signed(&["example.org"], &state).unwrap();
        let first = fs::read(&certificate).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(self_signed(&["example.org"], &state).unwrap(), (certificate.clone(), key.clone()));
        assert_eq!(fs::read(&certificate).unwrap(), first, "an existing pair is kept");
        fs::remove_file(&certificate).unwrap();
        self_signed(&["example.org"], &state).unwrap();
        assert!(Watched::open(&certificate, &key, None).is_ok(), "half a pair is replaced as a whole");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn self_signed_refuses_names_that_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        for domain in ["", "../evil", "a/b", "a\0b"] {
            assert!(matches!(self_signed(&[domain], dir.path()), Err(SiteError::BadDomain(_))), "{domain:?}");
        }
    }
}
