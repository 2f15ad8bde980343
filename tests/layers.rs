//! The house's own rules, read from `src/`: arrows point down, the outside world is touched in few
//! files, and an adapter crate is named in one.
//!
//! Layers, from the ground: protocol 0, machines 1, config 2, sys 3, drivers 4, cli and gateway 5,
//! the crate's root 6, bins 7. Only code counts: comments, strings and `#[cfg(test)]` items are
//! taken out first, so that a test may borrow from above.

#![allow(clippy::disallowed_methods)]

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

#[path = "support/source.rs"]
mod source;

use source::Source;

/// Domains whose files, but for the driver, are pure machines that never import one another.
const MACHINES: [&str; 4] = ["supervisor", "restart", "drain", "lifecycle"];
/// Domains of layer 5, which do not know of each other either.
const TOPS: [&str; 2] = ["cli", "gateway"];
/// A crate and the one file that may name it, so that replacing it is a change to that file.
const ADAPTERS: [(&str, &str); 3] =
    [("fs2", "sys/lock.rs"), ("command_group", "sys/process.rs"), ("sd_notify", "sys/upstream.rs")];
/// What fits into a head; tests in the same file are not counted.
const MOST_LINES: usize = 600;

#[test]
fn no_arrow_points_up() {
    assert_none(sources().iter().flat_map(upward_arrows));
}

#[test]
fn only_drivers_sys_cli_and_bins_touch_the_world() {
    assert_none(sources().iter().flat_map(worldly_files_out_of_place));
}

#[test]
fn an_adapter_crate_is_named_in_one_file() {
    assert_none(sources().iter().flat_map(adapters_out_of_place));
}

#[test]
fn no_file_is_too_long_to_read() {
    assert_none(sources().iter().flat_map(too_long));
}

#[test]
fn a_planted_upward_arrow_is_found_in_every_spelling() {
    for (path, text, line) in [
        ("protocol/exit.rs", "use crate::supervisor::policy::Policy;", 1),
        ("protocol/exit.rs", "\n\nuse crate::{\n    protocol::signal,\n    sys::lock,\n};", 5),
        ("supervisor/machine.rs", "fn f() { crate::config::schema::load() }", 1),
        ("supervisor/machine.rs", "use super::driver::Driver;", 1),
        ("supervisor/machine.rs", "use super::{policy::Policy, driver};", 1),
        ("supervisor/machine/states.rs", "use super::super::super::sys::clock;", 1),
        ("supervisor/mod.rs", "mod driver;\npub use driver::run;", 2),
        ("supervisor/mod.rs", "pub use self::driver::run;", 1),
        ("sys/lock.rs", "use crate::supervisor as s;\nfn f() { s::driver::run() }", 2),
        ("sys/lock.rs", "use crate::config::{self, schema};\nfn f(_: config::driver::F) {}", 2),
        ("sys/lock.rs", "use crate::*;", 1),
        ("sys/lock.rs", "use crate::Supervisor;", 1),
        ("supervisor/driver.rs", "use crate::cli;", 1),
        ("restart/grant.rs", "fn f<'a>(x: &'a str) { let _ = 'x'; crate::sys::f(x) }", 1),
        ("restart/grant.rs", "const A: &str = r#\"\"\"#; type T = crate::sys::T;", 1),
        ("config/schema.rs", "type T = lockkeeper::sys::T;", 1),
        ("attic/mod.rs", "", 1),
    ] {
        let found = upward_arrows(&Source::new(path, text));
        assert_eq!(found.len(), 1, "{path}: {text}\n{found:?}");
        assert_eq!(found[0].line, line, "{path}: {text}");
    }
}

#[test]
fn a_planted_arrow_between_siblings_is_found() {
    for (path, text) in [
        ("supervisor/machine.rs", "use crate::restart::scheduler::Scheduler;"),
        ("drain/gate.rs", "use crate::lifecycle;"),
        ("gateway/server.rs", "use crate::supervisor::policy::Policy;"),
        ("gateway/server.rs", "use crate::cli;"),
        ("cli/run.rs", "use crate::gateway::server;"),
    ] {
        let found = upward_arrows(&Source::new(path, text)).len();
        assert_eq!(found, 1, "{path}: {text}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    for (path, text) in [
        ("protocol/exit.rs", "use super::signal::Signal;"),
        ("protocol/exit.rs", "//! See [`crate::sys::lock`].\n/* crate::cli /* nested */ */"),
        ("protocol/exit.rs", "const A: &str = \"crate::sys\"; const B: char = '\"';"),
        ("protocol/exit.rs", "#[cfg(test)]\nmod tests {\n    use crate::sys::clock;\n}"),
        ("protocol/exit.rs", "#[cfg(test)]\nuse crate::sys::clock;"),
        ("protocol/mod.rs", "pub mod exit;\npub(crate) mod signal;\npub use exit::ChildExit;"),
        ("supervisor/machine.rs", "use crate::protocol::{exit, signal::Signal};"),
        ("supervisor/driver.rs", "use crate::{restart::grant::Grant, sys::{lock, notify}};"),
        ("supervisor/driver/ready.rs", "use super::super::machine; use crate::config::driver;"),
        ("config/driver.rs", "use crate::sys::clock;"),
        ("cli/restart.rs", "use super::status; fn f() { restart::f() }"),
        ("lib.rs", "pub mod supervisor;\npub use supervisor::driver::run;"),
        ("main.rs", "use lockkeeper::{cli, sys::lock};"),
    ] {
        let found = upward_arrows(&Source::new(path, text));
        assert!(found.is_empty(), "{path}: {text}\n{found:?}");
    }
}

#[test]
fn planted_worldliness_adapters_and_length_are_found() {
    let allow = "#![allow(clippy::disallowed_methods)]";
    assert_eq!(worldly_files_out_of_place(&Source::new("supervisor/machine.rs", allow)).len(), 1);
    assert_eq!(worldly_files_out_of_place(&Source::new("config/schema.rs", allow)).len(), 1);
    for path in ["supervisor/driver.rs", "sys/lock.rs", "cli/run.rs", "main.rs", "bin/gateway.rs"] {
        assert_eq!(worldly_files_out_of_place(&Source::new(path, allow)).len(), 0, "{path}");
    }

    let names = "fn f() { fs2::FileExt::unlock(&file) }";
    assert_eq!(adapters_out_of_place(&Source::new("sys/control.rs", names)).len(), 1);
    assert_eq!(adapters_out_of_place(&Source::new("sys/lock.rs", names)).len(), 0);

    let long = "fn f() {}\n".repeat(MOST_LINES);
    assert_eq!(too_long(&Source::new("sys/lock.rs", &long)).len(), 0);
    let tested = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(too_long(&Source::new("sys/lock.rs", &tested)).len(), 0);
    assert_eq!(too_long(&Source::new("sys/lock.rs", &format!("{long}fn g() {{}}\n"))).len(), 1);
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic_and_keeps_its_lines(
        text in r#"([a-z:{}#"'/*\\ \n(\[\])]|crate::|use |r#"|#\[cfg\(test\)\]){0,40}"#,
    ) {
        let source = Source::new("protocol/exit.rs", &text);
        prop_assert_eq!(source.code.matches('\n').count(), text.matches('\n').count());
        upward_arrows(&source);
    }
}

/// One broken rule, told as compilers tell it.
#[derive(Debug)]
struct Finding {
    file: PathBuf,
    line: usize,
    what: String,
}

impl Finding {
    fn new(source: &Source, line: usize, what: String) -> Self {
        Self { file: source.file.clone(), line, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

fn assert_none(findings: impl Iterator<Item = Finding>) {
    let told: Vec<_> = findings.map(|finding| finding.to_string()).collect();
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

fn upward_arrows(source: &Source) -> Vec<Finding> {
    let Some(own) = layer(&source.module) else {
        let what = "this folder has no layer: give it one in tests/layers.rs".to_owned();
        return vec![Finding::new(source, 1, what)];
    };
    let arrows = source.references().into_iter().filter_map(|reference| {
        // A name that is no domain belongs to the root: one of its re-exports.
        let target = layer(&reference.path).unwrap_or(ROOT);
        let name = format!("crate::{}", reference.path.join("::"));
        let what = if target > own {
            format!("layer {own} names `{name}` of layer {target}: arrows point down")
        } else if estranged(&source.module, &reference.path) {
            format!("`{}` and `{name}` are siblings that do not know each other", source.module[0])
        } else {
            return None;
        };
        Some(Finding::new(source, reference.line, what))
    });
    arrows.collect()
}

fn worldly_files_out_of_place(source: &Source) -> Vec<Finding> {
    let worldly = matches!(layer(&source.module), Some(3 | 4 | 7))
        || source.module.first().is_some_and(|domain| TOPS.contains(&domain.as_str()));
    let lines = if worldly { Vec::new() } else { source.lines_with("disallowed_methods") };
    let told = "only drivers, sys/, cli/, gateway/ and bins touch the world";
    lines.into_iter().map(|line| Finding::new(source, line, told.into())).collect()
}

fn adapters_out_of_place(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, home) in ADAPTERS {
        if source.file != Path::new(home) {
            let told =
                |line| Finding::new(source, line, format!("`{name}` is named in {home} only"));
            findings.extend(source.lines_with(name).into_iter().map(told));
        }
    }
    findings
}

fn too_long(source: &Source) -> Vec<Finding> {
    let long = source.length > MOST_LINES;
    let what = format!("{} lines without its tests, at most {MOST_LINES}", source.length);
    long.then(|| Finding::new(source, MOST_LINES + 1, what)).into_iter().collect()
}

const ROOT: u8 = 6;

/// The layer of a module, told by its path below `crate`. `None`: of no domain.
fn layer(module: &[String]) -> Option<u8> {
    let mut parts = module.iter().map(String::as_str);
    match (parts.next(), parts.next()) {
        (None, _) => Some(ROOT),
        (Some("bin"), _) => Some(7),
        (Some(domain), Some("driver")) if MACHINES.contains(&domain) || domain == "config" => {
            Some(4)
        }
        (Some("protocol"), _) => Some(0),
        (Some(domain), _) if MACHINES.contains(&domain) => Some(1),
        (Some("config"), _) => Some(2),
        (Some("sys"), _) => Some(3),
        (Some(domain), _) if TOPS.contains(&domain) => Some(5),
        _ => None,
    }
}

/// Whether the arrow, though it does not point up, joins two domains that must not know each other.
fn estranged(from: &[String], to: &[String]) -> bool {
    let (Some(here), Some(there)) = (from.first(), to.first()) else { return false };
    let both = |set: &[&str]| set.contains(&here.as_str()) && set.contains(&there.as_str());
    here != there
        && ((both(&MACHINES) && layer(from) == Some(1))
            || both(&TOPS)
            // The child's half must link without the parent.
            || (here == "gateway" && there == "supervisor"))
}

/// All of `src/` but the files of tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src/ is there") {
            let path = entry.expect("src/ can be listed").path();
            let is_tests = path.file_stem().is_some_and(|stem| stem == "tests");
            if path.is_dir() && !is_tests {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_tests {
                let text = fs::read_to_string(&path).expect("a source file is text");
                let below = path.strip_prefix(&root).expect("it was found below src/");
                sources.push(Source::new(below, &text));
            }
        }
    }
    assert!(!sources.is_empty(), "no sources below {}", root.display());
    sources
}
