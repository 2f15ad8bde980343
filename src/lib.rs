//! A process supervisor for one long-lived message gateway, the library with which a gateway drains,
//! and a gateway built on it.
//!
//! The program is `lockkeeper`; the README tells how to use it, `docs/contract.md` what a gateway
//! may expect of it. Who writes a gateway begins with [`drain`], which has a guide in five steps,
//! and [`lifecycle::run`]. [`gateway`] is the gateway of our own, `lockkeeper-gateway`, for which
//! `docs/gateway.md` is written. This page tells how it all works.
//!
//! # Theory of operation
//!
//! A gateway must not run twice, must not be cut off in the midst of its work, and must come back.
//! So there is one owner: a small parent that holds the gateway's lock over all its process lives,
//! which are called *generations* and numbered from 1.
//!
//! Whatever asks for a change (a signal, an operator on the control socket, the child itself, a
//! crash) becomes a fact for one machine, [`supervisor::machine`], which answers with actions and
//! with the deadline until which it will wait. Requests for a restart first meet the
//! [`restart::scheduler`], which makes one restart of many and finds its moment. Neither knows a
//! process, a socket or a clock: `now` is an argument. [`supervisor::driver`] is the loop around
//! them: it waits for one thing to happen, tells it, and carries out what is asked, by means of
//! [`sys`].
//!
//! ```text
//!   signals ──┐                                            ┌──► processes: spawn, signal, reap
//!   control ──┤            scheduler                       ├──► ledger, log, who waits for a verdict
//!   notify  ──┼──► facts ────►  machine  ───► actions ─────┤
//!   exits   ──┤                   │                        └──► service manager: READY, STATUS
//!   clock   ──┘ ◄──── deadline ───┘
//! ```
//!
//! A restart goes this way. The optional check passes; the successor is *staged*, a process that
//! has everything and waits; the child is told to drain, and leaves with exit code 75; what it left
//! behind is ended; the staged process becomes the command; it is ready, and everyone who asked
//! gets the verdict. What is missing for a start is found while the old child still serves. A stop
//! wins at any point.
//!
//! Four things hold throughout, and the tests of the machine look for a counter-example: there are
//! never two children; nothing is started after a stop; a state that waits has a deadline; an
//! accepted restart gets exactly one verdict.
//!
//! What the child does between the signal and its exit is its own affair. With the library it is
//! this: [`restart::driver`] has made one restart of all its own wishes and asked the parent for it;
//! [`lifecycle::run_loop`](mod@lifecycle::run_loop) hears the parent's signal; [`drain::plan`] goes
//! through the phases, from telling clients to the last reply, under one deadline; the server is
//! closed; the exit code says how it went.
//!
//! What it has accepted outlives a crash only if it was kept. The library hands back what could not
//! be finished; [`gateway`] has it in its journal from before the acknowledgement until the answer is
//! delivered, and takes it up from there at each start.
//!
//! The parent is killed, too. The kernel gives its lock back; a second lock, which every child
//! inherited, tells the next parent that a child still lives, and that child is ended first.
//!
//! # Layers
//!
//! A file names only layers below its own; `tests/layers.rs` keeps it so.
//!
//! | | module | what it is | may touch the world |
//! | --- | --- | --- | --- |
//! | 0 | [`protocol`], [`units`] | values that parent and child agree on, and their parsers; durations and sizes as people write them | no |
//! | 1 | [`supervisor`], [`drain`], [`restart`], [`lifecycle`] | machines: facts and the time in, actions and deadlines out; and counts that any thread may call | no |
//! | 2 | [`config`] | what the operator wants, and where each value came from | no |
//! | 3 | [`sys`] | the whole list of what is asked of the operating system | yes |
//! | 4 | [`supervisor::driver`], [`drain::driver`], [`restart::driver`], [`lifecycle::driver`], [`config::driver`] | carry out and report back | yes |
//! | 5 | [`cli`], [`gateway`] | the command line; the reference gateway | yes |
//! | 6 | this page | the names of the modules, no logic | no |
//! | 7 | `main.rs`, `bin/run.rs`, `bin/gateway.rs` | `lockkeeper`; `lockkeeper-run`, which `lockkeeper run` becomes; `lockkeeper-gateway` | yes |
//!
//! Machines of layer 1 never name one another; they meet as values, in a driver. All machines that
//! decide share four verbs: `handle_event(now, event)`, `handle_timeout(now)`, `poll_action()`,
//! `poll_timeout()`.
//!
//! # Features
//!
//! `supervisor` (default) is the program, `drain` (default) the library: a gateway says
//! `default-features = false, features = ["drain"]` and gets [`drain`], [`lifecycle`] and
//! [`restart`], without the supervisor and what it needs. `gateway` (default) is [`gateway`], the
//! program `lockkeeper-gateway`, built on that library as anybody's would be. Without all of them
//! the crate is [`protocol`] and the machine of [`restart`], for a child that wants to speak the
//! contract with few dependencies.

#[cfg(feature = "supervisor")]
pub mod cli;
#[cfg(feature = "supervisor")]
pub mod config;
#[cfg(feature = "drain")]
pub mod drain;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "drain")]
pub mod lifecycle;
pub mod protocol;
pub mod restart;
#[cfg(feature = "supervisor")]
pub mod supervisor;
#[cfg(feature = "os")]
pub mod sys;
#[cfg(any(feature = "supervisor", feature = "gateway"))]
pub mod units;
