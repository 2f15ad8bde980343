//! The text of a config file: what is read, what is refused, and what `lockkeeper check` shows.
#![no_main]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use libfuzzer_sys::{Corpus, fuzz_target};
use lockkeeper::{
    config::{
        Effective,
        error::ConfigError,
        layers::{self, Layers, Leaf, Origin},
        rules,
        settings::Settings,
    },
    protocol::{control::is_secret_name, exit::SpawnFailure},
    supervisor::{
        event::{Action, Event},
        machine::Supervisor,
        policy::Policy,
    },
};

const FILE: &str = "lockkeeper.toml";

fuzz_target!(|text: &str| -> Corpus {
    let leaves = match layers::read(text, Path::new(FILE)) {
        Ok(leaves) => leaves,
        Err(refused) => {
            assert_names_a_line(&refused, text);
            return Corpus::Keep;
        }
    };
    let lines = text.split('\n').count();
    for leaf in &leaves {
        let Origin::File { line, .. } = leaf.origin else { panic!("not from the file: {leaf:?}") };
        assert!((1..=lines).contains(&line), "line {line} of {lines}");
    }
    let (settings, layers) = resolved(leaves);
    if let Err(violation) = rules::check(&settings) {
        assert!(!violation.keys.is_empty() && !violation.problem.is_empty());
        assert!(!violation.problem.contains(char::is_control), "{violation:?}");
        return Corpus::Keep;
    }
    assert_machine_lives(settings.policy());
    let origins = layers.into_origins();
    let shown = Effective { settings, origins, version: None, notes: Vec::new() };
    assert_reads_back(&shown);
    Corpus::Keep
});

fn resolved(leaves: Vec<Leaf>) -> (Settings, Layers) {
    let mut layers = Layers::default();
    leaves.into_iter().for_each(|leaf| layers.add(leaf));
    (layers.settings().expect("what `read` lets through has the type of its key"), layers)
}

/// An operator who is refused is told the file and the line, in one line.
fn assert_names_a_line(refused: &ConfigError, text: &str) {
    let said = refused.to_string();
    let line = said.strip_prefix(FILE).and_then(|said| said.strip_prefix(':'));
    let line = line.and_then(|said| said.split_once(':')).and_then(|(line, _)| line.parse().ok());
    let lines = text.split('\n').count();
    assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{said:?}");
    assert!(!said.contains(char::is_control), "{said:?}");
    assert!(said.len() < 2_000, "{said:?}");
}

/// What is shown could be used as a file, and says the same; secrets are not in it.
fn assert_reads_back(shown: &Effective) {
    let text = shown.render();
    let leaves = layers::read(&text, Path::new(FILE));
    let (read, _) = resolved(leaves.unwrap_or_else(|refused| panic!("{refused}\n{text}")));
    let mut expected = shown.settings.clone();
    let variables = expected.env.set.iter_mut();
    variables.filter(|(name, _)| is_secret_name(name)).for_each(|(_, value)| *value = "***".into());
    assert_eq!(read, expected, "{text}");
    assert!(shown.to_json().as_object().is_some_and(|entries| !entries.is_empty()));
}

/// A child that never starts, and a clock at which each deadline comes: no duration that the file
/// may hold brings the machine's arithmetic down.
fn assert_machine_lives(policy: Policy) {
    let mut now = Instant::now();
    let mut boot = Duration::ZERO;
    let mut machine = Supervisor::new(policy, 7);
    machine.handle_event(now, Event::Started { orphan: false });
    for round in 0..16 {
        while let Some(action) = machine.poll_action() {
            match action {
                Action::Spawn { generation, .. } => machine.handle_event(
                    now,
                    Event::SpawnFailed { generation, failure: SpawnFailure::NoResources, boot },
                ),
                Action::Exit { .. } => return,
                _ => {}
            }
        }
        if round == 12 {
            machine.handle_event(now, Event::StopRequested);
            continue;
        }
        let Some(deadline) = machine.poll_timeout() else { continue };
        boot += deadline.saturating_duration_since(now);
        now = now.max(deadline);
        machine.handle_timeout(now);
    }
}
