//! The child's output: inherited, or read and passed on.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    config::settings::Log,
    sys::{
        capture::{Capture, Outlet},
        clock,
        process::OutputTo,
        relay::Lost,
        rotated_file::RotatedFile,
    },
};

/// From one line on lost output to the next, at least.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long a supervisor that leaves waits, at most, until the child's last output is read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Output {
    capture: Option<Capture>,
    /// Losses are told again from then on.
    tell_at: Option<Instant>,
}

impl Output {
    /// As the settings want it. A capture that cannot be had is no reason to be without a child:
    /// that is told, and the child inherits our output.
    pub(super) fn new(log: &Log, state_dir: &Path) -> Self {
        let file = Some(&log.file).filter(|name| !name.as_os_str().is_empty());
        let file = file
            .map(|name| RotatedFile::new(state_dir.join(name), log.file_size.bytes(), log.files));
        let lines = usize::try_from(log.lines).unwrap_or(usize::MAX);
        let capture = log.capture.then(|| Capture::start(lines, file)).transpose();
        let capture = capture.unwrap_or_else(|error| {
            tracing::warn!("log.capture: {error}; the child's output is not captured");
            None
        });
        Self { capture, tell_at: None }
    }

    /// Where a child writes.
    pub(super) fn to(&self) -> OutputTo<'_> {
        match &self.capture {
            Some(capture) => OutputTo::Ends { stdout: capture.stdout(), stderr: capture.stderr() },
            None => OutputTo::Inherit,
        }
    }

    /// The last lines of a child that has ended, as it printed them, which are forgotten.
    pub(super) fn take_last_lines(&self) -> Vec<String> {
        let lines = self.capture.as_ref().map(Capture::take_last_lines).unwrap_or_default();
        lines.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect()
    }

    /// Resolves when output was lost and that may be told. Cancel-safe.
    pub(super) async fn lost(&self) {
        let Some(capture) = &self.capture else { return std::future::pending().await };
        if self.tell_at.is_some() {
            super::sleep_until(self.tell_at).await;
        }
        capture.lost().await;
    }

    /// Tells what was lost since the last call.
    pub(super) fn tell_lost(&mut self) {
        let Some(capture) = &self.capture else { return };
        for (outlet, lost) in capture.take_lost() {
            tracing::warn!("{}", told(outlet, &lost));
        }
        self.tell_at = Some(clock::now() + TELL_EVERY);
    }

    /// Passes on what is left, and tells what was lost.
    pub(super) fn end(&mut self) {
        if let Some(capture) = &self.capture {
            capture.flush_within(LAST_WORDS);
            self.tell_lost();
        }
    }
}

fn told(outlet: Outlet, lost: &Lost) -> String {
    let (bytes, name) = (
        lost.bytes,
        match outlet {
            Outlet::Stdout => "stdout",
            Outlet::Stderr => "stderr",
            Outlet::File => "log.file",
        },
    );
    match &lost.error {
        Some(error) => format!("{bytes} bytes of the child's output were dropped: {name}: {error}"),
        None => format!(
            "{bytes} bytes of the child's output were dropped: the reader of {name} does not keep up"
        ),
    }
}
