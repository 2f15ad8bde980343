//! The house's own rules, read from `src/`: arrows point down, the outside world is touched in few
//! files, and an adapter crate is named in one.
//!
//! Layers, from the ground: protocol and units 0, machines 1, config 2, sys 3, drivers 4, cli and gateway 5,
//! the crate's root 6, bins 7. Only code counts: comments, strings and `#[cfg(test)]` items are
//! taken out first, so that a test may borrow from above.
//!
//! The `mod.rs` of a machine domain is its facade: it may give on, by `pub use driver::X`, what its
//! own driver has. Such a name is of layer 4, though its path does not say so: below that layer
//! nobody names `drain::Drain`, nor any other type or glob of a domain itself.

#![allow(clippy::disallowed_methods)]

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

#[path = "support/source.rs"]
mod source;

use source::{Reference, Source};

/// Domains whose files, but for the driver, are pure machines that never import one another.
const MACHINES: [&str; 4] = ["supervisor", "restart", "drain", "lifecycle"];
/// Domains that must link without the parent, their drivers too.
const CHILDS: [&str; 4] = ["drain", "restart", "lifecycle", "gateway"];
/// Domains of layer 5, which do not know of each other either.
const TOPS: [&str; 2] = ["cli", "gateway"];
/// A crate and the one file that may name it, so that replacing it is a change to that file.
const ADAPTERS: [(&str, &str); 3] =
    [("fs2", "sys/lock.rs"), ("command_group", "sys/process.rs"), ("sd_notify", "sys/upstream.rs")];
/// What fits into a head; tests in the same file are not counted.
const MOST_LINES: usize = 600;

#[test]
fn no_arrow_points_up() {
    let sources = sources();
    let facades: Vec<_> = sources.iter().flat_map(facade).collect();
    assert_none(sources.iter().flat_map(|source| upward_arrows(source, &facades)));
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
        ("supervisor/mod.rs", "mod driver;\nuse driver::run;", 2),
        ("supervisor/mod.rs", "pub(crate) use self::driver::run;", 1),
        ("supervisor/mod.rs", "mod driver;\npub fn f() { driver::run() }", 2),
        ("supervisor/mod.rs", "pub use self::driver;", 1),
        ("supervisor/mod.rs", "pub use self::driver::*;", 1),
        ("supervisor/mod.rs", "pub use crate::restart::driver::run;", 1),
        ("supervisor/mod.rs", "pub use super::config::driver::run;", 1),
        ("supervisor/machine.rs", "pub use super::driver::run;", 1),
        ("supervisor/machine/mod.rs", "pub use super::driver::run;", 1),
        ("config/mod.rs", "pub use self::driver::load;", 1),
        ("drain/gate.rs", "use super::Drain;", 1),
        ("drain/gate.rs", "use super::{label::Label, Drain};", 1),
        ("drain/gate.rs", "use super::*;", 1),
        ("drain/plan/event.rs", "fn f(_: &crate::drain::Drain) {}", 1),
        ("drain/mod.rs", "fn f(_: &self::Drain) {}", 1),
        ("lifecycle/respawn.rs", "fn f() { super::go() }", 1),
        ("config/schema.rs", "use crate::lifecycle as l;\nfn f() { l::go() }", 2),
        ("sys/lock.rs", "use crate::drain::Drain as D;", 1),
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
        let found = upward_arrows(&Source::new(path, text), &planted_facades());
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
        // The child's half must link without the parent.
        ("drain/driver.rs", "use crate::supervisor::policy::Policy;"),
        ("drain/driver/handle.rs", "use crate::supervisor::driver::run;"),
        ("lifecycle/driver.rs", "fn f() { crate::supervisor::driver::run() }"),
        ("restart/driver.rs", "use crate::{protocol::exit, supervisor::Supervisor};"),
    ] {
        let found = upward_arrows(&Source::new(path, text), &planted_facades()).len();
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
        ("lib.rs", "pub use drain::Drain;"),
        ("drain/mod.rs", "pub mod driver;\npub use driver::Drain;"),
        ("drain/mod.rs", "pub use self::driver::{Drain, lane::Lanes as L};"),
        ("lifecycle/mod.rs", "pub use self::driver::go;"),
        ("drain/driver/handle.rs", "use super::super::Drain; use crate::drain::*;"),
        ("lifecycle/driver.rs", "use crate::{drain::Drain, restart::driver::Restarts};"),
        ("restart/driver.rs", "use crate::{drain::driver::x, lifecycle::go};"),
        ("drain/driver.rs", "use crate::{restart::driver::x, lifecycle::driver::y};"),
        ("supervisor/driver.rs", "use crate::drain::{Drain, gate::Gate};"),
        ("drain/plan/event.rs", "use super::*; use super::Leaving;"),
        ("restart/scheduler.rs", "use crate::protocol::*; use self::event::Action;"),
        ("main.rs", "use lockkeeper::{cli, sys::lock};"),
    ] {
        let found = upward_arrows(&Source::new(path, text), &planted_facades());
        assert!(found.is_empty(), "{path}: {text}\n{found:?}");
    }
}

/// `drain::Drain` and `lifecycle::go`.
fn planted_facades() -> Vec<Vec<String>> {
    let planted = [
        ("drain/mod.rs", "mod driver;\npub use driver::handle::Handle as Drain;"),
        ("lifecycle/mod.rs", "pub use self::driver::go;"),
    ];
    planted.into_iter().flat_map(|(path, text)| facade(&Source::new(path, text))).collect()
}

#[test]
fn a_facade_tells_by_which_name_it_gives_its_driver_on() {
    let told: Vec<_> = planted_facades().iter().map(|path| path.join("::")).collect();
    assert_eq!(told, ["drain::Drain", "lifecycle::go"]);
    let others = "pub use self::gate::Gate; pub use crate::restart::driver::x; use driver::y;";
    assert!(facade(&Source::new("drain/mod.rs", others)).is_empty());
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
        upward_arrows(&source, &planted_facades());
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

/// The names that a domain's `mod.rs` gives on of its own driver, as paths below `crate`.
fn facade(source: &Source) -> Vec<Vec<String>> {
    let given = source.references().into_iter().filter(|it| is_given_on(source, it));
    given.map(|reference| vec![source.module[0].clone(), reference.given_on_as]).collect()
}

/// Whether a machine domain's `mod.rs` does no more than to give on what its own driver has.
fn is_given_on(source: &Source, reference: &Reference) -> bool {
    let is_own = match (&source.module[..], &reference.path[..]) {
        ([own], [domain, driver, _, ..]) => own == domain && driver == "driver",
        _ => false,
    };
    is_own && MACHINES.contains(&source.module[0].as_str()) && !reference.given_on_as.is_empty()
}

fn upward_arrows(source: &Source, facades: &[Vec<String>]) -> Vec<Finding> {
    let Some(own) = layer(&source.module) else {
        let what = "this folder has no layer: give it one in tests/layers.rs".to_owned();
        return vec![Finding::new(source, 1, what)];
    };
    let arrows = source.references().into_iter().filter_map(|reference| {
        if is_given_on(source, &reference) {
            return None;
        }
        // A name that is no domain belongs to the root: one of its re-exports.
        let target = if names_facade(&reference.path, facades) {
            4
        } else {
            layer(&reference.path).unwrap_or(ROOT)
        };
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

/// Whether the path goes to something that a machine domain's facade gives on, or may give on.
fn names_facade(path: &[String], facades: &[Vec<String>]) -> bool {
    let [domain, name, ..] = path else { return false };
    MACHINES.contains(&domain.as_str())
        && (name == "*"
            || name.starts_with(char::is_uppercase)
            // A longer path goes on in a module of the same name.
            || (path.len() == 2 && facades.iter().any(|facade| facade[..] == *path)))
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
        (Some("protocol" | "units"), _) => Some(0),
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
            || (CHILDS.contains(&here.as_str()) && there == "supervisor"))
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
