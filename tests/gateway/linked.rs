//! What the programs are made of.

use std::process::Command;

/// Parts of names that only the gateway's dependencies have.
const HEAVY: [&str; 3] = ["sqlite3_prepare", "rustls", "tungstenite"];

#[test]
fn the_parent_links_nothing_of_the_gateway() {
    let gateway = symbols(env!("CARGO_BIN_EXE_lockkeeper-gateway"));
    for name in HEAVY {
        assert!(gateway.contains(name), "the gateway has no {name}: this looks for nothing");
    }
    for parent in [env!("CARGO_BIN_EXE_lockkeeper"), env!("CARGO_BIN_EXE_lockkeeper-run")] {
        let symbols = symbols(parent);
        assert!(symbols.contains("lockkeeper"), "{parent} has no symbols");
        for name in HEAVY {
            assert!(!symbols.contains(name), "{parent} has {name}");
        }
    }
}

/// The names of all functions and data of a program; with gcc comes what reads them.
fn symbols(program: &str) -> String {
    let output = Command::new("nm").arg(program).output().expect("binutils has nm");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
