//! The debouncers' registry under every interleaving that shuttle can think of: it compiles the
//! list behind it with shuttle's locks.

#![allow(clippy::disallowed_methods)]

use shuttle::{
    check_random,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What the library gathers in `src/drain/sync.rs`, from shuttle.
mod drain {
    pub(crate) mod sync {
        use shuttle::sync::PoisonError;
        pub(crate) use shuttle::sync::{Mutex, MutexGuard};

        pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[path = "../src/drain/debounce/registry_list.rs"]
mod registry_list;

use registry_list::{RegistryList, Weakly};

struct Entry(Weak<Member>);

struct Member {
    name: usize,
    holds: AtomicBool,
}

impl Weakly for Entry {
    type Strong = Arc<Member>;

    fn upgrade(&self) -> Option<Self::Strong> {
        self.0.upgrade()
    }
}

fn member(list: &RegistryList<Entry>, name: usize) -> Arc<Member> {
    let member = Arc::new(Member { name, holds: AtomicBool::new(true) });
    list.register(Entry(Arc::downgrade(&member)));
    member
}

#[test]
fn a_debouncer_that_registers_during_a_flush_is_found_by_it_or_by_the_next_look() {
    check_random(
        || {
            let list = Arc::new(RegistryList::new());
            let first = member(&list, 0);
            let registering = {
                let list = Arc::clone(&list);
                thread::spawn(move || [member(&list, 1), member(&list, 2)])
            };
            // The form of `flush_all`: flush those that there are, look again.
            let flush = |list: &RegistryList<Entry>| {
                while let Some(one) =
                    list.live().iter().find(|one| one.holds.load(Ordering::SeqCst))
                {
                    one.holds.store(false, Ordering::SeqCst);
                }
            };
            flush(&list);
            assert!(!first.holds.load(Ordering::SeqCst));
            let later = registering.join().unwrap();
            flush(&list);
            assert!(later.iter().all(|one| !one.holds.load(Ordering::SeqCst)));
            let names: Vec<_> = list.live().iter().map(|one| one.name).collect();
            assert_eq!(names, [0, 1, 2]);
        },
        2_000,
    );
}

#[test]
fn the_living_stay_and_the_dead_leave_whoever_registers_meanwhile() {
    check_random(
        || {
            let list = Arc::new(RegistryList::new());
            let threads: Vec<_> = (0..3)
                .map(|name| {
                    let list = Arc::clone(&list);
                    thread::spawn(move || {
                        // Enough for the list to grow, and so to clear itself, more than once.
                        for _ in 0..6 {
                            drop(member(&list, 9));
                        }
                        let lives = member(&list, name);
                        assert!(list.live().iter().any(|one| one.name == name));
                        lives
                    })
                })
                .collect();
            let live: Vec<_> = threads.into_iter().map(|one| one.join().unwrap()).collect();
            let mut names: Vec<_> = list.live().iter().map(|one| one.name).collect();
            names.sort_unstable();
            assert_eq!((names, live.len()), (vec![0, 1, 2], 3));
        },
        2_000,
    );
}
