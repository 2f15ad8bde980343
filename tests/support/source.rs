//! Rust source read just far enough to see which modules of the crate it names: a lexer and a
//! reader of use trees. It does not know macros; `$crate` and generated names pass unseen.

use std::{collections::HashMap, path::PathBuf};

/// A file of `src/`, without what is no code.
pub(crate) struct Source {
    /// Below `src/`.
    pub(crate) file: PathBuf,
    /// Its module's path below `crate`; bins are below `bin`.
    pub(crate) module: Vec<String>,
    /// The text with comments, strings and test items made blank, line for line.
    pub(crate) code: String,
    /// Lines that belong to no test item.
    pub(crate) length: usize,
}

/// A path that begins at the crate's root; its last part is `*` where all below is meant.
pub(crate) struct Reference {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// The name under which a `pub use` of it gives it on; empty where it is none.
    pub(crate) given_on_as: String,
}

impl Source {
    pub(crate) fn new(file: impl Into<PathBuf>, text: &str) -> Self {
        let file = file.into();
        let mut module: Vec<_> =
            file.with_extension("").iter().map(|part| part.to_string_lossy().into()).collect();
        match module.last().map(String::as_str) {
            Some("mod") => drop(module.pop()),
            Some("lib") if module.len() == 1 => module.clear(),
            Some("main") if module.len() == 1 => module.insert(0, "bin".into()),
            _ => {}
        }
        let (code, test_lines) = without_tests(&without_comments(text));
        let length = text.lines().count().saturating_sub(test_lines);
        Self { file, module, code, length }
    }

    /// Where code says `name`.
    pub(crate) fn lines_with(&self, name: &str) -> Vec<usize> {
        let named = |token: Token<'_>| (token.text == name).then_some(token.line);
        tokens(&self.code).into_iter().filter_map(named).collect()
    }

    /// Every path into the crate: those that say so (`crate::`, `super::`, `self::`,
    /// `lockkeeper::`), and those that begin with a name that such a `use` or a `mod` has bound.
    pub(crate) fn references(&self) -> Vec<Reference> {
        let tokens = tokens(&self.code);
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
        let mut bound: HashMap<&str, Vec<String>> = HashMap::new();
        let mut found = Vec::new();
        for at in 0..tokens.len() {
            if text(at) == "mod" && text(at + 2) == ";" {
                bound.insert(text(at + 1), [&self.module[..], &[text(at + 1).into()]].concat());
            }
        }
        // First the paths that say so, because they bind names; then the paths of bound names.
        for pass in [Pass::Rooted, Pass::Bound] {
            for at in 0..tokens.len() {
                if text(at + 1) != "::" || (at > 0 && matches!(text(at - 1), "::" | ".")) {
                    continue;
                }
                let mut root = match (pass, text(at)) {
                    (Pass::Rooted, "crate" | "lockkeeper") => Vec::new(),
                    (Pass::Rooted, "self") => self.module.clone(),
                    (Pass::Rooted, "super") => parent(&self.module),
                    (Pass::Bound, name) => match bound.get(name) {
                        Some(path) => path.clone(),
                        None => continue,
                    },
                    _ => continue,
                };
                let mut next = at + 2;
                while text(next) == "super" && text(next + 1) == "::" {
                    root = parent(&root);
                    next += 2;
                }
                let mut leaves = Vec::new();
                read_tree(&tokens, next, root, &mut leaves);
                let is_use = at > 0 && text(at - 1) == "use";
                let is_given_on = is_use && at > 1 && text(at - 2) == "pub";
                for leaf in leaves {
                    if is_use && pass == Pass::Rooted && !leaf.name.is_empty() {
                        bound.insert(leaf.name, leaf.path.clone());
                    }
                    let given_on_as = if is_given_on { leaf.name.into() } else { String::new() };
                    found.push(Reference { path: leaf.path, line: leaf.line, given_on_as });
                }
            }
        }
        found
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Pass {
    Rooted,
    Bound,
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// One path of a use tree, and the name that it binds.
struct Leaf<'a> {
    path: Vec<String>,
    name: &'a str,
    line: usize,
}

/// Reads the use tree at `at`, below `path`; returns where it ends.
fn read_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    mut path: Vec<String>,
    leaves: &mut Vec<Leaf<'a>>,
) -> usize {
    let mut name = "";
    let line = tokens.get(at).map_or(1, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    let before = at;
                    at = read_tree(tokens, at, path.clone(), leaves);
                    if tokens.get(at).is_some_and(|token| token.text == ",") || at == before {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "self" => at += 1,
            "*" => {
                path.push("*".into());
                leaves.push(Leaf { path, name: "", line });
                return at + 1;
            }
            word if is_word(word) => {
                path.push(word.into());
                name = word;
                at += 1;
            }
            _ => break,
        }
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    // `{self}` binds the last name of the tree above.
    if name.is_empty() {
        name = tokens[..at.min(tokens.len())]
            .iter()
            .rev()
            .map(|token| token.text)
            .find(|text| path.last().is_some_and(|last| last == text))
            .unwrap_or("");
    }
    if tokens.get(at).is_some_and(|token| token.text == "as") {
        name = tokens.get(at + 1).map_or("", |token| token.text);
        at += 2;
    }
    leaves.push(Leaf { path, name, line });
    at
}

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (code, 1);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => first.len_utf8(),
            word => word,
        };
        if !first.is_whitespace() {
            tokens.push(Token { text: &rest[..length], line });
        }
        line += usize::from(first == '\n');
        rest = &rest[length..];
    }
    tokens
}

/// Comments and the insides of literals made blank, so that what is left is code.
fn without_comments(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => find(&chars, i, |i| at(i) == '\n'),
            ('/', '*') => end_of_block_comment(&chars, i),
            ('r', '"' | '#') if i == 0 || !is_word(&at(i - 1).to_string()) || at(i - 1) == 'b' => {
                end_of_raw_string(&chars, i)
            }
            ('"', _) => end_of_quoted(&chars, i, '"'),
            // A lifetime has no closing quote, neither after one character nor after an escape.
            ('\'', '\\') => end_of_quoted(&chars, i, '\''),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            code.push(at(i));
            i += 1;
        } else {
            code.extend(chars[i..end].iter().map(|&c| if c == '\n' { c } else { ' ' }));
            i = end;
        }
    }
    code
}

/// The first index from `from` on for which `stop` holds, or the end.
fn find(chars: &[char], from: usize, stop: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|&i| stop(i)).unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let open = find(chars, start + 1, |i| chars[i] != '#');
    if chars.get(open) != Some(&'"') {
        return start; // r#type, a raw name
    }
    let hashes = open - start - 1;
    let closes = |i: usize| {
        chars[i] == '"'
            && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    (find(chars, open + 1, closes) + 1 + hashes).min(chars.len())
}

fn end_of_quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// Items under `#[cfg(test)]` made blank; also how many lines they took.
fn without_tests(code: &str) -> (String, usize) {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let (mut rest, mut lines) = (code, 0);
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        let (mut depth, mut end) = (0_i32, item.len());
        for (i, c) in item.char_indices() {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            if depth <= 0 && matches!(c, '}' | ';') {
                end = i + 1;
                break;
            }
        }
        kept.extend(item[..end].chars().map(|c| if c == '\n' { c } else { ' ' }));
        lines += item[..end].matches('\n').count() + 1;
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, lines)
}
