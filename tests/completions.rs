//! What shells and `man` are given: complete, and what they can read.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Command, Stdio},
};

use crate::support::{Output, Rig};

/// A verb that needs no place.
fn lockkeeper(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_lockkeeper")).args(args).output();
    let output = output.expect("lockkeeper can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes UTF-8");
    let code = output.status.code().unwrap_or(-1);
    Output { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Gives a program this text to read, and says whether it found nothing wrong. `None`: there is no
/// such program.
fn is_fine_to(program: &str, args: &[&str], text: &str) -> Option<bool> {
    let mut command = Command::new(program);
    let pipes = command.args(args).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = pipes.stderr(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it is our child");
    Some(output.status.success() && output.stderr.is_empty())
}

/// Each verb with its options, as the help lists them.
fn verbs() -> Vec<(String, Vec<String>)> {
    let help = lockkeeper(&["--help"]).stdout;
    let (_, list) = help.split_once("Commands:\n").expect("it lists its commands");
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.split_whitespace().next()).filter(|v| *v != "help");
    let verbs: Vec<(String, Vec<String>)> = names
        .map(|verb| {
            let help = lockkeeper(&[verb, "--help"]).stdout;
            let words = help.lines().filter(|line| line.trim_start().starts_with('-'));
            let long =
                words.filter_map(|line| line.split_whitespace().find(|w| w.starts_with("--")));
            let options: BTreeSet<String> =
                long.map(|word| word.trim_end_matches(',').to_owned()).collect();
            (verb.to_owned(), options.into_iter().collect())
        })
        .collect();
    assert!(verbs.len() > 8 && verbs.iter().any(|(_, options)| options.len() > 4), "{verbs:?}");
    verbs
}

#[test]
fn every_shell_is_told_every_verb_and_option() {
    let verbs = verbs();
    for shell in ["bash", "fish", "zsh"] {
        let script = lockkeeper(&["completions", shell]);
        assert_eq!(script.code, 0, "{script:?}");
        for (verb, options) in &verbs {
            assert!(script.stdout.contains(verb.as_str()), "{shell}: {verb}");
            for option in options {
                // fish is told them without the dashes.
                let name = if shell == "fish" { &option[2..] } else { option };
                assert!(script.stdout.contains(name), "{shell}: {verb} {option}");
            }
        }
    }
    let unknown = lockkeeper(&["completions", "cmd.exe"]);
    assert_eq!(unknown.code, 64, "{unknown:?}");
}

#[test]
fn the_scripts_can_be_read_by_their_shells() {
    for shell in ["bash", "fish", "zsh"] {
        let script = lockkeeper(&["completions", shell]).stdout;
        let is_fine = is_fine_to(shell, &["-n"], &script);
        // bash is on every machine that runs the tests; the others may be missing.
        assert!(is_fine.unwrap_or(shell != "bash"), "{shell}");
    }
}

#[test]
fn bash_completes_verbs_and_options() {
    let script = lockkeeper(&["completions", "bash"]).stdout;
    let ask = "\nCOMP_WORDS=(lockkeeper rel); COMP_CWORD=1; _lockkeeper lockkeeper rel lockkeeper\n\
               test \"${COMPREPLY[*]}\" = reload || exit 1\n\
               COMP_WORDS=(lockkeeper restart --in); COMP_CWORD=2\n\
               _lockkeeper lockkeeper --in restart; test \"${COMPREPLY[*]}\" = --in-process\n";
    assert_eq!(is_fine_to("bash", &[], &(script + ask)), Some(true));
}

#[test]
fn there_is_a_page_of_every_verb_with_its_options() {
    let rig = Rig::new();
    let folder = rig.path("man1");
    fs::create_dir(&folder).unwrap();
    let written = lockkeeper(&["man", "--out", folder.to_str().unwrap()]);
    assert_eq!(written.code, 0, "{written:?}");
    let verbs = verbs();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), verbs.len() + 1);
    let own = fs::read_to_string(folder.join("lockkeeper.1")).unwrap();
    assert_eq!(lockkeeper(&["man"]).stdout, own);
    for (verb, options) in verbs {
        assert!(own.contains(&verb), "{verb} is not on the page of all");
        let page = fs::read_to_string(folder.join(format!("lockkeeper-{verb}.1"))).unwrap();
        assert_eq!(lockkeeper(&["man", &verb]).stdout, page);
        let plain = page.replace("\\-", "-");
        for option in options {
            assert!(plain.contains(&option), "{verb} {option}");
        }
        for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION"] {
            assert!(page.contains(section), "{verb}: {section}");
        }
        let is_fine = is_fine_to("groff", &["-man", "-ww", "-z"], &page);
        assert!(is_fine.unwrap_or(true), "{verb}: groff complains");
    }
}

#[test]
fn a_page_that_cannot_be_had_is_told() {
    let unknown = lockkeeper(&["man", "rnu"]);
    assert_eq!(unknown.code, 64, "{unknown:?}");
    assert!(unknown.stderr.contains("there are run, check"), "{unknown:?}");
    let nowhere = lockkeeper(&["man", "--out", "/proc/none"]);
    assert_eq!(nowhere.code, 73, "{nowhere:?}");
    assert!(nowhere.stderr.contains("/proc/none/lockkeeper.1"), "{nowhere:?}");
}

#[test]
fn a_link_that_lies_where_a_page_belongs_is_not_followed() {
    let rig = Rig::new();
    let precious = rig.path("precious");
    fs::write(&precious, "kept").unwrap();
    std::os::unix::fs::symlink(&precious, rig.path("lockkeeper.1")).unwrap();
    let refused = lockkeeper(&["man", "--out", rig.path("").to_str().unwrap()]);
    assert_eq!(refused.code, 73, "{refused:?}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
}

#[test]
fn the_resident_parent_has_no_code_for_command_lines_schemas_and_pages() {
    let symbols = |program: &str| {
        let output = Command::new("nm").arg("-C").arg(program).output().unwrap();
        assert!(output.status.success(), "{program}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tool = symbols(env!("CARGO_BIN_EXE_lockkeeper"));
    let parent = symbols(env!("CARGO_BIN_EXE_lockkeeper-run"));
    assert!(parent.contains("lockkeeper::supervisor"), "it has no symbols");
    for of_crate in ["schemars::", "clap_builder::", "clap_mangen::", "clap_complete::"] {
        assert!(tool.contains(of_crate), "lockkeeper has no {of_crate}: this looks for nothing");
        assert!(!parent.contains(of_crate), "lockkeeper-run has {of_crate}");
    }
}
