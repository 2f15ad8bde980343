//! `lockkeeper run` as a process of the test, and all that it and its gateway print.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
};

use lockkeeper::protocol::signal::Signal;

use crate::{process::Process, transcript::Transcript};

#[derive(Debug)]
pub struct Supervisor {
    child: Child,
    process: Process,
    said: Arc<Transcript>,
}

impl Supervisor {
    pub fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let errors = writer.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let child = command.spawn().expect("lockkeeper starts");
        drop(command); // and with it our ends of the pipe
        let said = Arc::new(Transcript::default());
        let heard = Arc::clone(&said);
        thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                // For the test's report, which the harness shows if it fails.
                let Ok(line) = line else { break };
                println!("{line}");
                heard.push(line);
            }
            heard.close();
        });
        Self { process: Process::of(child.id()), child, said }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of it or of its gateway.
    #[track_caller]
    pub fn expect(&self, pattern: &str) -> String {
        self.said.expect(pattern)
    }

    /// How many lines so far contain this.
    pub fn count(&self, pattern: &str) -> usize {
        self.said.count(pattern)
    }

    /// Waits until this generation is ready, and tells its process.
    #[track_caller]
    pub fn ready(&self, generation: u64) -> u32 {
        let start = format!("generation {generation}: pid ");
        loop {
            let line = self.said.expect(&start);
            let told = line.split_once(&start).expect("it contains it").1;
            if let Some((pid, _)) = told.split_once(", ready in ") {
                return pid.parse().expect("a process number");
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> End {
        self.process.gone();
        End::from(self.child.wait().expect("our own child"))
    }
}

impl Drop for Supervisor {
    /// Else it would respawn what the lab ends.
    fn drop(&mut self) {
        self.process.signal(Signal::Kill);
        self.child.wait().expect("our own child");
    }
}

/// How a supervisor ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    Code(i32),
    Killed(i32),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Killed(signal.expect("it ended one way or the other")),
        }
    }
}
