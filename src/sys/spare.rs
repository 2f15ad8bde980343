//! Descriptors that are kept for the moment at which there are no others.
//!
//! A process that may open nothing more cannot read `/proc`, and then knows nothing of its child:
//! not which signals it has handlers for, nor what it left behind, nor whether a pid is still its
//! own. A supervisor that has [kept](keep) some gives them up for as long as such a look takes.
//!
//! They are the process's, as all its descriptors are, and so there is one set of them. It is lent
//! by the one thread that starts processes and looks at them; another thread that opens something
//! in that moment may take one, and the look then fails as it would have without them.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::File,
    io, mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::io::Errno;

/// What a look needs at most: `/proc`, the folder of a process in it, the list of its descriptors,
/// which procfs opens twice, and one of them.
const KEPT: usize = 5;

static SPARE: Mutex<Spare> = Mutex::new(Spare::None);

enum Spare {
    /// This process keeps none.
    None,
    /// These; fewer than [`KEPT`] if there were not more to be had.
    Kept(Vec<File>),
    /// A look has them.
    Lent,
}

/// Keeps some from now on, as far as there are any.
pub fn keep() {
    *spare() = Spare::taken();
}

/// What `look` finds. Where the system has no descriptor left it is done again with the spare ones,
/// so it must not mind being begun twice.
pub(super) fn look<T>(mut look: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match look() {
        Err(error) if is_short(&error) => lent(look),
        other => other,
    }
}

/// What `look` finds with the spare descriptors at hand from the start: for one that cannot tell
/// what it has not seen.
pub(super) fn lent<T>(look: impl FnOnce() -> T) -> T {
    let kept = {
        let mut spare = spare();
        match mem::replace(&mut *spare, Spare::Lent) {
            Spare::Kept(files) => files,
            // A look within a look, or none are kept.
            other => {
                *spare = other;
                drop(spare);
                return look();
            }
        }
    };
    drop(kept);
    let found = look();
    *spare() = Spare::taken();
    found
}

fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spare {
    fn taken() -> Self {
        // Nothing that matters, small, and always there.
        Self::Kept((0..KEPT).map_while(|_| File::open("/dev/null").ok()).collect())
    }
}

fn is_short(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that finds nothing unless the spare descriptors were given up for it.
    fn needy() -> io::Result<()> {
        if matches!(*spare(), Spare::Lent) { Ok(()) } else { Err(Errno::MFILE.into()) }
    }

    #[test]
    fn a_look_that_has_nothing_to_open_with_gets_what_was_kept_and_gives_it_back() {
        assert!(look(needy).is_err(), "none are kept");
        keep();
        for _ in 0..2 {
            look(needy).unwrap();
            assert!(matches!(&*spare(), Spare::Kept(files) if files.len() == KEPT));
        }
        lent(|| look(needy)).unwrap();
        lent(|| lent(needy)).unwrap();
        assert!(matches!(&*spare(), Spare::Kept(files) if files.len() == KEPT));

        let mut looks = 0;
        let refusal = look(|| {
            looks += 1;
            Err::<(), _>(Errno::ACCESS.into())
        });
        assert_eq!((refusal.unwrap_err().kind(), looks), (io::ErrorKind::PermissionDenied, 1));
    }
}
