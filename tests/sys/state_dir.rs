use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use lockkeeper::sys::state_dir::{StateDirError, is_network_fs, let_through, prepare};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_missing_state_folder_is_made_for_us_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a/b");
    prepare(&state).unwrap();
    prepare(&state).unwrap();
    assert_eq!((mode(&state), mode(&dir.path().join("a"))), (0o700, 0o700));
}

#[test]
fn others_may_read_but_not_write_a_state_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("theirs"), "").unwrap();
    for (before, after) in [(0o755, 0o755), (0o777, 0o755), (0o2770, 0o2750), (0o700, 0o700)] {
        set_mode(dir.path(), before);
        prepare(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), after);
    }
    set_mode(dir.path(), 0o1777);
    assert!(matches!(prepare(dir.path()), Err(StateDirError::Shared { .. })));
    assert_eq!(mode(dir.path()), 0o1777, "a folder like /tmp is left alone");
}

#[test]
fn a_folder_of_ours_alone_is_closed_to_others_and_opened_to_the_group_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o755);
    prepare(dir.path()).unwrap();
    assert_eq!(mode(dir.path()), 0o700);

    fs::write(dir.path().join("gateway.lock"), "").unwrap();
    set_mode(dir.path(), 0o755);
    prepare(dir.path()).unwrap();
    assert_eq!(mode(dir.path()), 0o700);

    let own = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
    assert_eq!(let_through(dir.path(), &own.name).unwrap(), own.gid.as_raw());
    assert_eq!(mode(dir.path()), 0o710);
    let refusal = let_through(dir.path(), "no-such-group").unwrap_err();
    assert!(matches!(refusal, StateDirError::NoGroup(_)));
}

#[test]
fn what_is_no_folder_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link, folder) =
        (dir.path().join("file"), dir.path().join("link"), dir.path().join("folder"));
    fs::write(&file, "").unwrap();
    fs::create_dir(&folder).unwrap();
    symlink(&folder, &link).unwrap();
    assert!(matches!(prepare(&file), Err(StateDirError::NotAFolder { .. })));
    assert!(matches!(prepare(&link), Err(StateDirError::Symlink { .. })));
    assert!(matches!(prepare(&link.join("")), Err(StateDirError::Symlink { .. })));
    assert!(matches!(prepare(&file.join("below")), Err(StateDirError::Folder { .. })));

    let theirs = if rustix::process::geteuid().is_root() {
        nix::unistd::chown(&folder, Some(1.into()), None).unwrap();
        folder.as_path()
    } else {
        Path::new("/")
    };
    let refusal = prepare(theirs).unwrap_err();
    assert!(matches!(refusal, StateDirError::NotOurs { .. }));
    assert!(refusal.to_string().starts_with(theirs.to_str().unwrap()), "{refusal}");
}

#[test]
fn memory_is_no_network() {
    assert!(!is_network_fs(Path::new("/proc")));
    assert!(!is_network_fs(Path::new("/no/such/folder")));
}
