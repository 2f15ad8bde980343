//! Whether this process runs in a container.
#![allow(clippy::disallowed_methods)]

use std::{env, fs, path::Path};

/// By the marks that the common ones leave: Docker's and Podman's files, systemd's and LXC's
/// variable of PID 1, Kubernetes' variable. False where there is none of them.
pub fn is_one() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || fs::read("/proc/1/environ").is_ok_and(|environment| is_of_container(&environment))
}

/// Whether PID 1 has a `container=` in its environment, as the container interface has it.
fn is_of_container(environment: &[u8]) -> bool {
    let mut all = environment.split(|byte| *byte == 0);
    all.any(|one| one.strip_prefix(b"container=").is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_first_process_says_so() {
        assert!(is_of_container(b"PATH=/bin\0container=lxc\0"));
        assert!(!is_of_container(b"PATH=/bin\0container=\0xcontainer=lxc\0"));
        assert!(!is_of_container(b""));
    }
}
