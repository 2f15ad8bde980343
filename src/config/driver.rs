//! Reads what the config is made of: the file, the environment, an installed OpenClaw.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    env, fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    Effective, Environment,
    error::ConfigError,
    layers::{self, Layers, Origin, line_of, variable},
    openclaw::{self, Contract, Facts, GatewayConfig, Invocation, Stay, Version},
    probe::Probe,
    profile::{self, ProfileName},
    rules,
    settings::Settings,
};
use crate::{
    protocol::env::{NO_RESPAWN, is_truthy},
    supervisor::policy::Respawn,
};

/// The largest file that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// How far above its program OpenClaw's `package.json` may lie.
const MAX_CLIMB: usize = 3;

/// Where to look for settings.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if one is to be read.
    pub file: Option<PathBuf>,
    /// The profile from the command line.
    pub profile: Option<ProfileName>,
    /// The command from the command line; empty if none was given.
    pub command: Vec<String>,
    /// The parent's environment, see [`environment`].
    pub environment: Environment,
}

/// The variables of this process that the config looks at.
pub fn environment() -> Environment {
    let names = openclaw::VARIABLES.iter().chain(&NO_RESPAWN);
    names.filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?))).collect()
}

/// Reads and checks the settings.
///
/// # Errors
///
/// With the first thing that is wrong, in words for the operator.
pub fn load(sources: &Sources) -> Result<Effective, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = &sources.file {
        let text = read_text(path)?;
        layers::read(&text, path)?.into_iter().for_each(|leaf| layers.add(leaf));
    }
    // What the profile finds depends on what is said above it: command, environment, respawn.
    let mut settings = resolve(&layers, sources)?;
    if settings.command.is_empty() {
        return Err(ConfigError::NoCommand);
    }
    let (mut version, mut notes) = (None, Vec::new());
    if settings.profile == ProfileName::Openclaw {
        let found = look(&settings, &sources.environment);
        for leaf in profile::openclaw(&found.facts) {
            // What the file removes, the profile does not set.
            let name = variable(&leaf.key);
            if !name.is_some_and(|name| settings.env.removes(name)) {
                layers.add(leaf);
            }
        }
        (version, notes) = (found.version, found.notes);
        settings = resolve(&layers, sources)?;
    }
    let origins = origins(layers, sources);
    if let Err(violation) = rules::check(&settings) {
        // Of two keys that clash the one that was written is the one to look at.
        let written = violation.keys.iter().find_map(|key| origins.get(key));
        let origin = written.cloned().unwrap_or_default();
        let key = layers::shown(violation.keys.first().map_or("", String::as_str));
        return Err(ConfigError::Impossible { origin, key, problem: violation.problem });
    }
    Ok(Effective { settings, origins, version, notes })
}

/// The probe for the next spawn: that of the settings, with the port looked up again if it was the
/// profile that found it, because an edit of OpenClaw's own config may have moved it.
pub fn openclaw_probe(effective: &Effective, environment: &Environment) -> Option<Probe> {
    let from_profile = |key| *effective.origin(key) == Origin::Profile(ProfileName::Openclaw);
    if !from_profile("ready.via") {
        return effective.probe();
    }
    let facts = look(&effective.settings, environment).facts;
    let mut ready = effective.settings.ready.clone();
    ready.via = facts.via();
    if from_profile("ready.field") {
        ready.field = facts.field();
    }
    ready.probe()
}

/// The settings of these layers, with what outranks a file on top.
fn resolve(layers: &Layers, sources: &Sources) -> Result<Settings, ConfigError> {
    let mut settings = layers.settings()?;
    if let Some(profile) = sources.profile {
        settings.profile = profile;
    }
    if !sources.command.is_empty() {
        settings.command.clone_from(&sources.command);
    }
    if no_respawn(&sources.environment).is_some() {
        settings.restart.respawn = Respawn::InProcess;
    }
    Ok(settings)
}

/// Who decided what, [`resolve`]'s part included.
fn origins(layers: Layers, sources: &Sources) -> BTreeMap<String, Origin> {
    let mut origins = layers.into_origins();
    let mut decided = |key: &str, origin| drop(origins.insert(key.to_owned(), origin));
    if sources.profile.is_some() {
        decided("profile", Origin::CommandLine);
    }
    if !sources.command.is_empty() {
        decided("command", Origin::CommandLine);
    }
    if let Some(name) = no_respawn(&sources.environment) {
        decided("restart.respawn", Origin::Environment(name.into()));
    }
    origins
}

/// The variable by which the operator wishes restarts to stay in the process.
fn no_respawn(environment: &Environment) -> Option<&'static str> {
    NO_RESPAWN.into_iter().find(|name| environment.get(*name).is_some_and(|v| is_truthy(v)))
}

/// What was found out about the OpenClaw that is to run.
struct Found {
    facts: Facts,
    version: Option<String>,
    notes: Vec<String>,
}

fn look(settings: &Settings, environment: &Environment) -> Found {
    let var = |name: &str| settings.env.lookup(environment, name);
    let invocation = Invocation::of(&settings.command);
    let mut notes = Vec::new();

    let installed = invocation.program.as_deref().and_then(|program| {
        let program = locate(program, var("PATH"))?;
        package_version_above(&program)
    });
    let version: Option<Version> = installed.as_deref().and_then(|text| text.parse().ok());
    if version.is_none() {
        notes.push(
            "the version of openclaw is unknown; it is taken for 2026.9 or later, which restarts \
             on SIGUSR2"
                .to_owned(),
        );
    }
    if invocation.prefix.is_none() {
        notes.push(
            "no openclaw is seen in the command; exit.judge and recovery.command stay empty"
                .to_owned(),
        );
    }
    let path = invocation.config_path(var);
    let text = path.as_deref().and_then(|path| read_bounded(path).ok());
    let config = text.as_deref().map(GatewayConfig::parse);
    let contract = version.map_or(Contract::Current, Version::contract);
    let config_port = config.flatten().and_then(|config| config.port);
    let port = invocation.port(contract, var, config_port);
    if let (Some(path), Some(None), None) = (&path, config, invocation.port) {
        notes.push(format!(
            "{} is not plain JSON; port {port} is assumed, --port or ready.via tells it better",
            path.display()
        ));
    }
    let tls = config.flatten().is_some_and(|config| config.tls);
    if tls {
        notes.push("the gateway speaks TLS; its port is probed by a bare connection".to_owned());
    }
    let stay = match settings.restart.respawn {
        Respawn::Fresh => Stay::Respawns,
        Respawn::InProcess => Stay::InProcess,
    };
    let facts = Facts { prefix: invocation.prefix, version, port, tls, stay };
    Found { facts, version: installed, notes }
}

/// The file behind a word of a command line, symbolic links resolved: npm's `bin` is full of them.
fn locate(program: &str, search: Option<&str>) -> Option<PathBuf> {
    let is_path = program.contains('/') || Path::new(program).extension().is_some();
    if is_path {
        return fs::canonicalize(program).ok();
    }
    let folders = env::split_paths(search?).filter(|folder| !folder.as_os_str().is_empty());
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates.find(|file| file.is_file()).and_then(|file| fs::canonicalize(file).ok())
}

fn package_version_above(program: &Path) -> Option<String> {
    let folders = program.ancestors().skip(1).take(MAX_CLIMB);
    let texts = folders.filter_map(|folder| read_bounded(&folder.join("package.json")).ok());
    texts.filter_map(|text| openclaw::package_version(&text)).next()
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let path = || path.to_owned();
    let bytes = match read_bounded(&path()) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            return Err(ConfigError::NotAFile { path: path(), found: "a folder" });
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            return Err(ConfigError::NotAFile { path: path(), found: "a pipe or a device" });
        }
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(ConfigError::TooLarge { path: path() });
        }
        Err(source) => return Err(ConfigError::Unreadable { path: path(), source }),
    };
    String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        ConfigError::NotUtf8 { path: path(), line }
    })
}

/// Reads a regular file of at most [`MAX_FILE`]. Anything else is refused before it is opened:
/// to open a pipe without a writer would be to wait for one.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?;
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
