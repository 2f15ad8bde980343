//! Which way a gateway comes back: who would start it again, and what follows from it.
//!
//! | what is found, first match | manager | mode |
//! | --- | --- | --- |
//! | the program forces a way | as found below | as forced |
//! | `LOCKKEEPER_CONTROL` and `LOCKKEEPER_GENERATION`, from our parent | lockkeeper | exit 75 |
//! | `LOCKKEEPER_NO_RESPAWN` or `OPENCLAW_NO_RESPAWN` is truthy | as found below | in process |
//! | both `LOCKKEEPER_` names, but from another process than our parent | none | in process |
//! | a systemd unit | systemd | exit, code by setting |
//! | a launchd job | launchd | exit, code by setting |
//! | PID 1, or anywhere in a container | none | in process |
//! | nothing of these | none | spawn a successor, exit 0 |
//!
//! - *lockkeeper* comes before `NO_RESPAWN`, because it reads that wish itself and then asks for an
//!   in-process restart by its signal. Who stays in process when it asked for a fresh one is killed
//!   when the grace is over.
//! - *systemd*: when the main process of a unit ends, systemd kills what is left in its cgroup, so
//!   a detached successor would die with us. Only an exit brings the unit back (`Restart=`).
//! - *launchd*: the same by process group, and a successor that lived would be a second one beside
//!   the one that `KeepAlive` starts.
//! - *in a container* the end of the main process is the end of all others in it.
//! - *marks from another process*: a helper, started inside the tree of a supervised gateway, or a
//!   gateway behind a launcher. What it leaves behind is ended by the supervisor above, so it must
//!   not spawn; and nobody reads its exit code.
//!
//! A manager that leaves no mark (supervisord, pm2, a shell loop) cannot be told from none: there a
//! successor would get into the way of the one that the manager starts. Say it by
//! [`RespawnOptions::forced`] or by `LOCKKEEPER_NO_RESPAWN=1`.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use crate::protocol::{env, exit};

#[cfg(test)]
mod tests;

/// systemd's name for one start of a unit. Inherited by all that the unit starts, a desktop's
/// terminals too, so that alone it proves nothing.
const INVOCATION_ID: &str = "INVOCATION_ID";
/// The process that systemd executed (since version 248).
const SYSTEMD_EXEC_PID: &str = "SYSTEMD_EXEC_PID";
/// The job's name under launchd.
const XPC_SERVICE_NAME: &str = "XPC_SERVICE_NAME";
const LAUNCH_JOB: &str = "LAUNCH_JOB_";

/// Who starts the gateway again after its end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Manager {
    /// Our own supervisor.
    Lockkeeper,
    /// A systemd unit.
    Systemd,
    /// A launchd job.
    Launchd,
    /// Nobody whom we could see.
    None,
}

/// How a restart is carried out once the server is closed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RespawnMode {
    /// Exit with this code: somebody above starts the next process.
    Supervised {
        /// 75, or 0 for a manager that starts again only after a clean exit.
        code: u8,
    },
    /// Spawn the same program with the same arguments, detached, and exit 0. If it cannot be
    /// spawned: in process.
    Spawned,
    /// Stay: the gateway builds itself anew in this process.
    Disabled,
}

/// What a program may force, whatever is found.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Forced {
    /// Exit, with 75 under our own parent and with [`RespawnOptions::manager_code`] elsewhere.
    Exit,
    /// Spawn a detached successor.
    Spawn,
    /// Stay in the process.
    InProcess,
}

/// The program's part in the choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RespawnOptions {
    /// A way that is taken whatever is found. None.
    pub forced: Option<Forced>,
    /// The exit code under systemd and launchd. 75, which `Restart=always`, `on-failure`,
    /// `RestartForceExitStatus=75` and every `KeepAlive` answer with a start; 0 keeps a unit with
    /// `Restart=always` free of a failure in its status.
    pub manager_code: u8,
}

impl Default for RespawnOptions {
    fn default() -> Self {
        Self { forced: None, manager_code: exit::RESTART }
    }
}

/// Why a way was chosen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Because {
    /// [`RespawnOptions::forced`].
    Forced,
    /// A manager was found.
    Managed,
    /// This variable is truthy.
    NoRespawn(&'static str),
    /// The supervisor's names are there, but it is not our parent.
    ForeignMarks,
    /// We are PID 1.
    FirstProcess,
    /// We run in a container.
    Container,
    /// Nobody is above us.
    Bare,
}

/// The way that a gateway comes back.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Respawn {
    /// Who is above us.
    pub manager: Manager,
    /// How a restart is carried out.
    pub mode: RespawnMode,
    /// Why so, for the log.
    pub because: Because,
}

/// What the choice is made by. Keeps no variable but those that it looks at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Surroundings {
    marks: BTreeMap<String, String>,
    /// Our own number.
    pub pid: u32,
    /// Our parent's number, if known.
    pub parent: Option<u32>,
    /// The process at the other end of `LOCKKEEPER_CONTROL`, if somebody has looked. A gateway that
    /// is started by a launcher leaves it out, or it would be taken for a helper.
    pub supervisor: Option<u32>,
    /// Whether we run in a container.
    pub is_container: bool,
}

impl Surroundings {
    /// Those of process `pid` with this environment, on a plain system, parent unknown.
    pub fn new(environment: impl IntoIterator<Item = (OsString, OsString)>, pid: u32) -> Self {
        // What is not UTF-8 is none of these names, and no value that any of them could have.
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let marks = environment.into_iter().filter_map(text).filter(|(name, _)| is_looked_at(name));
        Self { marks: marks.collect(), pid, ..Self::default() }
    }

    /// Chooses the way.
    pub fn respawn(&self, options: RespawnOptions) -> Respawn {
        let manager = self.manager();
        let (mode, because) = match options.forced {
            Some(forced) => (options.mode_of(forced, manager), Because::Forced),
            None => self.mode(manager, options),
        };
        Respawn { manager, mode, because }
    }

    /// Who is above us.
    pub fn manager(&self) -> Manager {
        if self.has_our_marks() {
            // Whatever else is seen then was there before the supervisor, and is not for us.
            return if self.is_our_parent() { Manager::Lockkeeper } else { Manager::None };
        }
        if self.is_systemd() {
            Manager::Systemd
        } else if self.is_launchd() {
            Manager::Launchd
        } else {
            Manager::None
        }
    }

    fn mode(&self, manager: Manager, options: RespawnOptions) -> (RespawnMode, Because) {
        let wish =
            env::NO_RESPAWN.into_iter().find(|name| self.mark(name).is_some_and(env::is_truthy));
        match (manager, wish) {
            (Manager::Lockkeeper, _) => (options.exit(manager), Because::Managed),
            (_, Some(name)) => (RespawnMode::Disabled, Because::NoRespawn(name)),
            (Manager::Systemd | Manager::Launchd, None) => {
                (options.exit(manager), Because::Managed)
            }
            (Manager::None, None) if self.has_our_marks() => {
                (RespawnMode::Disabled, Because::ForeignMarks)
            }
            (Manager::None, None) if self.pid == 1 => {
                (RespawnMode::Disabled, Because::FirstProcess)
            }
            (Manager::None, None) if self.is_container => {
                (RespawnMode::Disabled, Because::Container)
            }
            (Manager::None, None) => (RespawnMode::Spawned, Because::Bare),
        }
    }

    fn has_our_marks(&self) -> bool {
        self.mark(env::CONTROL).is_some() && self.mark(env::GENERATION).is_some()
    }

    /// Unknown counts as yes: the marks are scrubbed from what is not for us.
    fn is_our_parent(&self) -> bool {
        match (self.parent, self.supervisor) {
            (Some(parent), Some(supervisor)) => parent == supervisor,
            (None, _) | (_, None) => true,
        }
    }

    fn is_systemd(&self) -> bool {
        if let Some(executed) = self.mark(SYSTEMD_EXEC_PID) {
            // Or our parent: a shell script in `ExecStart=` that did not `exec` us.
            let executed = executed.parse().ok();
            let is_ours =
                executed == Some(self.pid) || executed.is_some() && executed == self.parent;
            return is_ours || self.is_notifying_unit();
        }
        // Before 248 there is no such name; there a system service's parent is PID 1.
        self.is_notifying_unit() || self.mark(INVOCATION_ID).is_some() && self.parent == Some(1)
    }

    /// A unit of `Type=notify`: its socket, unlike its id, is not handed on to a desktop.
    fn is_notifying_unit(&self) -> bool {
        self.mark(INVOCATION_ID).is_some() && self.mark(env::NOTIFY_SOCKET).is_some()
    }

    fn is_launchd(&self) -> bool {
        // A terminal's programs have "0", or the name of the app that they were started in.
        let is_job = |name: &str| name != "0" && !name.starts_with("application.");
        self.mark(XPC_SERVICE_NAME).is_some_and(is_job)
            || self.marks.keys().any(|name| name.starts_with(LAUNCH_JOB))
    }

    /// The value of `name`, unless it is empty, which means the same as none.
    fn mark(&self, name: &str) -> Option<&str> {
        self.marks.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

impl RespawnOptions {
    fn mode_of(self, forced: Forced, manager: Manager) -> RespawnMode {
        match forced {
            Forced::Exit => self.exit(manager),
            Forced::Spawn => RespawnMode::Spawned,
            Forced::InProcess => RespawnMode::Disabled,
        }
    }

    fn exit(self, manager: Manager) -> RespawnMode {
        let code = match manager {
            // The contract's word for "a fresh PID, please"; a 0 would mean "I am done".
            Manager::Lockkeeper => exit::RESTART,
            Manager::Systemd | Manager::Launchd | Manager::None => self.manager_code,
        };
        RespawnMode::Supervised { code }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lockkeeper => "lockkeeper",
            Self::Systemd => "systemd",
            Self::Launchd => "launchd",
            Self::None => "no manager",
        })
    }
}

impl fmt::Display for Respawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            RespawnMode::Supervised { code } => write!(f, "by exit code {code}")?,
            RespawnMode::Spawned => f.write_str("by a spawned successor")?,
            RespawnMode::Disabled => f.write_str("in process")?,
        }
        match self.because {
            Because::Forced => f.write_str(" (the program wants it so)"),
            Because::Managed => write!(f, " ({} starts the next one)", self.manager),
            Because::NoRespawn(name) => write!(f, " ({name} is set)"),
            Because::ForeignMarks => f.write_str(" (the supervisor is not our parent)"),
            Because::FirstProcess => f.write_str(" (this is PID 1)"),
            Because::Container => f.write_str(" (this is a container)"),
            Because::Bare => f.write_str(" (nobody is above us)"),
        }
    }
}

fn is_looked_at(name: &str) -> bool {
    let names = [
        env::CONTROL,
        env::GENERATION,
        env::NOTIFY_SOCKET,
        INVOCATION_ID,
        SYSTEMD_EXEC_PID,
        XPC_SERVICE_NAME,
    ];
    names.contains(&name) || env::NO_RESPAWN.contains(&name) || name.starts_with(LAUNCH_JOB)
}
