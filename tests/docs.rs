//! What README, CONTRIBUTING and `docs/` say, held against the program: tables, links, command
//! lines, examples. Where a text must be the program's own, the failure prints what to paste.

#![allow(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use lockkeeper::{
    config::{
        profile::{self, ProfileName},
        settings::{DOCS, Settings},
    },
    protocol::{
        control::{Request, Response},
        env, exit,
        notify::Notification,
    },
    supervisor::driver::{CONTROL_SOCKET, NOTIFY_SOCKET},
    sys::{
        ledger_file,
        lock::{CHILD_LOCK, GATEWAY_LOCK},
        memory_file,
        signals::{FORWARDED, HANDLED},
    },
};

const LOCKKEEPER: &str = env!("CARGO_BIN_EXE_lockkeeper");

// --- tables ---

#[test]
fn the_settings_table_is_that_of_the_program() {
    let defaults = toml::Table::try_from(Settings::default()).expect("settings are TOML");
    let mut table = "| key | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for (key, meaning) in DOCS {
        let value = match key.split_once('.') {
            Some((table, name)) => &defaults[table][name],
            None => &defaults[*key],
        };
        table += &format!("| `{key}` | `{value}` | {meaning} |\n");
    }
    let readme = Page::open("README.md");
    let found = readme.section("Settings");
    assert!(found.contains(&table), "README.md, section Settings, should hold\n\n{table}");
    assert_eq!(readme.table("Settings").len(), DOCS.len(), "it holds another table, or more rows");
}

#[test]
fn the_exit_code_tables_name_every_code() {
    let rows = Page::open("README.md").table("Exit codes");
    let told: BTreeSet<_> = rows.iter().filter_map(|row| leading_number(&row[0])).collect();
    let known = codes_of_the_source();
    let values: BTreeSet<_> = known.values().copied().collect();
    let untold: Vec<_> = known.iter().filter(|(_, code)| !told.contains(code)).collect();
    assert!(untold.is_empty(), "no row tells of {untold:?}");
    let unknown: Vec<_> = told.difference(&values).collect();
    assert!(unknown.is_empty(), "the program has no code {unknown:?}");
}

#[test]
fn the_signals_table_names_every_signal_that_is_caught() {
    let rows = Page::open("README.md").table("Signals");
    let told: BTreeSet<_> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    let caught: BTreeSet<_> =
        HANDLED.iter().chain(FORWARDED).map(|signal| signal.name().to_owned()).collect();
    assert_eq!(told, caught);
}

#[test]
fn the_table_of_the_state_folder_names_its_files() {
    let rows = Page::open("README.md").table("The state folder");
    let told: BTreeSet<_> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    let files = [
        GATEWAY_LOCK,
        CHILD_LOCK,
        CONTROL_SOCKET,
        NOTIFY_SOCKET,
        memory_file::NAME,
        ledger_file::NAME,
    ];
    assert_eq!(told, files.map(str::to_owned).into());
}

#[test]
fn the_table_of_commands_names_every_verb() {
    let rows = Page::open("README.md").table("Commands");
    let told: Vec<_> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    let verbs: Vec<_> = verbs().iter().map(|verb| format!("lockkeeper {verb}")).collect();
    assert_eq!(told, verbs);
}

#[test]
fn the_contract_names_the_environment() {
    let contract = Page::open("docs/contract.md");
    let rows = contract.table("Environment");
    let told: BTreeSet<_> = rows.iter().flat_map(|row| spans(&row[0])).collect();
    let given = [
        env::NOTIFY_SOCKET,
        env::CONTROL,
        env::GENERATION,
        env::LOCK,
        env::LOCK_FD,
        env::NONCE,
        env::RESTART_EXPECTED_MS,
        env::SAFE_MODE,
        env::WATCHDOG_USEC,
    ];
    assert_eq!(told, given.map(str::to_owned).into());

    let section = contract.section("Environment");
    let (_, taken) = section.split_once("Taken away").expect("it tells what is taken away");
    let (taken, passes) = taken.split_once("but for").expect("it tells what passes");
    for name in spans(taken) {
        let name = if name.ends_with('_') { format!("{name}ANY") } else { name };
        assert!(env::is_scrubbed(&name), "{name} is not taken away");
    }
    assert!(!env::is_scrubbed(&spans(passes)[0]));
}

// --- what is quoted ---

#[test]
fn the_profile_is_quoted_to_the_letter() {
    let openclaw = profile::render(ProfileName::Openclaw);
    let blocks = Page::open("docs/openclaw.md").blocks("toml");
    assert_eq!(blocks, [openclaw.as_str()], "docs/openclaw.md should quote\n\n{openclaw}");
}

#[test]
fn every_settings_file_that_is_shown_is_accepted() {
    let place = tempfile::tempdir().expect("a folder");
    for (at, text) in Page::open("README.md").blocks("toml").iter().enumerate() {
        let file = place.path().join(format!("{at}.toml"));
        fs::write(&file, text).expect("written");
        let check = run(place.path(), &["check", "--config", &file.display().to_string()]);
        assert!(check.status.success(), "{text}\n{check:?}");
    }
}

#[test]
fn every_frame_of_the_contract_is_one() {
    let blocks = Page::open("docs/contract.md").blocks("json");
    let [requests, responses] = &blocks[..] else { panic!("{} blocks of JSON", blocks.len()) };
    for line in requests.lines() {
        Request::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    for line in responses.lines() {
        Response::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn every_datagram_of_the_contract_is_read() {
    let rows = Page::open("docs/contract.md").table("Notifications");
    for row in &rows {
        let key = &spans(&row[0])[0];
        let value = match key.as_str() {
            "MAINPID=" => "42".to_owned(),
            "X_LOCKKEEPER_DRAIN=" => spans(&row[1]).remove(0),
            "STATUS=" | "X_LOCKKEEPER_RESTART=" | "X_LOCKKEEPER_NONCE=" => "text".to_owned(),
            flag => flag.split_once('=').map(|_| String::new()).expect("KEY=VALUE"),
        };
        let said = Notification::parse(format!("{key}{value}").as_bytes());
        assert_ne!(said, Notification::default(), "{key}: unknown");
        assert!(said.problems.is_empty(), "{key}: {:?}", said.problems);
    }
}

#[test]
fn the_gateway_of_the_contract_drains_and_comes_back() {
    let place = tempfile::tempdir().expect("a folder");
    let program = place.path().join("gateway.py");
    let blocks = Page::open("docs/contract.md").blocks("python");
    fs::write(&program, &blocks[0]).expect("written");

    let mut supervisor = Supervisor::start(place.path(), &["python3", &program.to_string_lossy()]);
    supervisor.until("generation 1: pid");
    let restart = run(place.path(), &["restart", "--wait"]);
    let said = text(&restart);
    assert!(
        said.contains("code 75") && said.contains("generation 2 is ready, nothing cut"),
        "{said}"
    );
    let stop = run(place.path(), &["stop", "--wait"]);
    assert!(text(&stop).contains("code 0"), "{stop:?}");
    assert_eq!(supervisor.0.wait().expect("it is our child").code(), Some(exit::OK.into()));
}

// --- command lines and links ---

#[test]
fn every_command_line_that_is_shown_parses() {
    let place = tempfile::tempdir().expect("a folder");
    let mut count = 0;
    for page in Page::all() {
        for line in page.command_lines() {
            count += 1;
            assert_parses(place.path(), &line, &page.name);
        }
    }
    assert!(count > 20, "only {count} found: the reader has gone blind");
}

#[test]
fn every_verb_has_an_example_in_its_help_that_parses() {
    let place = tempfile::tempdir().expect("a folder");
    let mut pages = vec![vec!["--help".to_owned()]];
    pages.extend(verbs().into_iter().map(|verb| vec![verb, "--help".to_owned()]));
    for page in pages {
        let help = text(&run(place.path(), &page.iter().map(String::as_str).collect::<Vec<_>>()));
        let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{page:?}: none"));
        let examples: Vec<_> =
            examples.lines().filter(|line| line.starts_with("  lockkeeper ")).collect();
        assert!(!examples.is_empty(), "{page:?}: none");
        for example in examples {
            for command in commands(example) {
                assert_parses(place.path(), &command, &format!("{page:?}"));
            }
        }
    }
}

#[test]
fn a_command_line_that_does_not_parse_is_found() {
    let place = tempfile::tempdir().expect("a folder");
    for (wrong, exited) in [("lockkeeper rnu", 64), ("lockkeeper stop --wiat", 64)] {
        assert_eq!(try_line(place.path(), wrong).status.code(), Some(exited), "{wrong}");
    }
    let shown = "$ lockkeeper stop && lockkeeper why r-0001 | less\n";
    assert_eq!(commands(shown), ["lockkeeper stop", "lockkeeper why r-0001"]);
    assert_eq!(words("a 'b c' --d=\"e f\" # no more"), ["a", "b c", "--d=e f"]);
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for page in Page::all() {
        for link in page.links() {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            if file.contains("://") {
                continue;
            }
            count += 1;
            let target = if file.is_empty() { page.path() } else { page.folder().join(file) };
            assert!(target.exists(), "{}: {link} leads to nothing", page.name);
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("a page");
                let found = text.lines().any(|line| anchor(line).as_deref() == Some(heading));
                assert!(found, "{}: {link} names no heading", page.name);
            }
        }
    }
    assert!(count > 20, "only {count} found: the reader has gone blind");
}

// --- a page ---

struct Page {
    name: String,
    text: String,
}

impl Page {
    fn open(name: &str) -> Self {
        let path = root().join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { name: name.to_owned(), text }
    }

    /// Every page for people.
    fn all() -> Vec<Self> {
        let mut names: Vec<_> =
            ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).into();
        for entry in fs::read_dir(root().join("docs")).expect("docs/ is there") {
            let name = entry.expect("docs/ can be listed").file_name();
            names.push(format!("docs/{}", name.to_string_lossy()));
        }
        names.retain(|name| Path::new(name).extension().is_some_and(|kind| kind == "md"));
        names.iter().map(|name| Self::open(name)).collect()
    }

    fn path(&self) -> PathBuf {
        root().join(&self.name)
    }

    fn folder(&self) -> PathBuf {
        self.path().parent().expect("a page is in a folder").to_owned()
    }

    /// What stands below this heading, without what stands below the next one.
    fn section(&self, title: &str) -> &str {
        let heading = format!("\n## {title}\n");
        let at = self.text.find(&heading);
        let at = at.unwrap_or_else(|| panic!("{}: no section {title}", self.name));
        let below = &self.text[at + heading.len()..];
        below.find("\n## ").map_or(below, |end| &below[..end])
    }

    /// The rows of all tables of a section, without their heads.
    fn table(&self, title: &str) -> Vec<Vec<String>> {
        let lines: Vec<_> = self.section(title).lines().collect();
        let is_rule = |line: &&str| line.starts_with("| ---");
        let mut rows = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let is_head = lines.get(at + 1).is_some_and(is_rule);
            if line.starts_with('|') && !is_head && !is_rule(line) {
                let cells = line.trim_matches('|').split(" | ");
                rows.push(cells.map(|cell| cell.trim().to_owned()).collect());
            }
        }
        assert!(!rows.is_empty(), "{}: no table in {title}", self.name);
        rows
    }

    /// The fenced blocks in this language.
    fn blocks(&self, language: &str) -> Vec<String> {
        self.fenced().into_iter().filter(|(of, _)| of == language).map(|(_, text)| text).collect()
    }

    fn fenced(&self) -> Vec<(String, String)> {
        let parts: Vec<_> = self.text.split("```").collect();
        assert!(parts.len() % 2 == 1, "{}: a fence is open", self.name);
        let inside = parts.iter().skip(1).step_by(2);
        inside
            .filter_map(|part| part.split_once('\n'))
            .map(|(language, text)| (language.to_owned(), text.to_owned()))
            .collect()
    }

    fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// Every `lockkeeper VERB ...`, in blocks of shell and in prose.
    fn command_lines(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (language, text) in self.fenced() {
            let typed = |line: &&str| language == "sh" || line.starts_with("$ ");
            if ["sh", "console"].contains(&language.as_str()) {
                found.extend(text.lines().filter(typed).flat_map(commands));
            }
        }
        let prose = self.prose();
        let spans = spans(&prose).into_iter().map(|span| span.replace('\n', " "));
        found.extend(spans.filter(|span| span.starts_with("lockkeeper ")));
        found
    }

    fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1);
        targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }
}

/// What stands between backticks.
fn spans(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// How a heading is linked to.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

/// `0`, `128 + n`, `1 after a restart request`: the number at the beginning.
fn leading_number(cell: &str) -> Option<u8> {
    cell.split(' ').next()?.parse().ok()
}

/// Every constant of `protocol::exit`, which no other test could list.
fn codes_of_the_source() -> BTreeMap<String, u8> {
    let source = include_str!("../src/protocol/exit.rs");
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub const "));
    let codes: BTreeMap<_, _> = constants
        .filter_map(|line| line.split_once(": u8 = "))
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches(';').parse().expect("u8")))
        .collect();
    assert_eq!(codes.get("RESTART"), Some(&exit::RESTART), "the source is read wrongly");
    codes
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// --- the program ---

/// The commands of a line of shell that are ours.
fn commands(line: &str) -> Vec<String> {
    let line = line.trim_start().trim_start_matches("$ ");
    let parts = line.split("&&").flat_map(|part| part.split(" | ")).map(str::trim);
    let ours = parts.filter(|part| part.starts_with("lockkeeper "));
    // Where its output goes is the shell's affair.
    ours.map(|part| part.split(" > ").next().unwrap_or(part).to_owned()).collect()
}

/// Splits as a shell would: quotes group, `#` begins a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\n') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The verbs, as the help lists them.
fn verbs() -> Vec<String> {
    let help = text(&run(Path::new("/"), &["--help"]));
    let (_, list) = help.split_once("Commands:\n").expect("it lists its commands");
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let verbs = lines.filter_map(|line| line.split_whitespace().next());
    verbs.filter(|verb| *verb != "help").map(str::to_owned).collect()
}

fn assert_parses(place: &Path, line: &str, page: &str) {
    let output = try_line(place, line);
    assert_ne!(output.status.code(), Some(exit::USAGE.into()), "{page}: {line}\n{output:?}");
}

/// Runs a command line where nothing runs. `run` only reads its settings, as the process does that
/// a supervisor starts for this; what is said of a state folder is not followed.
fn try_line(place: &Path, line: &str) -> Output {
    let mut words = words(line);
    if let Some(at) = words.iter().position(|word| word == "--state-dir") {
        words[at + 1] = place.display().to_string();
    }
    // It would go on for ever.
    words.retain(|word| word != "--follow");
    if words[1] == "run" {
        words[1] = "__resolve".to_owned();
    }
    run(place, &words.iter().skip(1).map(String::as_str).collect::<Vec<_>>())
}

fn lockkeeper(place: &Path) -> Command {
    let mut command = Command::new(LOCKKEEPER);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env(env::STATE_DIR, place).current_dir(place).stdin(Stdio::null());
    command
}

fn run(place: &Path, words: &[&str]) -> Output {
    lockkeeper(place).args(words).output().expect("lockkeeper can be started")
}

fn text(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// A supervisor, ended with the test.
struct Supervisor(Child);

impl Supervisor {
    fn start(place: &Path, command: &[&str]) -> Self {
        let mut run = lockkeeper(place);
        run.args(["run", "--"]).args(command).stderr(Stdio::piped());
        Self(run.spawn().expect("lockkeeper can be started"))
    }

    /// Waits for a line of its log, and keeps reading so that it never blocks.
    fn until(&mut self, pattern: &str) {
        let log = BufReader::new(self.0.stderr.take().expect("it was asked for"));
        let mut lines = log.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(pattern)), "it ended before it said `{pattern}`");
        std::thread::spawn(move || lines.for_each(drop));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
