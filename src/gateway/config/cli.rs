//! `lockkeeper-gateway config`

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    diff::{Difference, diff, set, value_of},
    document::{self, Format},
    error::ConfigError,
    file::{ConfigFile, Loaded},
    merge::{self, Comments},
    plan::{Effect, Plan, effect},
    rewrite::{ConfigRefused, rewrite},
    schema::Config,
};
use crate::protocol::exit;

/// Show, change and check the config
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  lockkeeper-gateway config get
  lockkeeper-gateway config set agent.concurrency 8
  lockkeeper-gateway config validate gateway.toml")]
pub enum ConfigCommand {
    /// Show the settings, defaults too, secrets hidden
    #[command(after_help = "Examples:
  lockkeeper-gateway config get
  lockkeeper-gateway config get agent.model
  lockkeeper-gateway config get --json channels")]
    Get {
        /// Only this key, or this table
        #[arg(value_name = "KEY")]
        key: Option<String>,
        /// One JSON value
        #[arg(long)]
        json: bool,
    },
    /// Set one key in the file; a running gateway takes it up
    ///
    /// The result is checked before anything is written. In TOML, comments stay.
    #[command(
        after_help = "VALUE is JSON5, or else a text; `null` takes the key out; `-` reads a \
text from stdin, as is wise for secrets.

Examples:
  lockkeeper-gateway config set agent.concurrency 8
  lockkeeper-gateway config set inbound.debounce 2s
  lockkeeper-gateway config set agent.command '[\"my-agent\", \"--fast\"]'
  lockkeeper-gateway config set channels.telegram.token '{ env: \"TELEGRAM_TOKEN\" }'
  lockkeeper-gateway config set channels.telegram.token - < token
  lockkeeper-gateway config set hooks.ci null"
    )]
    Set {
        /// The dotted key
        #[arg(value_name = "KEY")]
        key: String,
        /// Its value
        #[arg(value_name = "VALUE", allow_hyphen_values = true)]
        value: String,
        /// What it changes, as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Tell what a change from one file to another would need: nothing, a hot reload, a restart
    #[command(after_help = "Examples:
  lockkeeper-gateway config plan gateway.toml gateway.new.toml
  lockkeeper-gateway config plan --json gateway.toml.last-good gateway.toml")]
    Plan {
        /// The config in force
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// The config to come; its `reload.mode` counts
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check a file; exits 78 if the gateway would refuse it
    #[command(after_help = "Examples:
  lockkeeper-gateway config validate
  lockkeeper-gateway config validate --json /etc/lockkeeper/gateway.toml")]
    Validate {
        /// The file; else the one that the gateway would read
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the config, for editors
    #[command(after_help = "Example:
  lockkeeper-gateway config schema > gateway.schema.json")]
    Schema,
}

/// Carries a command out, with the file that was named or else the default one. Prints; returns the
/// exit code: 0, 64 for a key that is none, 73 if the file cannot be written, 78 for a bad config.
pub fn run(command: ConfigCommand, path: Option<PathBuf>) -> u8 {
    let done = match command {
        ConfigCommand::Get { key, json } => get(path, key.as_deref(), json),
        ConfigCommand::Set { key, value, json } => change(path, &key, &value, json),
        ConfigCommand::Plan { old, new, json } => plan(old, new, json),
        ConfigCommand::Validate { file, json } => validate(file.or(path), json),
        ConfigCommand::Schema => Ok(format!("{:#}", schemars::schema_for!(Config).to_value())),
    };
    match done {
        Ok(text) => {
            say(&text);
            exit::OK
        }
        Err(Failed { code, told }) => {
            match told {
                Told::Error(text) => {
                    let _ = writeln!(io::stderr(), "lockkeeper-gateway: {text}");
                }
                Told::Answer(text) => say(&text),
            }
            code
        }
    }
}

struct Failed {
    code: u8,
    told: Told,
}

enum Told {
    /// On stderr.
    Error(String),
    /// On stdout, for a program that asked.
    Answer(String),
}

impl Failed {
    fn new(code: u8, error: impl ToString) -> Self {
        Self { code, told: Told::Error(error.to_string()) }
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self::new(exit::CONFIG, error)
    }
}

fn get(path: Option<PathBuf>, key: Option<&str>, json: bool) -> Result<String, Failed> {
    let loaded = ConfigFile::new(path)?.load()?;
    let all = value_of(&loaded.config.redacted());
    let value = match key {
        None => &all,
        Some(key) => known(&all, key).map_err(|error| Failed::new(exit::USAGE, error))?,
    };
    Ok(match value {
        _ if json => format!("{value:#}"),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(_) => {
            let mut shown = value.clone();
            // What is not set has no line in TOML.
            prune(&mut shown);
            let rendered = merge::render(&shown, Format::Toml);
            rendered.map_or_else(|_| format!("{value:#}"), |m| m.text.trim_end().to_owned())
        }
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
    })
}

/// The value of a key; an error that names those beside it.
fn known<'a>(all: &'a Value, key: &str) -> Result<&'a Value, String> {
    let mut value = all;
    let mut table = String::new();
    for name in key.split('.') {
        let object = match value {
            Value::Object(object) => object,
            Value::Null => return Err(format!("{key}: {table} is not set")),
            _ => return Err(format!("{key}: {table} is no table")),
        };
        value = object.get(name).ok_or_else(|| {
            let names: Vec<_> = object.keys().map(String::as_str).collect();
            format!("{key}: no such key; known there: {}", names.join(", "))
        })?;
        table = document::join(&table, name);
    }
    Ok(value)
}

fn prune(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| !value.is_null());
        object.values_mut().for_each(prune);
    }
}

fn change(path: Option<PathBuf>, key: &str, value: &str, json: bool) -> Result<String, Failed> {
    if key.split('.').any(str::is_empty) {
        return Err(Failed::new(exit::USAGE, format!("{key:?} is no key, such as agent.model")));
    }
    // Without a file at the path that was named, one is made.
    let file = ConfigFile::new(path)?;
    let present = file.read()?;
    let old = match present.bytes {
        None => Config::default().into(),
        // A file that cannot be used may be mended by this very command.
        Some(_) => file.settings(present.clone()).map(|loaded| loaded.config).unwrap_or_default(),
    };
    let mut refused = None;
    for value in readings(value).map_err(|error| Failed::new(exit::USAGE, error))? {
        let mut patch = Value::Null;
        set_patch(&mut patch, key, value);
        let merged = |text: &str| merge::patch(text, file.format(), &patch);
        match rewrite(&file, &present.hash, merged) {
            Ok((new, comments)) => return Ok(changed(&file, &old, &new, comments, json)),
            Err(ConfigRefused::Invalid(error)) => {
                // Of the first reading, which is the likelier one.
                refused.get_or_insert_with(|| Failed::new(exit::CONFIG, error));
            }
            Err(error @ ConfigRefused::Conflict { .. }) => {
                return Err(Failed::new(exit::FAILURE, error));
            }
            Err(error @ ConfigRefused::NotWritten { .. }) => {
                return Err(Failed::new(exit::CANNOT_CREATE, error));
            }
        }
    }
    Err(refused.unwrap_or_else(|| Failed::new(exit::USAGE, "nothing to set")))
}

/// What a value on the command line can mean, the likelier first.
fn readings(value: &str) -> Result<Vec<Value>, String> {
    if value == "-" {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(|error| format!("stdin: {error}"))?;
        return Ok(vec![Value::String(line.trim().to_owned())]);
    }
    let text = Value::String(value.to_owned());
    Ok(match document::json5_value(value) {
        // `2024` may be the name of a model.
        Ok(read) if read != text => vec![read, text],
        _ => vec![text],
    })
}

/// As [`set`], but null stays: in a patch it takes the key out.
fn set_patch(patch: &mut Value, key: &str, value: Value) {
    let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
    let leaf = json!({ name: value });
    match table {
        "" => *patch = leaf,
        _ => set(patch, table, leaf),
    }
}

fn changed(
    file: &ConfigFile,
    old: &Config,
    new: &Loaded,
    comments: Comments,
    json: bool,
) -> String {
    let plan = Plan::between(old, &new.config);
    if json {
        return format!("{:#}", json!({ "hash": new.hash, "plan": plan, "comments": comments }));
    }
    let lost = match comments {
        Comments::Kept => "",
        Comments::Lost => "\nThe file was written anew: comments in it are lost.",
    };
    format!("{} is written.{lost}\nA running gateway does this:\n{plan}", file.path().display())
}

fn plan(old: PathBuf, new: PathBuf, json: bool) -> Result<String, Failed> {
    let load = |path: PathBuf| -> Result<Loaded, ConfigError> {
        // The last good copy is of the same language as the file beside which it lies.
        ConfigFile::of_kept(path)?.load()
    };
    let (old, new) = (load(old)?.config, load(new)?.config);
    let differences = diff(&old, &new);
    let plan = Plan::of(&differences).under(new.reload.mode);
    if json {
        return Ok(format!("{:#}", json!({ "plan": plan, "differences": differences })));
    }
    let rows: Vec<[String; 3]> = differences.iter().map(|found| row(&plan, found)).collect();
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let (paths, effects) = (width(0), width(1));
    let lines = rows.iter().map(|[path, effect, change]| {
        format!("{path:paths$}  {effect:effects$}  {change}").trim_end().to_owned()
    });
    let lines: Vec<_> = lines.collect();
    Ok(if lines.is_empty() { plan.to_string() } else { lines.join("\n") })
}

fn row(plan: &Plan, Difference { path, was, now }: &Difference) -> [String; 3] {
    let is_in = |paths: &[String]| paths.iter().any(|other| other == path);
    let how = match effect(path) {
        _ if is_in(&plan.restart) => "restart".to_owned(),
        _ if is_in(&plan.later) => "at the next start".to_owned(),
        Effect::Hot(subsystem) => format!("hot {subsystem}"),
        Effect::Restart => "restart".to_owned(),
        Effect::None => "nothing to do".to_owned(),
    };
    let shown = |value: &Value| match value {
        Value::Null => "not set".to_owned(),
        value => value.to_string(),
    };
    // Two secrets look the same.
    let change = match was == now {
        true => "changed".to_owned(),
        false => format!("{} -> {}", shown(was), shown(now)),
    };
    [path.clone(), how, change]
}

fn validate(path: Option<PathBuf>, json: bool) -> Result<String, Failed> {
    let loaded = ConfigFile::new(path).and_then(|file| Ok((file.load()?, file)));
    match loaded {
        Ok((loaded, file)) => {
            let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
            if json {
                return Ok(format!("{:#}", json!({ "valid": true, "warnings": warnings })));
            }
            let what = if loaded.text.trim().is_empty() {
                "says nothing: all defaults"
            } else {
                "is a config"
            };
            let told = format!("{} {what}", file.path().display());
            let warned = warnings.iter().map(|warning| format!("\nwarning: {warning}"));
            Ok(told + &warned.collect::<String>())
        }
        Err(error) if json => {
            let problems = match &error {
                ConfigError::Faulty { faults, .. } => faults
                    .iter()
                    .map(|fault| {
                        json!({
                            "line": fault.place.map(|place| place.line),
                            "column": fault.place.map(|place| place.column),
                            "key": fault.key,
                            "problem": fault.problem,
                        })
                    })
                    .collect(),
                other => vec![json!({ "problem": other.to_string() })],
            };
            let answer = format!("{:#}", json!({ "valid": false, "problems": problems }));
            Err(Failed { code: exit::CONFIG, told: Told::Answer(answer) })
        }
        Err(error) => Err(error.into()),
    }
}

fn say(text: &str) {
    // Whoever closed the pipe has read enough.
    let _ = writeln!(io::stdout(), "{text}");
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
