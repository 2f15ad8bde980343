//! What the programs are made of.

use std::fs;

/// Names that only the gateway's dependencies have, as symbols of a binary with debug information.
const HEAVY: [&str; 3] = ["sqlite3_prepare", "rustls", "tungstenite"];

#[test]
fn the_parent_links_nothing_of_the_gateway() {
    let gateway = fs::read(env!("CARGO_BIN_EXE_lockkeeper-gateway")).unwrap();
    for name in HEAVY {
        assert!(has(&gateway, name), "the gateway has no {name}: this test looks for nothing");
    }
    for parent in [env!("CARGO_BIN_EXE_lockkeeper"), env!("CARGO_BIN_EXE_lockkeeper-run")] {
        let binary = fs::read(parent).unwrap();
        for name in HEAVY {
            assert!(!has(&binary, name), "{parent} has {name}");
        }
    }
}

fn has(binary: &[u8], name: &str) -> bool {
    binary.windows(name.len()).any(|window| window == name.as_bytes())
}
