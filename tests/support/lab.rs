//! A throw-away systemd to try units on, run by `systemd-lab` beside this file.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// The safety net under every wait; no test is right because of it.
const LIMIT: Duration = Duration::from_secs(60);

/// A booted systemd with this build's `lockkeeper` in it, ended when this is dropped or when the
/// test's process dies: the lab lives as long as its standard input is open.
pub(crate) struct Lab {
    /// Seen by both sides; neither in /run nor in /tmp, which the lab has for itself.
    dir: tempfile::TempDir,
    process: Child,
    open: Option<ChildStdin>,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Lab {
    /// Boots, until systemd says that it is up.
    pub(crate) fn boot() -> Self {
        let dir = tempfile::Builder::new().prefix("lab-").tempdir_in("/var/tmp").expect("a folder");
        let notify = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        notify.set_read_timeout(Some(LIMIT)).expect("a limit");
        let mut process = Command::new(script())
            .arg("boot")
            .arg(dir.path())
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("systemd-lab can be started");
        let open = process.stdin.take();
        let lab = Self { dir, process, open };
        let mut said = [0; 4096];
        loop {
            let length = notify.recv(&mut said).unwrap_or_else(|error| {
                let console = fs::read_to_string(lab.path("console.log")).unwrap_or_default();
                panic!("systemd did not come up ({error}): {console}")
            });
            if said[..length].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                return lab;
            }
        }
    }

    /// A file or folder that the host and the lab both see under this path.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a command inside, to its end.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        self.start(command).finish()
    }

    /// Starts a command inside.
    pub(crate) fn start(&self, command: &[&str]) -> Running {
        let child = Command::new(script())
            .arg("exec")
            .arg(self.dir.path())
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("systemd-lab can be started");
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(child.wait_with_output()));
        Running(end)
    }

    /// One property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.run(&["systemctl", "show", "--value", "--property", name, unit]);
        shown.text.trim().to_owned()
    }

    /// What systemd and its units have logged so far.
    fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "--output=short-monotonic"]).text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("--- the lab's journal\n{}", self.journal());
        }
        drop(self.open.take());
        let _ = self.process.wait();
    }
}

/// A command that runs inside.
#[must_use]
pub(crate) struct Running(mpsc::Receiver<io::Result<std::process::Output>>);

impl Running {
    /// Whether it has ended by now.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.0.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    /// Waits for its end.
    pub(crate) fn finish(self) -> Output {
        let output = self.0.recv_timeout(LIMIT).expect("a command in the lab ends");
        let output = output.expect("it is our child");
        let both = [output.stdout, output.stderr].concat();
        Output { code: output.status.code(), text: String::from_utf8_lossy(&both).into_owned() }
    }
}

/// A named pipe over which a child in the lab tells a line, or waits for one.
pub(crate) struct Pipe(PathBuf);

impl Pipe {
    pub(crate) fn new(path: PathBuf) -> Self {
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo can be started");
        assert!(made.success(), "mkfifo {}", path.display());
        Self(path)
    }

    /// The next line that somebody writes.
    pub(crate) fn read(&self) -> String {
        let path = self.0.clone();
        within_limit(move || {
            let mut line = String::new();
            let file = fs::File::open(path).expect("the pipe is there");
            BufReader::new(file).read_line(&mut line).expect("the pipe can be read");
            line.trim().to_owned()
        })
    }

    /// Gives a line to the one who waits for it.
    pub(crate) fn write(&self, line: &'static str) {
        let path = self.0.clone();
        within_limit(move || fs::write(path, format!("{line}\n")).expect("the pipe takes a line"));
    }
}

fn within_limit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(LIMIT).expect("a pipe of the lab has nobody at its other end")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/systemd-lab")
}
