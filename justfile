# One door for every habit of the house. `just` alone lists them.

_default:
    @just --list --unsorted

# Everything a change must pass; what CI runs.
ci:
    ./scripts/test

# The tests alone; arguments go to nextest.
test *ARGS:
    cargo nextest run --locked {{ ARGS }}

# The supervisor's cost beside its peers, in release.
bench *ARGS="supervisor":
    ./scripts/bench {{ ARGS }}

# Format in place.
fmt:
    cargo fmt

# What the compiler, clippy, rustdoc and cargo-deny have to say.
lint:
    LOCKKEEPER_STEPS="fmt clippy doc deny" ./scripts/test
