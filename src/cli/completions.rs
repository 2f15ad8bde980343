//! `lockkeeper completions`

use clap::{Args, Command, ValueEnum};
use clap_complete::{Generator, shells};

use crate::protocol::exit;

use super::say;

/// Print a completion script for your shell
///
/// It knows the verbs, their options and what these take. Where a shell looks for such scripts,
/// packaging/README.md tells.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper completions bash > ~/.local/share/bash-completion/completions/lockkeeper
  lockkeeper completions fish > ~/.config/fish/completions/lockkeeper.fish")]
pub(super) struct Completions {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
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
        say(&match self.shell {
            Shell::Bash => script(shells::Bash, lockkeeper),
            Shell::Fish => script(shells::Fish, lockkeeper),
            Shell::Zsh => script(shells::Zsh, lockkeeper),
        });
        exit::OK
    }
}

fn script(shell: impl Generator, mut lockkeeper: Command) -> String {
    let name = lockkeeper.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut lockkeeper, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
