//! A headless Chromium of one's own, over WebDriver, and its end, whatever happens.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use thirtyfour::{ChromiumLikeCapabilities, DesiredCapabilities, WebDriver};
use tokio::io::{AsyncBufReadExt, BufReader};

const CHROMIUM: &str = "/usr/bin/chromium";
const CHROMEDRIVER: &str = "/usr/bin/chromedriver";

/// The browser. Dropped: all its processes are killed.
#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) page: WebDriver,
    processes: Processes,
}

/// The WebDriver, and every process that has the profile's path in its arguments.
#[derive(Debug)]
struct Processes {
    chromedriver: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    /// With nothing in it: no history, no storage, no session of another test.
    pub(crate) async fn start() -> Self {
        for program in [CHROMIUM, CHROMEDRIVER] {
            assert!(
                Path::new(program).exists(),
                "{program} is not there: `apt-get install chromium chromium-driver`, on Debian"
            );
        }
        // The client of the WebDriver's own protocol is built for TLS, though it talks to loopback.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let profile = tempfile::tempdir().unwrap();
        let mut chromedriver = Command::new(CHROMEDRIVER)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = chromedriver.stdout.take().unwrap();
        let processes = Processes { chromedriver, profile };
        let port = port(stdout).await;

        let mut wanted = DesiredCapabilities::chrome();
        wanted.set_binary(CHROMIUM).unwrap();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1000,800",
            &format!("--user-data-dir={}", processes.profile.path().display()),
        ] {
            wanted.add_arg(argument).unwrap();
        }
        let page = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await.unwrap();
        Self { page, processes }
    }

    /// Closed as a person would.
    pub(crate) async fn quit(self) {
        let Self { page, processes } = self;
        page.quit().await.unwrap();
        drop(processes);
    }
}

/// From the line that it says once it listens: `... started successfully on port 39331.`
async fn port(stdout: std::process::ChildStdout) -> u16 {
    let stdout = tokio::process::ChildStdout::from_std(stdout).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let Some((_, port)) = line.split_once("started successfully on port ") else { continue };
        // It dies of a broken pipe, should it ever say more.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        return port.trim_end_matches('.').parse().unwrap();
    }
    panic!("chromedriver ended before it listened");
}

impl Processes {
    /// Chromium leaves its driver's group: it is known by its profile, which nobody else has.
    fn chromiums(&self) -> Vec<Pid> {
        let profile = self.profile.path().as_os_str().as_encoded_bytes();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|process| process.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                arguments.windows(profile.len()).any(|part| part == profile)
            })
            .map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let _ = self.chromedriver.kill();
        let _ = self.chromedriver.wait();
        // Until none is left: one may have been starting another.
        for _ in 0..100 {
            let left = self.chromiums();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
