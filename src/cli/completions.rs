//! `lockkeeper completions`
#![allow(clippy::disallowed_methods)]

use std::{env, path::PathBuf};

use clap::{Args, Command, ValueEnum};
use clap_complete::{Generator, shells};

use crate::protocol::exit;

use super::{fail, say};

/// Print a completion script for your shell
///
/// It knows the verbs, their options and what these take. Where a shell looks for such scripts,
/// packaging/README.md tells.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper completions bash > ~/.local/share/bash-completion/completions/lockkeeper
  lockkeeper completions fish > ~/.config/fish/completions/lockkeeper.fish")]
pub(super) struct Completions {
    /// For which shell [default: that of $SHELL].
    #[arg(value_enum)]
    shell: Option<Shell>,
}

/// The shells for which there is a script.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

impl Completions {
    /// `lockkeeper` is the whole command line that the script completes.
    pub(super) fn run(self, lockkeeper: Command) -> u8 {
        let Some(shell) = self.shell.or_else(Shell::of_user) else {
            return fail(
                exit::FAILURE,
                "$SHELL does not tell for which shell; say bash, fish or zsh",
            );
        };
        say(&match shell {
            Shell::Bash => script(shells::Bash, lockkeeper),
            Shell::Fish => script(shells::Fish, lockkeeper),
            Shell::Zsh => script(shells::Zsh, lockkeeper),
        });
        exit::OK
    }
}

impl Shell {
    /// The one that the user logs in with.
    fn of_user() -> Option<Self> {
        let path = PathBuf::from(env::var_os("SHELL")?);
        let name = path.file_name()?.to_str()?;
        Self::from_str(name, false).ok()
    }
}

fn script(shell: impl Generator, mut lockkeeper: Command) -> String {
    let name = lockkeeper.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut lockkeeper, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
