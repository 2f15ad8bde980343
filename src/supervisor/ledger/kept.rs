//! What of a full ledger is kept.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};

use crate::protocol::control::RestartId;

use super::MAX_ID;

/// Of each line, oldest first, whether it is kept; all that are kept have at most `at_most` bytes,
/// their ends included. What is no line of JSON (`None`) is not kept.
///
/// The newest lines take two thirds of it. The rest is for older lines without which those could
/// not be understood: the last start of a supervisor and of a child, the highest id ever given (or
/// an id would be given twice), and the earlier lines of incidents that go on among the newest.
pub fn keep(lines: &[Option<Heading>], at_most: u64) -> Vec<bool> {
    let size = |line: &Option<Heading>| line.as_ref().map_or(0, |heading| heading.size);
    let mut kept = vec![false; lines.len()];
    let mut taken = 0;
    let mut cut = lines.len();
    while cut > 0 && taken + size(&lines[cut - 1]) <= at_most / 3 * 2 {
        cut -= 1;
        taken += size(&lines[cut]);
        kept[cut] = lines[cut].is_some();
    }
    let (older, newest) = lines.split_at(cut);
    let id = |line: &Option<Heading>| line.as_ref().and_then(|heading| heading.id);
    // In order, each once; lists and no sets, which are more code for the parent to carry.
    let mut ids: Vec<_> = newest.iter().filter_map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    let highest = older.iter().filter_map(id).max();
    let highest = highest.filter(|highest| ids.last().is_none_or(|last| last < highest));

    let last = |start: Start| {
        let is_it = |line: &Option<Heading>| {
            line.as_ref().is_some_and(|heading| heading.start == Some(start))
        };
        let is_there = newest.iter().any(is_it);
        older.iter().rposition(is_it).filter(|_| !is_there)
    };
    let highest = highest.and_then(|highest| older.iter().rposition(|h| id(h) == Some(highest)));
    let wanted = [last(Start::Supervisor), last(Start::Child), highest];
    // First the causes, then what followed, the newest first.
    let goes_on = |at: usize| id(&older[at]).and_then(|id| ids.binary_search(&id).ok());
    let mut causes = vec![None; ids.len()];
    for at in 0..older.len() {
        if let Some(number) = goes_on(at) {
            causes[number].get_or_insert(at);
        }
    }
    let causes = causes.into_iter().flatten();
    let followed = (0..older.len()).rev().filter(|at| goes_on(*at).is_some());
    for at in wanted.into_iter().flatten().chain(causes).chain(followed) {
        if !kept[at] && taken + size(&lines[at]) <= at_most {
            taken += size(&lines[at]);
            kept[at] = true;
        }
    }
    kept
}

/// What decides about a line. Small: there is one for each line of a full ledger.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heading {
    /// In bytes, its end included.
    size: u64,
    id: Option<RestartId>,
    start: Option<Start>,
}

/// Whose start a line tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    Supervisor,
    Child,
}

impl Heading {
    /// Of a line without its end. `None`: it is not JSON. Of JSON that is none of ours only the
    /// size is known.
    pub fn of(line: &[u8]) -> Option<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Keys<'a> {
            #[serde(borrow)]
            event: Cow<'a, str>,
            id: Option<RestartId>,
        }
        // Nobody else looks at the bytes of a string that is skipped.
        str::from_utf8(line).ok()?;
        let Keys { event, id } = match serde_json::from_slice(line) {
            Ok(keys) => keys,
            Err(_) => serde_json::from_slice::<IgnoredAny>(line).map(|_| Keys::default()).ok()?,
        };
        let start = match &*event {
            "started" => Some(Start::Supervisor),
            "spawned" => Some(Start::Child),
            _ => None,
        };
        Some(Self { size: line.len() as u64 + 1, id: id.filter(|id| *id <= MAX_ID), start })
    }

    /// The id that it names.
    pub fn id(&self) -> Option<RestartId> {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn kept(lines: &[String], at_most: u64) -> Vec<&str> {
        let kept = keep(&headings(lines), at_most);
        lines.iter().zip(kept).filter(|(_, kept)| *kept).map(|(line, _)| line.as_str()).collect()
    }

    fn headings(lines: &[String]) -> Vec<Option<Heading>> {
        lines.iter().map(|line| Heading::of(line.as_bytes())).collect()
    }

    fn of(id: u64, event: &str) -> String {
        format!(r#"{{"at":1,"event":"{event}","id":"r-{id:04}"}}"#)
    }

    #[test]
    fn a_heading_is_known_by_what_the_line_says_and_garbage_has_none() {
        let heading = |line: &str| Heading::of(line.as_bytes());
        let line = r#"{"event":"spawned","id":"r-0007","x":[]}"#;
        let (size, id) = (line.len() as u64 + 1, Some(RestartId(7)));
        assert_eq!(heading(line), Some(Heading { size, id, start: Some(Start::Child) }));
        // JSON that is none of ours, and an id that would leave none for the next.
        let beyond = format!(r#"{{"event":"joined","id":"r-{}"}}"#, MAX_ID.0 + 1);
        for foreign in ["1", "[]", r#"{"event":1,"id":"r-0007"}"#, &beyond] {
            let heading = heading(foreign).unwrap();
            let size = foreign.len() as u64 + 1;
            assert_eq!(heading, Heading { size, id: None, start: None }, "{foreign}");
        }
        for garbage in ["", "{", "nul", "{}x"] {
            assert_eq!(heading(garbage), None, "{garbage}");
        }
        assert_eq!(Heading::of(b"\"\xff\""), None);
    }

    #[test]
    fn an_incident_that_goes_on_keeps_its_beginning() {
        let mut lines = vec![of(1, "requested"), of(2, "requested"), of(2, "verdict")];
        lines.extend((0..20).map(|_| r#"{"at":1,"event":"denied","why":"no"}"#.to_owned()));
        lines.push(of(1, "verdict"));
        let kept = kept(&lines, 600);
        assert_eq!(kept.first(), Some(&lines[0].as_str()));
        assert_eq!(kept.last(), Some(&lines[23].as_str()));
    }

    #[test]
    fn the_highest_id_stays_though_nothing_newer_names_it() {
        let mut lines = vec![of(7, "requested"), of(9, "requested"), of(7, "verdict")];
        lines.extend((0..20).map(|_| r#"{"at":1,"event":"denied","why":"no"}"#.to_owned()));
        assert_eq!(kept(&lines, 300)[0], lines[1]);
    }

    #[test]
    fn the_last_run_and_its_child_stay_known() {
        let line = |event: &str, n: u32| format!(r#"{{"event":"{event}","n":{n}}}"#);
        let mut lines = vec![line("started", 1), line("started", 2), line("spawned", 3)];
        lines.extend((0..40).map(|n| line("denied", n)));
        assert_eq!(kept(&lines, 300)[..2], [lines[1].as_str(), lines[2].as_str()]);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_holds_the_newest(
            lines in collection::vec((0..9u64, 0..60usize, 0..3u8), 0..80),
            at_most in 0..2000u64,
        ) {
            let lines: Vec<String> = lines
                .into_iter()
                .map(|(id, pad, kind)| match kind {
                    0 => of(id, &"x".repeat(pad)),
                    1 => format!("{:?}", "x".repeat(pad)),
                    _ => "?".repeat(pad),
                })
                .collect();
            let headings = headings(&lines);
            let kept = keep(&headings, at_most);
            let size = |skip: usize, all: bool| -> u64 {
                let lines = headings.iter().zip(&kept).skip(skip);
                lines.filter(|(_, kept)| all || **kept).filter_map(|(h, _)| Some((*h)?.size)).sum()
            };
            prop_assert!(size(0, false) <= at_most);
            for (at, (kept, heading)) in kept.iter().zip(&headings).enumerate() {
                if heading.is_some() {
                    prop_assert!(*kept || size(at, true) > at_most / 3 * 2, "line {at} is new");
                } else {
                    prop_assert!(!kept, "line {at} is garbage");
                }
            }
            let highest = |only_kept: bool| {
                let lines = headings.iter().zip(&kept).filter(|(_, kept)| **kept || !only_kept);
                lines.filter_map(|(heading, _)| (*heading)?.id).max()
            };
            // A third of it is room enough for three lines of these.
            prop_assert!(at_most < 900 || highest(true) == highest(false));
        }
    }
}
