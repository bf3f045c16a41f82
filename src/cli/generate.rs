//! `vizard generate`: manual pages, completions and the schema of configuration files, for packages and editors.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap_complete::Shell;

use super::{Failure, output};
use crate::config::reference;

/// Flags of `vizard generate`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    wish: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Write a manual page for every command into a folder
    Man {
        /// The folder, which is made if need be
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a JSON schema of configuration files, which editors of TOML take too
    Schema,
}

/// Writes or prints what is wished.
pub fn generate(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.wish {
        Subcommand::Man { folder } => man(folder).map_err(|error| {
            let next = "name a folder that this user may write to";
            Failure::new(format!("the pages cannot be written to {}: {error}", folder.display()), next)
        }),
        Subcommand::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut super::command(), "vizard", &mut text);
            output::print(String::from_utf8_lossy(&text).trim_end());
            Ok(())
        }
        Subcommand::Schema => {
            output::print(format!("{:#}", reference::schema()));
            Ok(())
        }
    }
}

fn man(folder: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(super::command(), folder)
}
