//! `docs/pains.md` held against the source: each pain names a test that exists, or says why it still
//! can happen; and no thread is missing.

#![allow(clippy::disallowed_methods, reason = "it reads the source")]

use std::{collections::BTreeSet, fs, mem};

#[path = "support/files.rs"]
mod files;

use files::{read, sources};

const PAGE: &str = "docs/pains.md";
/// Where tests are.
const FOLDERS: [&str; 2] = ["src", "tests"];

/// The threads of each group.
const THREADS: [(&str, &[u32]); 9] = [
    (
        "B",
        &[
            20893, 20930, 9112, 94964, 94772, 79510, 96344, 79487, 83067, 83068, 69304, 43569,
            56566, 8762, 91997, 112_432, 43628, 119_576,
        ],
    ),
    (
        "C",
        &[
            8069, 65668, 75115, 33149, 79534, 24151, 47746, 27013, 64055, 24097, 47222, 36840,
            36793, 67544, 90796, 90934,
        ],
    ),
    (
        "D",
        &[
            541, 20629, 24206, 25121, 140_568, 90305, 140_821, 140_914, 93570, 63912, 63913, 9036,
            80696, 98291, 116_177, 116_178, 109_273, 58251, 109_969, 284, 308,
        ],
    ),
    (
        "E",
        &[
            27650, 29930, 58306, 82248, 82250, 20272, 84363, 108_293, 109_969, 58251, 40905, 39229,
            44093, 48084, 40195, 35962, 35862, 22179, 69799, 78049, 10753, 118_372, 43628,
        ],
    ),
    (
        "F",
        &[
            107_322, 142_170, 78136, 83685, 79577, 79584, 68510, 68511, 27407, 82824, 42441, 47719,
            78587, 57582, 63376, 71208, 131_094, 86350, 86388, 153_462,
        ],
    ),
    (
        "G",
        &[
            73178, 73221, 76239, 77885, 97616, 97731, 79909, 21, 471, 20, 2436, 109_162, 130_888,
            130_961, 152_863,
        ],
    ),
    (
        "H",
        &[
            25595, 63562, 106_920, 118_244, 76275, 72323, 65815, 131_021, 153_177, 68510, 79577,
            115_326, 146_851, 80696, 44093,
        ],
    ),
    ("I", &[49036, 26579, 49603, 76823, 57115, 138_657, 144_171, 140_162, 69057, 84280, 78435]),
    ("J", &[65391, 77297, 100_628, 75774, 111_370, 13772, 150_578, 155_191, 812, 815]),
];

#[test]
fn every_pain_names_a_test_that_exists_or_says_why_it_still_can() {
    let wrong = faults(&read(PAGE), &tests());
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}

#[test]
fn no_thread_is_missing() {
    let page = read(PAGE);
    let mut missing = Vec::new();
    for (group, threads) in THREADS {
        let named = numbers(section(&page, group));
        missing.extend(
            threads
                .iter()
                .filter(|thread| !named.contains(thread))
                .map(|t| format!("{group}: #{t}")),
        );
        let foreign = named.iter().filter(|number| !threads.contains(number));
        missing.extend(foreign.map(|number| format!("{group}: who knows #{number}?")));
    }
    assert!(missing.is_empty(), "{PAGE}:\n{}", missing.join("\n"));
}

#[test]
fn planted_faults_of_a_table_are_found() {
    let tests = BTreeSet::from(["it_holds".to_owned()]);
    for (row, fault) in [
        ("| #1 | a | b | `it_holds` |", ""),
        ("| #1 | a | b | still can: because |", ""),
        ("| a fault | b | `it_holds`, `it_holds` |", ""),
        ("| #1 | a | b | `it_broke` |", "there is no test `it_broke`: | #1 | a | b | `it_broke` |"),
        (
            "| #1 | a | b | still can (`it_broke`) |",
            "there is no test `it_broke`: | #1 | a | b | still can (`it_broke`) |",
        ),
        ("| #1 | a | b | it_holds |", "names no test: | #1 | a | b | it_holds |"),
        ("| #1 | a | b | |", "names no test: | #1 | a | b | |"),
    ] {
        let page = format!("| threads | x |\n| --- | --- |\n{row}\n");
        let expected: Vec<_> = Some(fault).into_iter().filter(|fault| !fault.is_empty()).collect();
        assert_eq!(faults(&page, &tests), expected);
    }
}

#[test]
fn what_helps_a_test_is_none() {
    let text = "#[cfg(test)]\nmod tests {\n    fn helps() {}\n    #[test]\n    #[should_panic]\n    \
                fn holds() {}\n    fn helps_too() {}\n    #[tokio::test(start_paused = true)]\n    \
                async fn holds_later() {}\n    #[cfg(test)]\n    const fn one() {}\n}";
    assert_eq!(tests_of(text).collect::<Vec<_>>(), ["holds", "holds_later"]);
}

/// What is wrong with the last cells of all tables.
fn faults(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let is_head =
        |line: &str| ["| threads ", "| fault |", "| ---"].iter().any(|head| line.starts_with(head));
    let mut faults = Vec::new();
    for row in page.lines().filter(|line| line.starts_with('|') && !is_head(line)) {
        let last = row.trim_end_matches('|').rsplit_once('|').map_or("", |(_, last)| last.trim());
        let named: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !last.starts_with("still can") {
            faults.push(format!("names no test: {row}"));
        }
        let is_name = |name: &&&str| name.contains('_') && !name.contains([' ', '.', '=']);
        let missing = named.iter().filter(is_name).filter(|name| !tests.contains(**name));
        faults.extend(missing.map(|name| format!("there is no test `{name}`: {row}")));
    }
    faults
}

/// The text under the heading of a group.
fn section<'a>(page: &'a str, group: &str) -> &'a str {
    let heading = format!("\n## {group}. ");
    let (_, text) = page.split_once(&heading).unwrap_or_else(|| panic!("no group {group}"));
    text.split("\n## ").next().unwrap_or(text)
}

/// All that is written `#123`.
fn numbers(text: &str) -> BTreeSet<u32> {
    let after = text.split('#').skip(1);
    after
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect()
}

/// The names of the project's tests: functions with an attribute `test`, as those in `proptest!` have.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in sources(&FOLDERS) {
        let text = fs::read_to_string(&file).expect("a source file is text");
        tests.extend(tests_of(&text).map(str::to_owned));
    }
    tests
}

fn tests_of(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().map(str::trim).filter_map(move |line| {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        let name = name_of_function(line)?;
        mem::take(&mut is_test).then_some(name)
    })
}

fn name_of_function(line: &str) -> Option<&str> {
    let after = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    after.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()
}
