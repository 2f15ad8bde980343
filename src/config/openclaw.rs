//! What is known of the OpenClaw gateway, as pure facts: versions, command lines, ports, paths.
//!
//! Taken from its shipped files (2026.3.13 and 2026.9.6) and seen running. The profile that is
//! made of these facts stands in `profile.rs`; what must be read from disk is read in `driver.rs`.

use std::{
    fmt,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;

use crate::protocol::control::one_line;

use super::probe::{Authority, Field, Host, Via};

/// Its name in the registry, and that of its program.
pub const NAME: &str = "openclaw";
/// Where it listens when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 18789;
/// The same for its profile `dev`.
const DEV_PORT: u16 = 19001;

/// The variables of the parent's environment that matter for it.
pub const VARIABLES: &[&str] = &[
    "HOME",
    "OPENCLAW_CONFIG_PATH",
    "OPENCLAW_GATEWAY_PORT",
    "OPENCLAW_HOME",
    "OPENCLAW_PROFILE",
    "OPENCLAW_STATE_DIR",
    "PATH",
];

/// A calendar version: `2026.9.6`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    year: u32,
    month: u32,
    patch: u32,
}

/// How it wants to be supervised, which changed with a version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contract {
    /// From 2026.9: SIGUSR2 restarts, `/startupz` tells readiness, an exit 0 may carry a hand-off.
    Current,
    /// Before: SIGUSR1 restarts, `/healthz` tells that it serves, there is no hand-off: an exit 0
    /// means "stopped" and "restart me", and nothing tells which.
    Legacy,
}

/// When it starts without its channels: after this many unclean boots within this time.
///
/// A boot is unclean while nothing has been written of its end (a SIGKILL, a crash) and it began
/// within the window, and if it failed within the window (its exit 78 counts, too). Nothing but
/// time clears one: a clean end of a later boot does not. The rows stand in the table
/// `gateway_boot_lifecycle` of its state database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Breaker {
    /// So many, and the next boot holds its channels back.
    pub unclean: u32,
    /// How long one counts, from its begin; and how long a boot without channels must then live
    /// until it starts them itself, which it looks at every 5 min.
    pub window: Duration,
}

/// Where a restart takes place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stay {
    /// It exits, and the parent starts a new process.
    #[default]
    Respawns,
    /// In the process, which `OPENCLAW_NO_RESPAWN` tells it.
    InProcess,
}

/// All that the profile is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// The words that run its command line, without a command; unknown in a command line that
    /// does not show it.
    pub prefix: Option<Vec<String>>,
    /// Its version, if a `package.json` told.
    pub version: Option<Version>,
    /// Where it will listen on loopback.
    pub port: u16,
    /// Whether it speaks TLS there, which leaves a bare connection to be probed.
    pub tls: bool,
    /// Where a restart takes place.
    pub stay: Stay,
}

/// What a command line tells of the OpenClaw in it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Invocation {
    /// The word that is its program (`openclaw`, `.../openclaw.mjs`), if one is.
    pub program: Option<String>,
    /// The words up to the program, and the profile that selects its state.
    pub prefix: Option<Vec<String>>,
    /// `--profile NAME`, or `dev` for `--dev`.
    pub profile: Option<String>,
    /// `--port N`.
    pub port: Option<u16>,
}

/// What its config file tells, as far as it is needed here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GatewayConfig {
    /// `gateway.port`
    pub port: Option<u16>,
    /// `gateway.tls.enabled`
    pub tls: bool,
}

impl Version {
    /// How this version wants to be supervised.
    pub fn contract(self) -> Contract {
        // A beta of 2026.9 has what 2026.9 has.
        if (self.year, self.month) >= (2026, 9) { Contract::Current } else { Contract::Legacy }
    }
}

impl Contract {
    /// Its crash-breaker; the older ones have none.
    pub fn breaker(self) -> Option<Breaker> {
        let breaker = Breaker { unclean: 3, window: Duration::from_secs(300) };
        (self == Self::Current).then_some(breaker)
    }
}

impl Facts {
    /// How it wants to be supervised; of an unknown version: as the current one does.
    pub fn contract(&self) -> Contract {
        self.version.map_or(Contract::Current, Version::contract)
    }

    /// The probe of its readiness. Both paths ignore channels: an account of a messenger that is
    /// down must not get the gateway restarted.
    pub fn via(&self) -> Via {
        let authority = Authority { host: Host::V4(Ipv4Addr::LOCALHOST), port: self.port };
        let path = match self.contract() {
            Contract::Current => "/startupz",
            Contract::Legacy => "/healthz",
        };
        match self.tls {
            true => Via::Tcp(authority),
            false => Via::Http { authority, path: path.to_owned() },
        }
    }

    /// What the answer to that probe must hold.
    pub fn field(&self) -> Field {
        let value = match self.contract() {
            Contract::Current => "started",
            Contract::Legacy => "live",
        };
        Field::Equals { name: "status".to_owned(), value: value.to_owned() }
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self { prefix: None, version: None, port: DEFAULT_PORT, tls: false, stay: Stay::default() }
    }
}

impl Invocation {
    /// Looks for OpenClaw in a command line.
    ///
    /// Its own rules count: options end at `--`, the last of two wins, and `--dev` selects the
    /// profile only before the command (behind `gateway` it means something else).
    pub fn of(argv: &[String]) -> Self {
        let program = argv.iter().position(|word| is_program(word));
        // A wrapper with a name of its own (`openclaw gateway install --wrapper`) passes all on.
        let is_wrapper = program.is_none() && argv.get(1).is_some_and(|word| word == "gateway");
        let Some(end) = program.or_else(|| is_wrapper.then_some(0)) else { return Self::default() };

        let mut found = Self::default();
        let mut before_command = true;
        let mut words = argv[end + 1..].iter().map(String::as_str).take_while(|word| *word != "--");
        while let Some(word) = words.next() {
            let (option, tied) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (word, None),
            };
            match option {
                "--profile" => found.profile = tied.or_else(|| words.next()).map(str::to_owned),
                "--port" => found.port = tied.or_else(|| words.next()).and_then(port_of),
                "--dev" if before_command => found.profile = Some("dev".to_owned()),
                "--log-level" | "--container" if tied.is_none() => drop(words.next()),
                _ => before_command &= word.starts_with('-'),
            }
        }
        let mut prefix = argv[..=end].to_vec();
        if let Some(profile) = &found.profile {
            prefix.extend(["--profile".to_owned(), profile.clone()]);
        }
        found.program = program.map(|at| argv[at].clone());
        found.prefix = Some(prefix);
        found
    }

    /// Where it will listen: the command line, its environment, its config, its profile, 18789.
    pub fn port<'a>(
        &self,
        contract: Contract,
        var: impl Fn(&str) -> Option<&'a str>,
        config: Option<u16>,
    ) -> u16 {
        let set = var("OPENCLAW_GATEWAY_PORT").map(str::trim).filter(|value| !value.is_empty());
        // It puts the port of `dev` into its own environment, before its config is looked at.
        let dev = self.profile.as_deref() == Some("dev") && set.is_none();
        let profile = self.profile.as_deref().or_else(|| var("OPENCLAW_PROFILE"));
        let hashed = profile.filter(|_| contract == Contract::Current).and_then(port_of_profile);
        self.port
            .or_else(|| dev.then_some(DEV_PORT))
            .or_else(|| set.and_then(port_of_variable))
            .or(config)
            .or(hashed)
            .unwrap_or(DEFAULT_PORT)
    }

    /// Where its config file is, if its environment tells at all.
    pub fn config_path<'a>(&self, var: impl Fn(&str) -> Option<&'a str>) -> Option<PathBuf> {
        let var = |name| var(name).map(str::trim).filter(|value| !value.is_empty());
        let home = var("OPENCLAW_HOME").and_then(|home| expand(home, var("HOME")));
        let home = home.or_else(|| var("HOME").map(PathBuf::from));
        let expand = |path| expand(path, home.as_deref().and_then(Path::to_str));
        if let Some(path) = var("OPENCLAW_CONFIG_PATH") {
            return expand(path);
        }
        let folder = match var("OPENCLAW_STATE_DIR") {
            Some(folder) => expand(folder)?,
            None => home.as_ref()?.join(match self.profile.as_deref() {
                None | Some("default") => ".openclaw".to_owned(),
                Some(profile) => format!(".openclaw-{profile}"),
            }),
        };
        Some(folder.join("openclaw.json"))
    }
}

impl GatewayConfig {
    /// Reads its config; `None` if it is not plain JSON (it may be JSON5, with comments).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let config: serde_json::Value = serde_json::from_slice(text).ok()?;
        let gateway = &config["gateway"];
        let port = gateway["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let tls = gateway["tls"]["enabled"].as_bool().unwrap_or(false);
        Some(Self { port: port.filter(|port| *port != 0), tls })
    }
}

/// The version in a `package.json`, on [one line](one_line); `None` if it is not OpenClaw's.
pub fn package_version(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let package: Package = serde_json::from_slice(text).ok()?;
    (package.name == NAME).then(|| one_line(&package.version))
}

/// Whether a word of a command line is OpenClaw's program, by its name alone.
fn is_program(word: &str) -> bool {
    let path = Path::new(word);
    let is_name = path.file_name().is_some_and(|name| name == NAME || name == "openclaw.mjs");
    // Its own service units start one of these.
    let entries = ["dist/index.js", "dist/index.mjs", "dist/entry.js", "dist/entry.mjs"];
    is_name || entries.iter().any(|entry| path.ends_with(entry))
}

fn port_of(text: &str) -> Option<u16> {
    let digits = Some(text.trim()).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|port| *port != 0)
}

/// `18789`, `host:18789`, `[::1]:18789`.
fn port_of_variable(text: &str) -> Option<u16> {
    match text.rsplit_once(':') {
        None => port_of(text),
        Some((host, port)) if host.starts_with('[') && host.ends_with(']') => port_of(port),
        Some((host, port)) if !host.is_empty() && !host.contains(':') => port_of(port),
        Some(_) => None,
    }
}

/// Named profiles have ports of their own: FNV-1a of the name, into 20000..60000.
fn port_of_profile(profile: &str) -> Option<u16> {
    let profile = profile.trim();
    let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if profile.is_empty() || profile.eq_ignore_ascii_case("default") || !profile.bytes().all(valid)
    {
        return None;
    }
    let hash = profile
        .bytes()
        .fold(2_166_136_261u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    u16::try_from(20_000 + hash % 40_000).ok()
}

/// `~` and `~/...` by the home folder.
fn expand(path: &str, home: Option<&str>) -> Option<PathBuf> {
    match path.strip_prefix('~') {
        Some("") => Some(home?.into()),
        Some(rest) if rest.starts_with('/') => Some(Path::new(home?).join(&rest[1..])),
        _ => Some(path.into()),
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    /// Takes `2026.9.6`, also with a leading `v` and with what follows a `-` or `+`.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let core = text.trim().trim_start_matches('v');
        let core = core.split(['-', '+']).next().unwrap_or(core);
        let mut parts = core.split('.').map(|part| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            part.parse().ok().filter(|_| plain).ok_or(NotAVersion)
        });
        let mut next = || parts.next().ok_or(NotAVersion)?;
        let (year, month) = (next()?, next()?);
        let patch = parts.next().unwrap_or(Ok(0))?;
        parts.next().map_or(Ok(Self { year, month, patch }), |_| Err(NotAVersion))
    }
}

/// A text that is no calendar version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a version such as 2026.9.6")]
pub struct NotAVersion;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.year, self.month, self.patch)
    }
}

#[cfg(test)]
mod tests;
