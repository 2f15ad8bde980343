//! What a key with one message costs in memory: resident, as the kernel counts, in a process of its
//! own. (An allocator that counts would need `unsafe`, and would slow the other figures.)

use std::{env, fs, hint::black_box, process::Command};

use super::{debounce, runtime};

/// The first argument of such a process; the second is the subject.
pub(crate) const MODE: &str = "--memory-of";

const KEYS: u64 = 1_000_000;
const SUBJECTS: [&str; 3] = ["HashMap<_, Vec<_>>", "Debouncer", "a task with a sleep a key"];

pub(crate) fn run() {
    println!("\n## Memory of a key with one message of 8 bytes, of {KEYS} keys\n");
    println!("| candidate | bytes a key |\n| --- | ---: |");
    for subject in SUBJECTS {
        let program = env::current_exe().expect("it has a path");
        let output = Command::new(program).args([MODE, subject]).output().expect("it starts");
        println!("| {subject} | {} |", String::from_utf8_lossy(&output.stdout).trim());
    }
}

/// In the process of its own.
pub(crate) fn tell(subject: &str) {
    let runtime = runtime();
    let before = resident();
    let of = |after: u64| (after - before) / KEYS;
    let bytes = match subject {
        "HashMap<_, Vec<_>>" => {
            let map = black_box(debounce::plain_map(KEYS));
            let bytes = of(resident());
            drop(map);
            bytes
        }
        "Debouncer" => {
            let inbox = runtime.block_on(async { debounce::debouncer() });
            (0..KEYS).for_each(|key| debounce::push_one(&inbox, key, key));
            of(resident())
        }
        _ => {
            let tasks = debounce::Tasks::start(&runtime, KEYS);
            let bytes = of(resident());
            drop(tasks);
            bytes
        }
    };
    println!("{bytes}");
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("it is a number of KiB") * 1024
}
