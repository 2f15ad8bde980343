//! JSON5: the crate `json5` reads the values; where keys stand it does not tell, and it follows any
//! depth until the stack is used up. So the text is gone through once before.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    super::error::{Fault, Place},
    join,
};

/// How deep values may be nested.
const MAX_DEPTH: usize = 64;

/// Reads a text that [`places`] has found harmless.
pub(super) fn parse(text: &str) -> Result<Value, Fault> {
    json5::from_str(text).map_err(|error| {
        let place = error.position().map_or(Place { line: 1, column: 1 }, |at| Place {
            line: at.line + 1,
            column: at.column + 1,
        });
        let problem = error.code().map_or_else(|| error.to_string(), |code| code.to_string());
        Fault::at(place, format!("not JSON5: {problem}"))
    })
}

/// Where each key stands. Of a text that is not JSON5, some.
pub(super) fn places(text: &str) -> Result<BTreeMap<String, Place>, Fault> {
    let mut scan = Scan { text, at: 0, open: Vec::new(), word: None, places: BTreeMap::new() };
    while let Some(next) = text[scan.at..].chars().next() {
        scan.step(next)?;
    }
    Ok(scan.places)
}

/// A walk through the text that knows strings, comments, brackets and names, no more.
struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// The tables and arrays around this place: each's dotted key, and for an array the next index.
    open: Vec<(String, Option<usize>)>,
    /// The last string or bare word and where it begins: a key, if a colon follows.
    word: Option<(String, usize)>,
    places: BTreeMap<String, Place>,
}

impl Scan<'_> {
    fn step(&mut self, next: char) -> Result<(), Fault> {
        let rest = &self.text[self.at..];
        let length = match next {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' | '\'' => {
                let length = quoted(rest, next);
                let word = json5::from_str(&rest[..length]).unwrap_or_default();
                self.word = Some((word, self.at));
                length
            }
            ':' => {
                self.name()?;
                1
            }
            '{' | '[' => {
                self.enter(next)?;
                1
            }
            '}' | ']' => {
                self.open.pop();
                self.word = None;
                1
            }
            ',' => {
                if let Some((_, Some(index))) = self.open.last_mut() {
                    *index += 1;
                }
                self.word = None;
                1
            }
            _ if next.is_whitespace() => next.len_utf8(),
            _ => {
                let ends = |c: char| c.is_whitespace() || "{}[]:,\"'/".contains(c);
                let length = rest[next.len_utf8()..].find(ends);
                let length = length.map_or(rest.len(), |length| length + next.len_utf8());
                self.word = Some((rest[..length].to_owned(), self.at));
                length
            }
        };
        self.at += length;
        Ok(())
    }

    /// A colon: what stood before it is a key.
    fn name(&mut self) -> Result<(), Fault> {
        let (Some((word, at)), Some((table, None))) = (&self.word, self.open.last()) else {
            return Ok(());
        };
        // The last one would win, and the first be the one that the operator looks at.
        let (key, place) = (join(table, word), Place::of(self.text, *at));
        if let Some(first) = self.places.insert(key.clone(), place) {
            let problem = format!("stands here a second time, first in line {}", first.line);
            return Err(Fault { place: Some(place), key: Some(key), problem });
        }
        Ok(())
    }

    fn enter(&mut self, bracket: char) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            let place = Place::of(self.text, self.at);
            return Err(Fault::at(place, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let key = match (self.open.last(), self.word.take()) {
            (None, _) => String::new(),
            (Some((array, Some(index))), _) => format!("{array}[{index}]"),
            (Some((table, None)), word) => join(table, &word.unwrap_or_default().0),
        };
        self.open.push((key, (bracket == '[').then_some(0)));
        Ok(())
    }
}

/// The length of the string at the beginning of `text`, with its quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
