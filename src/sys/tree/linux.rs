//! The process table of Linux: `/proc`, and pidfds.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::Read,
    net::IpAddr,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process,
};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process},
};

use super::{
    super::{process_stat::ProcessStat, spare},
    Member, ProcessId,
};

/// One walk over `/proc/*/stat`. (`/proc/*/task/*/children` is not in every kernel.)
pub(super) fn all() -> HashMap<u32, Member> {
    spare::lent(|| pids().filter_map(one).map(|m| (m.id.pid, m)).collect())
}

/// Without a table of all: on a large machine that would be most of what we ever allocate.
pub(super) fn children_of(parent: u32) -> Vec<Member> {
    spare::lent(|| pids().filter_map(one).filter(|member| member.ppid == parent).collect())
}

/// The numbers of all processes.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(super) fn one(pid: u32) -> Option<Member> {
    // An error is a process that has vanished.
    let stat = ProcessStat::of(pid).ok()?;
    Some(Member {
        id: ProcessId { pid: stat.pid, start_time: stat.start_time },
        ppid: stat.ppid,
        name: stat.name,
        state: stat.state,
        threads: stat.threads,
    })
}

pub(super) fn command_of(pid: u32) -> Option<Vec<String>> {
    // Read here, for procfs refuses a command line that is not UTF-8.
    let raw = spare::look(|| fs::read(format!("/proc/{pid}/cmdline"))).ok()?;
    let raw = raw.strip_suffix(b"\0").unwrap_or(&raw);
    if raw.is_empty() {
        return None;
    }
    Some(raw.split(|byte| *byte == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect())
}

pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let memory = Process::new(i32::try_from(pid).ok()?).ok()?.statm().ok()?;
    Some(memory.resident * procfs::page_size())
}

/// The sockets that listen on `port`: address and inode.
pub(super) fn listeners(port: u16) -> Vec<(IpAddr, u64)> {
    let listens =
        |entry: &TcpNetEntry| entry.state == TcpState::Listen && entry.local_address.port() == port;
    // A system without IPv6 has no second table.
    [procfs::net::tcp(), procfs::net::tcp6()]
        .into_iter()
        .flatten()
        .flatten()
        .filter(listens)
        .map(|entry| (entry.local_address.ip(), entry.inode))
        .collect()
}

pub(super) fn has_socket(pid: u32, inodes: &[u64]) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    open_files(process.as_ref())
        .any(|(_, target)| matches!(target, FDTarget::Socket(inode) if inodes.contains(&inode)))
}

/// The open files of a process by descriptor. Other people's processes show none.
fn open_files(process: Option<&Process>) -> impl Iterator<Item = (i32, FDTarget)> {
    let files = process.and_then(|process| process.fd().ok());
    files.into_iter().flatten().flatten().map(|info| (info.fd, info.target))
}

pub(super) fn holders_of(path: &Path) -> Vec<ProcessId> {
    let Ok(wanted) = fs::metadata(path) else {
        return Vec::new();
    };
    let Some(name) = path.file_name() else {
        return Vec::new();
    };
    let is_open_in = |process: &Process| {
        open_files(Some(process)).any(|(fd, target)| {
            // The name is looked at first, because asking for the inode of a file on a server that
            // has gone would block us.
            let FDTarget::Path(shown) = target else { return false };
            let like = shown.file_name().is_some_and(|n| n.as_bytes().starts_with(name.as_bytes()));
            let link = PathBuf::from(format!("/proc/{}/fd/{fd}", process.pid));
            like && fs::metadata(link)
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
        })
    };
    spare::lent(|| others().filter(is_open_in).filter_map(|process| id_of(&process)).collect())
}

pub(super) fn with_environment(key: &OsStr, value: &OsStr) -> Vec<ProcessId> {
    let wanted = [key.as_bytes(), b"=", value.as_bytes()].concat();
    let has = |process: &Process| {
        let text = read(process, "environ").unwrap_or_default();
        text.split(|byte| *byte == 0).any(|variable| variable == wanted)
    };
    spare::lent(|| others().filter(has).filter_map(|process| id_of(&process)).collect())
}

fn others() -> impl Iterator<Item = Process> {
    let own = process::id();
    let others = pids().filter(move |pid| *pid != own);
    others.filter_map(|pid| Process::new(i32::try_from(pid).ok()?).ok())
}

/// Whose folder this is: that of one process, also when its number is another's by now.
fn id_of(process: &Process) -> Option<ProcessId> {
    let ProcessStat { pid, start_time, .. } = ProcessStat::parse(&read(process, "stat")?)?;
    Some(ProcessId { pid, start_time })
}

fn read(process: &Process, file: &str) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    process.open_relative(file).ok()?.read_to_end(&mut text).ok()?;
    Some(text)
}
