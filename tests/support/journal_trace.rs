//! What a disk holds after a power cut: the writes of a traced process, played onto a disk that
//! keeps what was synced, and of all else whatever it likes.
#![allow(unreachable_pub, reason = "a module of each test crate that uses it")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the traced process did, in order.
#[derive(Clone, Debug)]
pub enum Call {
    /// A name came to be, for an empty file.
    Create(String),
    Write {
        name: String,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        name: String,
        size: u64,
    },
    /// Of a file.
    Sync(String),
    /// Of the folder: its names are durable.
    SyncFolder,
    Rename(String, String),
    Unlink(String),
    /// A line of what was acknowledged.
    Acknowledged(String),
}

/// Runs a command under strace, and gives what it did in `folder` and wrote to `acknowledged`.
///
/// # Panics
///
/// Without strace, or where it may not trace; with the reason.
pub fn trace(command: &Command, folder: &Path, acknowledged: &Path) -> Vec<Call> {
    let output = folder.with_extension("trace");
    let mut strace = Command::new("strace");
    let calls = "trace=?open,openat,pwrite64,write,ftruncate,fdatasync,fsync,?unlink,unlinkat,\
                 ?rename,?renameat,renameat2";
    strace.args(["-f", "-y", "-xx", "-s", "100000", "-e", calls, "-e", "signal=none", "-o"]);
    strace.arg(&output).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        strace.env(key, value.expect("set"));
    }
    let ran = strace.output().unwrap_or_else(|e| {
        panic!("strace is needed to see what is synced ({e}): apt-get install strace")
    });
    assert!(
        ran.status.success(),
        "the workload under strace failed; is ptrace allowed here?\n{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    let text = fs::read_to_string(&output).unwrap();
    fs::remove_file(&output).unwrap();
    Parser { folder, acknowledged, syncing: BTreeMap::new() }.parse(&text)
}

struct Parser<'a> {
    folder: &'a Path,
    acknowledged: &'a Path,
    /// Syncs that have begun, by thread.
    syncing: BTreeMap<&'a str, Call>,
}

impl<'a> Parser<'a> {
    /// What changes a file counts from its beginning, a sync from its end: whichever is worse.
    fn parse(mut self, text: &'a str) -> Vec<Call> {
        let mut calls = Vec::new();
        for line in text.lines() {
            let (thread, rest) = line.split_once(' ').expect("a thread's number");
            let rest = rest.trim_start();
            if let Some(resumed) = rest.strip_prefix("<... ") {
                let ended = self.syncing.remove(thread);
                calls.extend(ended.filter(|_| resumed.contains("sync resumed")));
                continue;
            }
            let Some((name, arguments)) = rest.split_once('(') else { continue };
            let Some(call) = self.call(name, arguments) else { continue };
            let is_sync = matches!(call, Call::Sync(_) | Call::SyncFolder);
            if is_sync && rest.ends_with("<unfinished ...>") {
                self.syncing.insert(thread, call);
            } else {
                calls.push(call);
            }
        }
        calls
    }

    fn call(&self, name: &str, arguments: &str) -> Option<Call> {
        let strings = strings(arguments);
        let path_of = |index: usize| -> Option<PathBuf> {
            Some(PathBuf::from(String::from_utf8(strings.get(index)?.clone()).ok()?))
        };
        match name {
            "open" | "openat" if arguments.contains("O_CREAT") => {
                Some(Call::Create(self.name(&path_of(0)?)?))
            }
            "unlink" | "unlinkat" => Some(Call::Unlink(self.name(&path_of(0)?)?)),
            "rename" | "renameat" | "renameat2" => {
                Some(Call::Rename(self.name(&path_of(0)?)?, self.name(&path_of(1)?)?))
            }
            "write" if opened(arguments)? == self.acknowledged => {
                let line = String::from_utf8(strings[0].clone()).unwrap();
                Some(Call::Acknowledged(line.trim_end().to_owned()))
            }
            "pwrite64" => {
                let name = self.name(&opened(arguments)?)?;
                let offset = number(arguments, 3).expect("an offset");
                Some(Call::Write { name, offset, data: strings[0].clone() })
            }
            "ftruncate" => {
                let name = self.name(&opened(arguments)?)?;
                Some(Call::Truncate { name, size: number(arguments, 1).expect("a size") })
            }
            "fsync" | "fdatasync" => {
                let path = opened(arguments)?;
                if path == self.folder {
                    return Some(Call::SyncFolder);
                }
                Some(Call::Sync(self.name(&path)?))
            }
            _ => None,
        }
    }

    /// Of a file in the folder. The shared memory is none: it is built anew after a crash.
    fn name(&self, path: &Path) -> Option<String> {
        let name = path.strip_prefix(self.folder).ok()?.to_str()?.to_owned();
        Some(name).filter(|name| !name.is_empty() && !name.ends_with("-shm"))
    }
}

/// The quoted strings of a call, decoded.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    arguments.split('"').skip(1).step_by(2).map(unescape).collect()
}

/// What the first argument, a descriptor, stands for.
fn opened(arguments: &str) -> Option<PathBuf> {
    let (_, rest) = arguments.split_once('<')?;
    let (path, _) = rest.split_once('>')?;
    Some(PathBuf::from(String::from_utf8(unescape(path)).ok()?))
}

fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len() / 4);
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' && bytes.get(at + 1) == Some(&b'x') {
            plain.push(u8::from_str_radix(&text[at + 2..at + 4], 16).unwrap());
            at += 4;
        } else {
            plain.push(bytes[at]);
            at += 1;
        }
    }
    plain
}

/// The argument at this place, which is a number. No string of ours has a comma: all are in hex.
fn number(arguments: &str, index: usize) -> Option<u64> {
    let text = arguments.split(", ").nth(index)?;
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A disk with one folder.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: Vec<File>,
    /// Names as the process sees them.
    names: BTreeMap<String, usize>,
    /// Names that are durable, and what was done to them since.
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Renaming>,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Clone, Debug)]
enum Renaming {
    Put(String, usize),
    Remove(String),
    Move(String, String),
}

/// What the disk does with what was not synced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unsynced {
    /// It is lost.
    Lost,
    /// Any part of it is kept, in sectors, in any order.
    Torn,
    /// It is there.
    Kept,
}

const SECTOR: usize = 512;

impl Disk {
    pub fn take(&mut self, call: &Call) {
        match call {
            Call::Create(name) => {
                if !self.names.contains_key(name) {
                    self.files.push(File::default());
                    self.rename(Renaming::Put(name.clone(), self.files.len() - 1));
                }
            }
            Call::Write { name, offset, data } => {
                self.change(name, Change::Write(*offset, data.clone()));
            }
            Call::Truncate { name, size } => self.change(name, Change::Truncate(*size)),
            Call::Sync(name) => {
                if let Some(&index) = self.names.get(name) {
                    let File { durable, pending } = &mut self.files[index];
                    for change in pending.drain(..) {
                        apply(durable, &change);
                    }
                }
            }
            Call::SyncFolder => {
                for renaming in self.pending_names.drain(..) {
                    rename(&mut self.durable_names, &renaming);
                }
            }
            Call::Rename(from, to) => self.rename(Renaming::Move(from.clone(), to.clone())),
            Call::Unlink(name) => self.rename(Renaming::Remove(name.clone())),
            Call::Acknowledged(_) => {}
        }
    }

    fn rename(&mut self, renaming: Renaming) {
        rename(&mut self.names, &renaming);
        self.pending_names.push(renaming);
    }

    fn change(&mut self, name: &str, change: Change) {
        if let Some(&index) = self.names.get(name) {
            self.files[index].pending.push(change);
        }
    }

    /// Lays out in `folder` what is found after the power is back.
    pub fn lay_out(&self, folder: &Path, unsynced: Unsynced, rng: &mut fastrand::Rng) {
        let mut names = self.durable_names.clone();
        // A file system keeps the order of names, as all that are in use do.
        let kept = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Torn => rng.usize(..=self.pending_names.len()),
            Unsynced::Kept => self.pending_names.len(),
        };
        for renaming in &self.pending_names[..kept] {
            rename(&mut names, renaming);
        }
        for (name, index) in names {
            let File { durable, pending } = &self.files[index];
            let mut content = durable.clone();
            for change in pending {
                tear(&mut content, change, unsynced, rng);
            }
            fs::write(folder.join(name), content).unwrap();
        }
    }
}

fn rename(names: &mut BTreeMap<String, usize>, renaming: &Renaming) {
    match renaming {
        Renaming::Put(name, index) => {
            names.insert(name.clone(), *index);
        }
        Renaming::Remove(name) => {
            names.remove(name);
        }
        Renaming::Move(from, to) => {
            if let Some(index) = names.remove(from) {
                names.insert(to.clone(), index);
            }
        }
    }
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let offset = usize::try_from(*offset).unwrap();
            if content.len() < offset + data.len() {
                content.resize(offset + data.len(), 0);
            }
            content[offset..offset + data.len()].copy_from_slice(data);
        }
        Change::Truncate(size) => content.resize(usize::try_from(*size).unwrap(), 0),
    }
}

fn tear(content: &mut Vec<u8>, change: &Change, unsynced: Unsynced, rng: &mut fastrand::Rng) {
    let is_kept = match unsynced {
        Unsynced::Lost => return,
        Unsynced::Kept => true,
        Unsynced::Torn => rng.bool(),
    };
    match change {
        _ if is_kept => apply(content, change),
        Change::Write(offset, data) if rng.bool() => {
            // Sectors of the disk, not of the write: a part of one is never written alone.
            let mut at = 0;
            while at < data.len() {
                let place = *offset + at as u64;
                let room = SECTOR - usize::try_from(place % SECTOR as u64).unwrap();
                let end = data.len().min(at + room);
                if rng.bool() {
                    apply(content, &Change::Write(place, data[at..end].to_vec()));
                }
                at = end;
            }
        }
        Change::Write(..) | Change::Truncate(_) => {}
    }
}
