//! Layer 1: everything that a gateway has accepted is finished, handed over or refused aloud before
//! it leaves.
//!
//! One [`Drain`] owns the systems in which accepted work waits, and empties them in order:
//!
//! ```text
//!   message ─▶ intake ─▶ debouncer ─▶ followup queue ─▶ lane, run ─▶ dispatcher ─▶ reply
//!                 │          │              │              │             │
//!   phase      2 quiet    3 flush      4 followups     6 finish      7 deliver
//!              1 announce comes before, 5 seal after 4, 8 close at the end
//! ```
//!
//! The [`gate`] answers whether new work may begin; until the *seal* it says yes, so that what is
//! flushed may begin its runs; after it only the work of what was accepted passes. All phases share
//! one deadline ([`plan`]). What cannot be finished is cut by name, and handed back in the
//! [`report`]. Until *close* a drain can be called off, and nothing was lost.
//!
//! Each system is a machine without clock or task, in the file of its name, and a handle in
//! [`driver`], which is what a program holds. Each can be used alone: it needs a [`gate::Gate`] and
//! a tokio runtime, no more. `docs/compare.md` says when something smaller is enough.
//!
//! # From `tokio::spawn` to a drained gateway in five steps
//!
//! A gateway begins like this, and loses at each restart whatever it is at work on:
//!
//! ```no_run
//! # async fn receive() -> (u64, String) { std::future::pending().await }
//! # async fn answer(_: u64, _: String) {}
//! # async fn gateway() {
//! loop {
//!     let (chat, text) = receive().await;
//!     tokio::spawn(answer(chat, text));
//! }
//! # }
//! ```
//!
//! **1. Let the run loop start it.** [`lifecycle::run`](crate::lifecycle::run) catches the signals,
//! says `READY=1`, drains, and exits with the code that brings the gateway back. What it needs of
//! you is how to start, and how to close:
//!
//! ```no_run
//! use std::{io, process::ExitCode};
//! use lockkeeper::lifecycle::{self, Closing, Life, Server};
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     lifecycle::run(start).await
//! }
//!
//! async fn start(life: Life) -> io::Result<impl Server> {
//!     let receiving = tokio::spawn(receive(life));
//!     Ok(async move |_: &mut Closing| receiving.abort())
//! }
//! # async fn receive(_: Life) {}
//! ```
//!
//! **2. Count what is at work.** A guard lives as long as its work; its drop, by panic or cancel
//! too, is the completion. The drain waits for all of them, and names in its report whom it waited
//! for in vain:
//!
//! ```
//! # use lockkeeper::drain::Drain;
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! # let (drain, chat, text) = (Drain::default(), "ada", "hello");
//! # async fn answer(_: &str, _: &str) {}
//! match drain.gate().admit(("answer", chat)) {
//!     Ok(guard) => {
//!         tokio::spawn(async move {
//!             answer(chat, text).await;
//!             drop(guard);
//!         });
//!     }
//!     // Refused aloud: the sender is told, and when to try again.
//!     Err(refused) => println!("{refused}, in {:?}", refused.retry_after()),
//! }
//! # }
//! ```
//!
//! **3. Let messages wait where the drain sees them.** People send three lines where they mean one
//! message. A debouncer collects them; the drain flushes it first:
//!
//! ```
//! # use lockkeeper::drain::{Batch, Drain, Window};
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let drain = Drain::default();
//! # async fn answer(_: Option<String>, _: Vec<String>) -> std::io::Result<()> { Ok(()) }
//! let inbox = drain.debouncer("inbox", Window::secs(1), |chat, batch: Batch<String>| {
//!     answer(chat, batch.to_vec()) // an error, or a panic: the batch is handed back
//! });
//! inbox.push("ada".to_owned(), "are you".to_owned()).await?;
//! inbox.push("ada".to_owned(), "there?".to_owned()).await?;
//! # Ok(()) }
//! ```
//!
//! **4. Send replies through a dispatcher.** It keeps their order, tries again while there is time,
//! and holds the drain from the moment in which the turn begins, before there is a first reply:
//!
//! ```
//! # use std::sync::Arc;
//! # use lockkeeper::drain::{Drain, reply::{Kind, SendError}};
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! # let drain = Drain::default();
//! # async fn send(_: Arc<String>) -> Result<(), SendError> { Ok(()) }
//! let replies = drain.replies().dispatcher(("reply", "ada"), |text: Arc<String>| send(text));
//! replies.enqueue(Kind::Block, "Looking.".to_owned());
//! replies.enqueue(Kind::Final, "It is there.".to_owned());
//! drop(replies); // complete: the rest is delivered by itself
//! # }
//! ```
//!
//! **5. Keep what was not finished.** At the deadline the rest is handed back, by type. Write it
//! down; the next life pushes it again:
//!
//! ```
//! # use lockkeeper::{drain::Drain, lifecycle::{Closing, Server}};
//! # fn spool(_: Vec<String>) -> std::io::Result<()> { Ok(()) }
//! # fn server() -> impl Server {
//! async move |closing: &mut Closing| spool(closing.take::<String>())
//! # }
//! ```
//!
//! `examples/minimal.rs` is all of it in eighty lines. Then there are [`lane`]s for commands in
//! order, [`run`]s for agent turns that can be steered and aborted, [`followup`] queues for what
//! arrives meanwhile, and [`Drain::on_announce`] for telling clients when you are back.

pub mod counts;
pub mod debounce;
pub mod driver;
pub mod followup;
pub mod gate;
pub mod intake;
pub mod label;
pub mod lane;
pub mod notices;
pub mod outcome;
pub mod plan;
pub mod reply;
pub mod report;
pub mod run;
mod sync;
#[cfg(test)]
mod tests;
pub mod unfinished;
pub mod wake;
pub mod wheel;

pub use self::driver::{
    Begun, CalledOff, Drain, DrainOptions, Drained, Draining, Notice, Progress,
    debounce::{Batch, Debouncer, DebouncerRegistry},
    followup::{FollowupQueues, FollowupRegistry, Turn},
    lane::CommandLanes,
    reply::{Dispatcher, Replies},
};
pub use self::{debounce::Window, gate::Gate};
