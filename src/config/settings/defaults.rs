//! The defaults: those of the machine's [`Policy`], and here those that it knows nothing of.

use std::{path::PathBuf, time::Duration};

use super::{
    Backoff, Control, Env, Exit, Limit, Lock, Log, LogFormat, Park, Ready, Recovery, Restart,
    Settings, Stop, Watchdog,
};
use crate::{
    config::{
        handler::HandlerBy,
        probe::{Field, Via},
        profile::ProfileName,
    },
    supervisor::policy::Policy,
    units::Size,
};

impl Default for Settings {
    fn default() -> Self {
        let Policy { ready, stop, restart, exits, backoff, limit, .. } = Policy::default();
        let Policy { recovery, park, orphan, watchdog, .. } = Policy::default();
        Self {
            command: Vec::new(),
            profile: ProfileName::Generic,
            ready: Ready {
                via: Via::Auto,
                timeout: ready.timeout.into(),
                status: 200,
                field: Field::Any,
            },
            stop: Stop {
                signal: stop.signal,
                grace: stop.grace.into(),
                kill_after: stop.kill_after.into(),
                hold: stop.hold.into(),
                handler: HandlerBy::Auto,
            },
            restart: Restart {
                signal: restart.signal,
                handler: HandlerBy::Auto,
                in_process_signal: restart.in_process_signal,
                respawn: restart.respawn,
                grace: restart.grace.into(),
                external: true,
                cooldown: Duration::from_secs(30).into(),
                check: Vec::new(),
                check_timeout: restart.check_timeout.into(),
            },
            exit: Exit {
                restart: exits.restart,
                park: exits.park,
                stop: exits.stop,
                judge: Vec::new(),
                judge_timeout: exits.judge_timeout.into(),
            },
            backoff: Backoff {
                initial: backoff.initial.into(),
                step: backoff.step.into(),
                factor: backoff.factor,
                max: backoff.max.into(),
                reset_after: backoff.reset_after.into(),
            },
            limit: Limit {
                burst: limit.burst,
                interval: limit.interval.into(),
                then: limit.then,
                retry: limit.retry.into(),
                kills: limit.kills,
            },
            recovery: Recovery {
                command: Vec::new(),
                timeout: recovery.timeout.into(),
                command_after: recovery.command_after,
                safe_mode_after: recovery.safe_mode_after,
                window: recovery.window.into(),
            },
            park: Park { then: park },
            lock: Lock { orphan },
            watchdog: Watchdog {
                via: Via::None,
                interval: watchdog.interval.into(),
                failures: watchdog.failures,
                status: 200,
                grace: watchdog.grace.into(),
            },
            log: Log {
                format: LogFormat::Auto,
                capture: false,
                lines: 20,
                file: PathBuf::new(),
                file_size: Size::from_bytes(10 << 20),
                files: 5,
            },
            env: Env::default(),
            control: Control::default(),
        }
    }
}

/// A table that the file gives in part takes the rest from the default settings.
macro_rules! default_table {
    ($($table:ident $field:ident),+ $(,)?) => {$(
        impl Default for $table {
            fn default() -> Self {
                Settings::default().$field
            }
        }
    )+};
}

default_table! {
    Ready ready, Stop stop, Restart restart, Exit exit, Backoff backoff, Limit limit,
    Recovery recovery, Park park, Lock lock, Watchdog watchdog, Log log,
}
