//! Whether this process runs in a container.
#![allow(clippy::disallowed_methods)]

use std::{env, fs, path::Path};

/// By the marks that the common ones leave: Docker's and Podman's files, systemd's and LXC's
/// variable of PID 1, Kubernetes' variable. False where there is none of them.
pub fn is_one() -> bool {
    is_below(Path::new("/")) || env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// By the files in this root.
fn is_below(root: &Path) -> bool {
    let environment = || fs::read(root.join("proc/1/environ"));
    root.join(".dockerenv").exists()
        || root.join("run/.containerenv").exists()
        || environment().is_ok_and(|environment| is_of_container(&environment))
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

    #[test]
    fn a_container_is_known_by_its_marks_and_a_plain_system_has_none() {
        let marks = [
            (".dockerenv", ""),
            ("run/.containerenv", "engine=podman"),
            ("proc/1/environ", "container=systemd-nspawn\0"),
        ];
        for (mark, text) in marks {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("proc/1")).unwrap();
            fs::create_dir_all(root.path().join("run")).unwrap();
            assert!(!is_below(root.path()), "nothing to be read");
            fs::write(root.path().join("proc/1/environ"), "PATH=/bin\0").unwrap();
            assert!(!is_below(root.path()));
            fs::write(root.path().join(mark), text).unwrap();
            assert!(is_below(root.path()), "{mark}");
        }
    }
}
