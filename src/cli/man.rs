//! `lockkeeper man`
#![allow(clippy::disallowed_methods)]

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Command, ValueHint};
use clap_mangen::Man;

use crate::protocol::exit;

use super::{fail, say};

/// Print the manual page of lockkeeper, or of one of its verbs
///
/// In roff, the language of manual pages.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  lockkeeper man restart | man -l -
  lockkeeper man --out ~/.local/share/man/man1")]
pub(super) struct ManPages {
    /// The page of this verb alone.
    verb: Option<String>,
    /// Write all pages into this folder, which must be there: lockkeeper.1, lockkeeper-run.1, ...
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "verb")]
    out: Option<PathBuf>,
}

impl ManPages {
    /// `lockkeeper` is the whole command line that the pages tell of.
    pub(super) fn run(self, lockkeeper: Command) -> u8 {
        let pages = pages(lockkeeper);
        if let Some(folder) = self.out {
            return match pages.iter().try_for_each(|page| page.write(&folder)) {
                Ok(()) => exit::OK,
                Err(error) => fail(exit::CANNOT_CREATE, error),
            };
        }
        let wanted = self.verb.map_or_else(|| OWN.to_owned(), |verb| format!("{OWN}-{verb}"));
        let Some(page) = pages.iter().find(|page| page.name == wanted) else {
            let verbs = pages.iter().filter_map(|page| page.name.strip_prefix(OWN)?.get(1..));
            let verbs: Vec<_> = verbs.collect();
            return fail(exit::USAGE, format!("no such verb; there are {}", verbs.join(", ")));
        };
        say(&page.text);
        exit::OK
    }
}

/// The page that is not of a verb.
const OWN: &str = "lockkeeper";

/// One page.
struct Page {
    /// As `man` is asked for it: `lockkeeper-restart`.
    name: String,
    text: String,
}

impl Page {
    fn of(command: Command) -> Self {
        let name = command.get_display_name().unwrap_or(OWN).to_owned();
        let mut text = Vec::new();
        // Fails only where its writer does.
        let _ = Man::new(command).render(&mut text);
        Self { name, text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// Into a folder that others may write to: a link that lies there is not followed.
    fn write(&self, folder: &Path) -> Result<(), String> {
        let path = folder.join(format!("{}.1", self.name));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new();
            let file = file.write(true).create(true).truncate(true).mode(0o644);
            file.custom_flags(libc::O_NOFOLLOW).open(&path)?.write_all(self.text.as_bytes())
        };
        written().map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// The page of all, and one for each verb.
fn pages(lockkeeper: Command) -> Vec<Page> {
    let mut lockkeeper = lockkeeper.disable_help_subcommand(true);
    lockkeeper.build();
    let verbs: Vec<_> = lockkeeper.get_subcommands().cloned().collect();
    [lockkeeper].into_iter().chain(verbs).map(Page::of).collect()
}
