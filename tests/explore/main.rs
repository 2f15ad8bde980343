//! Every state that the supervisor's machine can reach, visited: joined with a model of the child,
//! the operating system, the hooks, the operator and the clock.
//!
//! ```text
//!   policies ──► search ──► world (a move, then what the machine asks for) ──► laws
//!                  │          └── the machine itself, of src/supervisor
//!                  └── key: when two states are the same
//! ```
//!
//! The machine is compiled from the product's own files, so that its private state is seen, and so
//! that [`mutants`] can do the same with a copy in which one guard is wrong.
//!
//! `LOCKKEEPER_EXPLORE=deep` explores more: one more request at once, a fourth stop, and every
//! fact also at the very moment of a deadline.

// What the machine's files show to the rest of the product is used in part here.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::print_stdout, reason = "the numbers are what it is run for")]

mod mutants;
mod supervisor;

/// What parent and child agree on, as the product has it.
mod protocol {
    pub use lockkeeper::protocol::{control, exit, signal};
}

use supervisor::{policies, search};

/// Explores all that is reachable under one policy.
#[track_caller]
fn explore(name: &str) {
    match search::explore(&policies::named(name), policies::Bounds::from_env()) {
        Ok(found) => println!("{name}: {found}"),
        Err(violation) => panic!("{name}: {violation}"),
    }
}

macro_rules! explored {
    ($($policy:ident),+ $(,)?) => {
        $(#[test]
        fn $policy() {
            explore(stringify!($policy));
        })+

        #[test]
        fn every_policy_is_explored() {
            assert_eq!(policies::NAMES, [$(stringify!($policy)),+]);
        }
    };
}

explored! {
    generic,
    notify,
    openclaw,
    in_process,
    checked,
    coalesced,
    park_and_stay,
    at_once,
    held,
    mended,
    no_time,
    no_burst,
    watched,
    probed,
    patient,
    checked_in_process,
}
