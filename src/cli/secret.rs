//! `vizard secret`: makes a secret.

use rand::CryptoRng;

use super::{Failure, output};
use crate::auth::{Domain, Secret};

/// Flags of `vizard secret`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print the form that links carry, with this domain inside
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Print base64url instead of hexadecimal
    #[arg(long)]
    base64: bool,
}

/// Prints a new secret and keeps it nowhere.
pub fn secret(arguments: &Arguments, random: &mut impl CryptoRng) -> Result<(), Failure> {
    output::print(text(arguments, &Secret::generate(random))?);
    Ok(())
}

fn text(arguments: &Arguments, secret: &Secret) -> Result<String, Failure> {
    let domain = arguments.domain.as_deref().map(str::parse::<Domain>).transpose();
    let domain = domain.map_err(|error| Failure::usage(format!("--domain: {error}"), error.fix()))?;
    Ok(match (domain, arguments.base64) {
        (None, false) => secret.hex(),
        (None, true) => secret.base64url(),
        (Some(domain), false) => secret.ee_hex(&domain),
        (Some(domain), true) => secret.ee_base64url(&domain),
    })
}
