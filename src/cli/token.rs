//! `vizard token`: makes a token for the admin listener.

use rand::CryptoRng;

use super::{Failure, output};
use crate::ops::admin::Role;
use crate::ops::admin::token::{TokenHash, generate};

/// Flags of `vizard token`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Role of the token: metrics, viewer (all but secrets), operator (users and sessions) or admin (all)
    #[arg(value_name = "metrics|viewer|operator|admin")]
    role: String,
    /// Who uses it; shown in the log of actions
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Prints a new token, and the lines for the configuration to the standard error stream.
pub fn token(arguments: &Arguments, random: &mut impl CryptoRng) -> Result<(), Failure> {
    let role: Role = arguments.role.parse().map_err(|_| {
        let message = format!("there is no role {}", crate::config::report::quoted(&arguments.role));
        Failure::usage(message, "name one of these: metrics, viewer, operator, admin")
    })?;
    let name = arguments.name.as_deref().unwrap_or(role.label());
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if name.is_empty() || name.chars().count() > 64 || !name.chars().all(fine) {
        return Err(Failure::usage(
            "this cannot be the name of a token",
            "use 1 to 64 letters, digits, `-`, `_`, `.` and `@`",
        ));
    }
    let token = generate(random);
    let hash = TokenHash::of(&token);
    // The token alone is what a script keeps: `vizard token metrics > file`.
    output::print(&*token);
    output::complain(format!(
        "\nKeep it: it is not shown again. Add these lines to the configuration:\n\n\
         [[admin.tokens]]\nname = \"{name}\"\nrole = \"{role}\"\nhash = \"{hash}\""
    ));
    Ok(())
}
