//! What the service manager above a supervisor allows it.
#![allow(clippy::disallowed_methods)]

use std::{
    fs,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::units::Timespan;

/// A manager that does not answer within so long is not asked further.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a service may take to stop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Allowed {
    /// The unit.
    pub(super) unit: String,
    /// `None`: for ever.
    pub(super) stop: Option<Duration>,
}

/// The unit of systemd whose main process this is, as far as it can be asked for.
struct Unit {
    name: String,
    /// It belongs to the manager of our own user, and not to that of the system.
    is_users: bool,
}

/// What systemd allows the service whose main process is `supervisor`. `None`: it is no service of
/// systemd's that we may ask after; a container or launchd does not tell.
pub(super) fn allows(supervisor: u32) -> Option<Allowed> {
    let cgroup = fs::read_to_string(format!("/proc/{supervisor}/cgroup")).ok()?;
    let unit = unit_of(&cgroup, rustix::process::getuid().as_raw())?;
    let (sender, said) = mpsc::channel();
    let (name, is_users) = (unit.name.clone(), unit.is_users);
    // Beside us, as systemctl waits longer for its bus than anybody waits for a status. Left alone
    // it ends by itself.
    thread::Builder::new().spawn(move || sender.send(show(&name, is_users))).ok()?;
    let said = said.recv_timeout(PATIENCE).ok()??;
    Some(Allowed { unit: unit.name, stop: stop_of(&said, supervisor)? })
}

fn show(unit: &str, is_users: bool) -> Option<String> {
    let mut command = Command::new("systemctl");
    command.args(is_users.then_some("--user"));
    command.args(["show", "--property=MainPID,TimeoutStopUSec", "--", unit]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// From `/proc/PID/cgroup`: the service at the end of the path, of the system or of user `uid`.
fn unit_of(cgroup: &str, uid: u32) -> Option<Unit> {
    // Where systemd has both hierarchies, its services are in one of them.
    let is_systemds = |line: &&str| line.starts_with("0::/") || line.contains(":name=systemd:/");
    let mut paths =
        cgroup.lines().filter(is_systemds).filter_map(|line| line.splitn(3, ':').nth(2));
    let (path, name) = paths.find_map(|path| {
        let name = path.rsplit('/').next().filter(|name| name.ends_with(".service"))?;
        Some((path, name))
    })?;
    let user = path.split('/').find_map(|part| part.strip_prefix("user@"));
    let is_users = match user {
        Some(user) if user == format!("{uid}.service") => true,
        Some(_) => return None,
        None => false,
    };
    Some(Unit { name: name.to_owned(), is_users })
}

/// From `systemctl show`, if `supervisor` is the unit's main process. `Some(None)`: for ever.
#[expect(clippy::option_option, reason = "not known, without end, so long")]
fn stop_of(said: &str, supervisor: u32) -> Option<Option<Duration>> {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if value("MainPID")? != supervisor.to_string() {
        return None;
    }
    match value("TimeoutStopUSec")? {
        "infinity" => Some(None),
        // "5min 45s"
        time => time.replace(' ', "").parse::<Timespan>().ok().map(|time| Some(time.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(cgroup: &str) -> Option<(String, bool)> {
        unit_of(cgroup, 1000).map(|unit| (unit.name, unit.is_users))
    }

    #[test]
    fn a_service_is_known_by_the_end_of_its_cgroup() {
        let system = "0::/system.slice/system-lockkeeper.slice/lockkeeper@gateway.service\n";
        assert_eq!(unit(system), Some(("lockkeeper@gateway.service".to_owned(), false)));
        let users = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/gateway.service\n";
        assert_eq!(unit(users), Some(("gateway.service".to_owned(), true)));
        let hybrid = "12:pids:/x\n1:name=systemd:/system.slice/gateway.service\n0::/\n";
        assert_eq!(unit(hybrid), Some(("gateway.service".to_owned(), false)));
        let other = "9:name=systemd:/\n0::/system.slice/gateway.service\n";
        assert_eq!(unit(other), Some(("gateway.service".to_owned(), false)));
        for none in [
            "",
            "0::/\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/user.slice/user-1001.slice/user@1001.service/app.slice/gateway.service\n",
        ] {
            assert_eq!(unit(none), None, "{none}");
        }
    }

    #[test]
    fn what_systemd_allows_is_read_as_it_writes_it() {
        let said = |time: &str| format!("TimeoutStopUSec={time}\nMainPID=17\n");
        let secs = |secs| Some(Some(Duration::from_secs(secs)));
        assert_eq!(stop_of(&said("5min 45s"), 17), secs(345));
        assert_eq!(stop_of(&said("1h 30s"), 17), secs(3630));
        assert_eq!(stop_of(&said("infinity"), 17), Some(None));
        assert_eq!(stop_of(&said("5min 45s"), 18), None, "of another process");
        for odd in ["", "soon", "17"] {
            assert_eq!(stop_of(&said(odd), 17), None, "{odd}");
        }
        assert_eq!(stop_of("", 17), None);
    }
}
