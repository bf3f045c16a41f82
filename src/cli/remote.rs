//! What `vizard status` and `vizard top` share: the way to the admin listener of the running proxy.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Failure, Settings, load};
use crate::config::Environment;
use crate::config::resolve::read_secret_file;
use crate::ops::admin::AdminAddress;
use crate::ops::admin::client::{Client, ClientError};

/// Flags that name the admin listener.
#[derive(clap::Args)]
pub struct Access {
    /// Address of the admin listener; default: `admin.listen` of the configuration
    #[arg(long, value_name = "URL|unix:PATH")]
    admin: Option<String>,
    /// File with the token [environment: VIZARD_ADMIN_TOKEN holds the token itself]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates to trust for https, in place of the usual ones
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Access {
    /// The way to the listener.
    pub fn client(&self, environment: &Environment) -> Result<Client, Failure> {
        let token = self.token(environment)?;
        if let Some(url) = &self.admin {
            return Client::at(url, self.ca.as_deref(), token).map_err(Failure::from);
        }
        let admin = load(&self.settings.flags(), environment)?.draft.admin.ok_or_else(|| {
            Failure::usage(
                "the configuration has no admin listener",
                "add a section [admin], or name a listener: --admin URL",
            )
        })?;
        let chosen_later = matches!(admin.place, AdminAddress::Tcp(address) if address.port() == 0);
        if admin.tls.is_some() || chosen_later {
            let message = "the configuration does not say under which name the admin listener is to be reached";
            return Err(Failure::usage(message, "name it: --admin https://NAME:PORT"));
        }
        Ok(Client::local(&admin.place, token))
    }

    fn token(&self, environment: &Environment) -> Result<Option<Zeroizing<String>>, Failure> {
        match &self.token_file {
            None => {
                let stated = environment.value("VIZARD_ADMIN_TOKEN").and_then(|value| value.to_str());
                Ok(stated.map(|token| Zeroizing::new(token.trim().to_owned())))
            }
            Some(file) => match read_secret_file(file) {
                Ok((token, _)) => Ok(Some(Zeroizing::new(token))),
                Err(error) => Err(Failure::usage(
                    format!("the file with the token cannot be read: {error}"),
                    "check the path and its permissions",
                )),
            },
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.to_string(), error.fix())
    }
}
