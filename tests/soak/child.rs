//! The smallest child that obeys the contract: ready at once, 75 on SIGUSR1, 0 on SIGTERM. On
//! SIGHUP it leaves a process behind and wants a restart.
#![allow(clippy::disallowed_methods, reason = "a test's child does what real programs do")]

use std::{
    env,
    os::unix::net::UnixDatagram,
    process::{Command, exit},
};

use lockkeeper::protocol::{
    env::NOTIFY_SOCKET,
    exit::{OK, RESTART},
    signal::Signal,
};
use signal_hook::iterator::Signals;

/// Its one argument, as what is left behind.
const LEFT: &str = "left-behind";

fn main() {
    if env::args().nth(1).is_some_and(|word| word == LEFT) {
        loop {
            std::thread::park();
        }
    }
    let taken = [Signal::Term, Signal::Usr1, Signal::Hup].map(Signal::number);
    let mut signals = Signals::new(taken).expect("they can be caught");
    let socket = env::var_os(NOTIFY_SOCKET).expect("a parent gives one");
    let parent = UnixDatagram::unbound().expect("a socket");
    parent.send_to(b"READY=1", socket).expect("the parent reads");
    let signal = signals.forever().next();
    if signal == Some(Signal::Hup.number()) {
        leave_one_behind();
    }
    exit(i32::from(if signal == Some(Signal::Term.number()) { OK } else { RESTART }));
}

#[expect(clippy::zombie_processes, reason = "it is the parent's to find and to end")]
fn leave_one_behind() {
    Command::new("/proc/self/exe").arg(LEFT).spawn().expect("another process");
}
