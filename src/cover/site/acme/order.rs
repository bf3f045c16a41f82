//! One order: account, challenge, request, certificate.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::challenge::{Challenges, Shown};
use super::http::Road;
use super::store::{self, Store};
use super::trouble::Trouble;
use super::{Challenge, Settings};

/// Schedule for asking the authority whether it has decided: after half a second, and then less and less often.
const POLLS: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.4).timeout(Duration::from_secs(180));

/// Orders a certificate with a fresh key. Returns both as PEM.
pub(super) async fn obtain(
    settings: &Settings,
    store: &Store,
    challenges: &Arc<Challenges>,
) -> Result<Zeroizing<String>, Trouble> {
    let road = Road::to(&settings.authority)?;
    let ordering = Ordering { settings, store, challenges, road };
    let mut order = ordering.order().await?;
    let failed = |error: Error| ordering.trouble(&error);
    if order.state().status == OrderStatus::Pending {
        ordering.prove(&mut order).await?;
    }
    let key =
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| Trouble::unfit(&error.to_string()))?;
    let request = request(&settings.names, &key).map_err(|error| Trouble::unfit(&error.to_string()))?;
    order.finalize_csr(&request).await.map_err(failed)?;
    let chain = order.poll_certificate(&POLLS).await.map_err(failed)?;
    pair(&chain, &key)
}

struct Ordering<'a> {
    settings: &'a Settings,
    store: &'a Store,
    challenges: &'a Arc<Challenges>,
    road: Road,
}

impl Ordering<'_> {
    fn trouble(&self, error: &Error) -> Trouble {
        Trouble::of(error, self.settings, self.road.refused())
    }

    /// A new order, and for that an account. One that the authority does not know any more is replaced.
    async fn order(&self) -> Result<Order, Trouble> {
        let names: Vec<_> = self.settings.names.iter().cloned().map(Identifier::Dns).collect();
        let ordered = match self.account().await {
            Ok(account) => account.new_order(&NewOrder::new(&names)).await.map_err(Failed::At),
            Err(failed) => Err(failed),
        };
        match ordered {
            Err(Failed::At(error)) if is_unknown(&error) => {
                tracing::warn!("the authority does not know the account any more; a new one is made");
                self.store.forget_account();
                let account = self.account().await.map_err(|failed| failed.trouble(self))?;
                account.new_order(&NewOrder::new(&names)).await.map_err(|error| self.trouble(&error))
            }
            ordered => ordered.map_err(|failed| failed.trouble(self)),
        }
    }

    /// The account, which is made at the first order.
    async fn account(&self) -> Result<Account, Failed> {
        let authority = &self.settings.authority;
        let contact = authority.email.iter().map(|email| format!("mailto:{email}")).collect::<Vec<_>>();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let builder = Account::builder_with_http(Box::new(self.road.clone()));
        if let Some(kept) = self.store.account()? {
            let account = builder.from_credentials(kept.credentials).await?;
            if kept.email != authority.email {
                account.update_contacts(&contact).await?;
                self.remember(authority.email.clone())?;
            }
            return Ok(account);
        }
        let external = authority.external.as_ref().map(|external| external_key(&external.id, &external.key_file));
        let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder.create(&wanted, authority.directory.to_string(), external.transpose()?.as_ref()).await?;
        let (account, credentials) = made;
        self.store.keep_account(&store::Account { email: authority.email.clone(), credentials })?;
        Ok(account)
    }

    /// Writes down what address the authority was told.
    fn remember(&self, email: Option<String>) -> Result<(), Trouble> {
        match self.store.account()? {
            Some(kept) => self.store.keep_account(&store::Account { email, ..kept }),
            None => Ok(()),
        }
    }

    /// Shows the authority that the names are ours.
    async fn prove(&self, order: &mut Order) -> Result<(), Trouble> {
        let failed = |error: Error| self.trouble(&error);
        let wanted = self.settings.authority.challenge;
        let mut shown = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let kind = kind(wanted);
            let mut challenge = authorization.challenge(kind).ok_or_else(|| Trouble::unoffered(wanted))?;
            let proof = challenge.key_authorization();
            let name = challenge.identifier().to_string();
            shown.push(self.show(&name, &challenge.token, proof.as_str(), proof.digest().as_ref())?);
            challenge.set_ready().await.map_err(failed)?;
        }
        match order.poll_ready(&POLLS).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
            Ok(_) => Err(self.refusal(order).await.unwrap_or_else(|| Trouble::unsaid("the proof failed"))),
            Err(error @ Error::Api(_)) => Err(self.refusal(order).await.unwrap_or_else(|| failed(error))),
            Err(error) => Err(failed(error)),
        }
    }

    fn show(&self, domain: &str, token: &str, answer: &str, digest: &[u8]) -> Result<Shown, Trouble> {
        match self.settings.authority.challenge {
            Challenge::Http01 => Ok(self.challenges.by_http(token, answer)),
            Challenge::TlsAlpn01 => {
                let shown = self.challenges.by_tls(domain, digest);
                shown.ok_or_else(|| Trouble::unfit(&format!("no certificate can be made for {domain}")))
            }
        }
    }

    /// Objection of the authority to the proof, which stands with the challenge.
    async fn refusal(&self, order: &mut Order) -> Option<Trouble> {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let state = authorization.refresh().await.ok()?;
            let problem: Option<&Problem> = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = problem {
                let name = state.identifier().to_string();
                return Some(Trouble::of_problem(problem, &name, self.settings, self.road.refused()));
            }
        }
        None
    }
}

/// Failure of an order: here, or at the authority.
enum Failed {
    Here(Trouble),
    At(Error),
}

impl Failed {
    fn trouble(self, ordering: &Ordering<'_>) -> Trouble {
        match self {
            Self::Here(trouble) => trouble,
            Self::At(error) => ordering.trouble(&error),
        }
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Here(trouble)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::At(error)
    }
}

fn is_unknown(error: &Error) -> bool {
    let Error::Api(Problem { r#type: Some(kind), .. }) = error else { return false };
    kind == "urn:ietf:params:acme:error:accountDoesNotExist"
}

fn kind(challenge: Challenge) -> ChallengeType {
    match challenge {
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Challenge::Http01 => ChallengeType::Http01,
    }
}

/// The key of an account elsewhere, in either of the two alphabets of base64.
fn external_key(id: &str, file: &Path) -> Result<ExternalAccountKey, Trouble> {
    let text = fs::read_to_string(file).map(Zeroizing::new).map_err(|error| Trouble::store(file, &error))?;
    let text = text.trim().trim_end_matches('=');
    let key = BASE64URL_NOPAD.decode(text.as_bytes()).ok().or_else(|| {
        let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
        BASE64.decode(padded.as_bytes()).ok()
    });
    let key = Zeroizing::new(key.filter(|key| !key.is_empty()).ok_or_else(|| Trouble::external(file))?);
    Ok(ExternalAccountKey::new(id.to_owned(), &key))
}

fn request(names: &[String], key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Key and chain as PEM, once it is sure that they belong together.
fn pair(chain: &str, key: &KeyPair) -> Result<Zeroizing<String>, Trouble> {
    let secret = PrivateKeyDer::try_from(key.serialize_der()).map_err(Trouble::unfit)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let certificates = certificates.map_err(|error| Trouble::unfit(&error.to_string()))?;
    CertifiedKey::from_der(certificates, secret, &aws_lc_rs::default_provider())
        .map_err(|error| Trouble::unfit(&error.to_string()))?;
    let key = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}\n{}\n", key.trim_end(), chain.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_one_only_if_its_halves_belong_together() {
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let pem = pair(&chain, &key).unwrap();
        assert!(pem.contains("PRIVATE KEY") && pem.contains("BEGIN CERTIFICATE"));
        assert!(pair(&chain, &KeyPair::generate().unwrap()).is_err());
        assert!(pair("", &key).is_err() && pair("-----BEGIN CERTIFICATE-----", &key).is_err());
    }

    #[test]
    fn keys_of_accounts_elsewhere_come_in_both_alphabets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("eab");
        for (text, good) in [("-_-_", true), ("+/+/\n", true), ("-_8", true), ("+/8=", true), ("", false), ("?", false)]
        {
            fs::write(&file, text).unwrap();
            assert_eq!(external_key("id", &file).is_ok(), good, "{text:?}");
        }
        let trouble = external_key("id", &folder.path().join("none")).err().unwrap();
        assert!(trouble.what.contains("none"), "{trouble:?}");
    }
}
