//! `docs/behaviour-coverage.md` held against the source: each sentence of the behaviour has a test
//! that exists, and no sentence is missing from the count.

#![allow(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

#[path = "support/files.rs"]
mod files;

use files::{read, sources};

const TABLE: &str = "docs/behaviour-coverage.md";
/// The sections of the behaviour: all of them.
const SECTIONS: [u32; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
/// Where tests are.
const FOLDERS: [&str; 3] = ["src", "tests", "examples"];

#[test]
fn every_sentence_of_the_behaviour_names_a_test_that_exists() {
    let wrong = faults(&read(TABLE), &functions(), &SECTIONS);
    assert!(wrong.is_empty(), "{TABLE}:\n{}", wrong.join("\n"));
}

#[test]
fn planted_faults_of_a_coverage_table_are_found() {
    const HEAD: &str = "| sentence | behaviour | tests |\n| --- | --- | --- |\n";
    let functions: BTreeMap<_, _> =
        [("it_holds", 1), ("so_it_does", 1), ("twice", 2)].map(|(n, k)| (n.to_owned(), k)).into();
    for (rows, fault) in [
        ("| 1.1 | a | `it_holds` |\n| 1.2 | b or `c` | `so_it_does`, `it_holds` |", ""),
        ("| 1.1 | a | `it_holds` |\n\n| 1.2 | b \\| c | `it_holds` |", ""),
        ("| 1.1 | a | `it_breaks` |", "1.1: there is no test `it_breaks`"),
        ("| 1.1 | a | `LEAD:it_holds` |", "1.1: there is no test `LEAD:it_holds`"),
        ("| 1.1 | a | `twice` |", "1.1: there are 2 functions `twice`"),
        ("| 1.1 | a | it_holds |", "1.1 names no test"),
        ("| 1.1 | a |  |", "1.1 names no test"),
        ("| 1.1 | a | `it_holds`", "not a row: | 1.1 | a | `it_holds`"),
        ("| 1.1 | `it_holds` |", "not a row: | 1.1 | `it_holds` |"),
        ("| 1.1 |  | `it_holds` |", "1.1 says nothing"),
        ("| one | a | `it_holds` |", "not a row: | one | a | `it_holds` |"),
        ("| 1.2 | a | `it_holds` |", "1.1 is missing"),
        ("| 1.1 | a | `it_holds` |\n| 1.3 | b | `it_holds` |", "1.2 is missing"),
        ("| 1.1 | a | `it_holds` |\n| 1.1 | b | `it_holds` |", "1.1 is there 2 times"),
        ("| 1.1 | a | `it_holds` |\n| 2.1 | b | `it_holds` |", "2.1: there is no section 2"),
        ("", "section 1 is missing"),
    ] {
        let found = faults(&format!("# Coverage\n\n{HEAD}{rows}\n"), &functions, &[1]);
        let expected: Vec<_> = Some(fault).into_iter().filter(|fault| !fault.is_empty()).collect();
        assert_eq!(found, expected, "{rows}");
    }
}

/// One row of a table.
struct Row {
    section: u32,
    sentence: u32,
    behaviour: String,
    tests: Vec<String>,
}

impl Row {
    /// Reads `| 8.1 | what is so | `test`, `another` |`.
    fn read(line: &str) -> Option<Self> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        // A bar of the text itself is written `\|`.
        let inner = inner.replace("\\|", "\u{0}");
        let cells: Vec<_> = inner.split('|').map(str::trim).collect();
        let [number, behaviour, tests] = cells[..] else { return None };
        let (section, sentence) = number.split_once('.')?;
        Some(Self {
            section: section.parse().ok()?,
            sentence: sentence.parse().ok()?,
            behaviour: behaviour.replace('\u{0}', "|"),
            tests: tests.split('`').skip(1).step_by(2).map(str::to_owned).collect(),
        })
    }
}

/// What is wrong with a coverage table that should tell of these sections.
fn faults(table: &str, functions: &BTreeMap<String, usize>, sections: &[u32]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut times: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let is_head = |line: &str| line.starts_with("| sentence ") || line.starts_with("| ---");
    for line in table.lines().filter(|line| line.starts_with('|') && !is_head(line)) {
        let Some(row) = Row::read(line) else {
            faults.push(format!("not a row: {line}"));
            continue;
        };
        let Row { section, sentence, .. } = row;
        let name = format!("{section}.{sentence}");
        *times.entry((section, sentence)).or_default() += 1;
        if row.behaviour.is_empty() {
            faults.push(format!("{name} says nothing"));
        }
        if row.tests.is_empty() {
            faults.push(format!("{name} names no test"));
        }
        for test in row.tests {
            match functions.get(&test) {
                None => faults.push(format!("{name}: there is no test `{test}`")),
                Some(1) => {}
                Some(n) => faults.push(format!("{name}: there are {n} functions `{test}`")),
            }
        }
        if !sections.contains(&section) {
            faults.push(format!("{name}: there is no section {section}"));
        }
    }
    // What could not be read is not missing, too.
    if faults.iter().any(|fault| fault.starts_with("not a row")) {
        return faults;
    }
    for section in sections {
        let numbers: BTreeSet<_> =
            times.keys().filter(|(of, _)| of == section).map(|(_, sentence)| *sentence).collect();
        let Some(last) = numbers.last() else {
            faults.push(format!("section {section} is missing"));
            continue;
        };
        let missing = (1..*last).filter(|sentence| !numbers.contains(sentence));
        faults.extend(missing.map(|sentence| format!("{section}.{sentence} is missing")));
    }
    let doubled = times.into_iter().filter(|(_, times)| *times > 1);
    faults.extend(doubled.map(|((section, sentence), times)| {
        format!("{section}.{sentence} is there {times} times")
    }));
    faults
}

/// The name of each function of the project, and how many have it.
fn functions() -> BTreeMap<String, usize> {
    let mut functions = BTreeMap::new();
    for file in sources(&FOLDERS) {
        let text = fs::read_to_string(&file).expect("a source file is text");
        // This file plants names in strings; none of them follows `fn`.
        for after in text.split("fn ").skip(1) {
            let end = after.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let (name, rest) = after.split_at(end.unwrap_or(after.len()));
            if !name.is_empty() && rest.starts_with('(') {
                *functions.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    functions
}
