//! What of a full ledger is kept.

use std::{borrow::Cow, collections::BTreeSet};

use serde::Deserialize;

use crate::protocol::control::RestartId;

/// Of each line, oldest first, whether it is kept; all that are kept have at most `at_most` bytes,
/// their ends included.
///
/// The newest lines take two thirds of it. The rest is for older lines without which those could
/// not be understood: the last start of a supervisor and of a child, the highest id ever given (or
/// an id would be given twice), and the earlier lines of incidents that go on among the newest.
pub fn keep<S: AsRef<str>>(lines: &[S], at_most: u64) -> Vec<bool> {
    let size = |line: &S| line.as_ref().len() as u64 + 1;
    let mut kept = vec![false; lines.len()];
    let mut taken = 0;
    let mut cut = lines.len();
    while cut > 0 && taken + size(&lines[cut - 1]) <= at_most / 3 * 2 {
        cut -= 1;
        taken += size(&lines[cut]);
        kept[cut] = true;
    }
    let (older, newest) = lines.split_at(cut);
    let older: Vec<_> = older.iter().map(Heading::of).collect();
    let newest: Vec<_> = newest.iter().map(Heading::of).collect();
    let ids: BTreeSet<_> = newest.iter().filter_map(Heading::id).collect();
    let highest = older.iter().filter_map(Heading::id).max();
    let highest = highest.filter(|highest| ids.last().is_none_or(|last| last < highest));

    let last = |event: &str| {
        let is_there = newest.iter().any(|heading| heading.is(event));
        older.iter().rposition(|heading| heading.is(event)).filter(|_| !is_there)
    };
    let wanted = [last("started"), last("spawned"), position_of(&older, highest)];
    // First the causes, then what followed, the newest first.
    let causes = ids.iter().filter_map(|id| older.iter().position(|h| h.id() == Some(*id)));
    let followed =
        (0..older.len()).rev().filter(|at| older[*at].id().is_some_and(|id| ids.contains(&id)));
    for at in wanted.into_iter().flatten().chain(causes).chain(followed) {
        if !kept[at] && taken + size(&lines[at]) <= at_most {
            taken += size(&lines[at]);
            kept[at] = true;
        }
    }
    kept
}

/// What decides about a line; of one that is not ours, nothing.
#[derive(Debug, Default, Deserialize)]
struct Heading<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    id: Option<RestartId>,
}

impl<'a> Heading<'a> {
    fn of<S: AsRef<str>>(line: &'a S) -> Self {
        serde_json::from_str(line.as_ref()).unwrap_or_default()
    }

    fn id(&self) -> Option<RestartId> {
        self.id
    }

    fn is(&self, event: &str) -> bool {
        self.event == event
    }
}

fn position_of(headings: &[Heading<'_>], id: Option<RestartId>) -> Option<usize> {
    let id = id?;
    headings.iter().rposition(|heading| heading.id == Some(id))
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    fn kept(lines: &[String], at_most: u64) -> Vec<&str> {
        let kept = keep(lines, at_most);
        lines.iter().zip(kept).filter(|(_, kept)| *kept).map(|(line, _)| line.as_str()).collect()
    }

    fn of(id: u64, event: &str) -> String {
        format!(r#"{{"at":1,"event":"{event}","id":"r-{id:04}"}}"#)
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
            lines in collection::vec((0..9u64, 0..60usize, any::<bool>()), 0..80),
            at_most in 0..2000u64,
        ) {
            let lines: Vec<String> = lines
                .into_iter()
                .map(|(id, pad, ours)| if ours { of(id, &"x".repeat(pad)) } else { "?".repeat(pad) })
                .collect();
            let kept = keep(&lines, at_most);
            let size = |skip: usize, all: bool| -> u64 {
                let lines = lines.iter().zip(&kept).skip(skip);
                lines.filter(|(_, kept)| all || **kept).map(|(line, _)| line.len() as u64 + 1).sum()
            };
            prop_assert!(size(0, false) <= at_most);
            for (at, kept) in kept.iter().enumerate() {
                prop_assert!(*kept || size(at, true) > at_most / 3 * 2, "line {at} is new");
            }
            let highest = |only_kept: bool| {
                let lines = lines.iter().zip(&kept).filter(|(_, kept)| **kept || !only_kept);
                lines.filter_map(|(line, _)| Heading::of(line).id).max()
            };
            // A third of it is room enough for three lines of these.
            prop_assert!(at_most < 900 || highest(true) == highest(false));
        }
    }
}
