//! Directories listed before their turn.
//!
//! The time of a walk over a large context is that of its system calls, so a few threads list the
//! directories that the walk is going to ask for while it still deals with those before them. What
//! the walk gets is the same as without them, and in the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use crate::snapshot::{FileTree, Node, TreeError};
use crate::solver::cancel::Cancel;

/// So many directories waiting are worth more threads.
const WORTH_THREADS: usize = 4;
/// More threads than this wait for the same locks of the file system.
const MOST_THREADS: usize = 8;

pub(super) type Listed = Result<Vec<Node>, TreeError>;

/// Says of a directory whether the walk is going to ask for it.
pub(super) type Wanted<'a> = dyn Fn(&Node) -> bool + Sync + 'a;

#[derive(Default)]
struct State {
    waiting: BTreeSet<Vec<u8>>,
    being_listed: BTreeSet<Vec<u8>>,
    listed: BTreeMap<Vec<u8>, Listed>,
    threads: usize,
    ended: bool,
}

/// The directories of one walk.
pub(super) struct Ahead<'a> {
    tree: &'a Arc<dyn FileTree>,
    wanted: &'a Wanted<'a>,
    cancel: &'a Cancel,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Ahead<'a> {
    /// Calls `walk` with a way to list the directories of `tree`.
    pub(super) fn during<T>(
        tree: &'a Arc<dyn FileTree>,
        wanted: &'a Wanted<'a>,
        cancel: &'a Cancel,
        walk: impl FnOnce(&mut dyn FnMut(&[u8]) -> Listed) -> T,
    ) -> T {
        let ahead = Ahead {
            tree,
            wanted,
            cancel,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        std::thread::scope(|scope| {
            let _end = End(&ahead);
            walk(&mut |directory| ahead.list(scope, directory))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in a directory.
    fn list<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, directory: &[u8]) -> Listed {
        let mut state = self.state();
        loop {
            if let Some(listed) = state.listed.remove(directory) {
                return listed;
            }
            if !state.being_listed.contains(directory) {
                break;
            }
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.remove(directory);
        drop(state);
        let listed = self.tree.children(directory);
        let mut state = self.state();
        self.expect(&mut state, &listed);
        self.start_threads(&mut state, scope);
        listed
    }

    /// Lets the directories that were found wait for a thread.
    fn expect(&self, state: &mut State, listed: &Listed) {
        let found = listed.iter().flatten();
        let wanted = found.filter(|node| node.entry.is_directory() && (self.wanted)(node));
        let before = state.waiting.len();
        state
            .waiting
            .extend(wanted.map(|node| node.entry.path.clone()));
        if state.threads > 0 && state.waiting.len() > before {
            self.changed.notify_all();
        }
    }

    fn start_threads<'scope>(&'scope self, state: &mut State, scope: &'scope Scope<'scope, '_>) {
        if state.threads > 0 || state.waiting.len() < WORTH_THREADS {
            return;
        }
        let most = std::thread::available_parallelism().map_or(1, NonZero::get);
        state.threads = most.min(MOST_THREADS).saturating_sub(1);
        for _ in 0..state.threads {
            scope.spawn(|| self.work());
        }
    }

    fn work(&self) {
        let mut state = self.state();
        while !state.ended && !self.cancel.is_canceled() {
            let Some(directory) = state.waiting.pop_first() else {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.being_listed.insert(directory.clone());
            drop(state);
            let listing = Listing(self, directory);
            let listed = self.tree.children(&listing.1);
            state = self.state();
            self.expect(&mut state, &listed);
            state.listed.insert(listing.1.clone(), listed);
            drop(state);
            drop(listing);
            state = self.state();
        }
    }
}

/// A directory that a thread lists. However that ends, nobody waits for it any longer.
struct Listing<'a, 'b>(&'a Ahead<'b>, Vec<u8>);

impl Drop for Listing<'_, '_> {
    fn drop(&mut self) {
        self.0.state().being_listed.remove(&self.1);
        self.0.changed.notify_all();
    }
}

/// Ends the threads when the walk has ended, however it did.
struct End<'a, 'b>(&'a Ahead<'b>);

impl Drop for End<'_, '_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::*;
    use crate::layer::entry::{Entry, EntryKind, join_path};
    use crate::snapshot::FileRef;

    /// Three levels of ten directories each, with ten files in the last.
    #[derive(Default)]
    struct Tree {
        asked: Mutex<Vec<Vec<u8>>>,
    }

    impl FileTree for Tree {
        fn lookup(&self, _: &[u8], _: bool) -> Result<Option<Node>, TreeError> {
            Ok(None)
        }

        fn children(&self, path: &[u8]) -> Listed {
            self.asked
                .lock()
                .expect("nothing panicked")
                .push(path.to_vec());
            let depth = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).count();
            if path == b"7/7/7" {
                return Err(TreeError::file(path)(
                    io::ErrorKind::PermissionDenied.into(),
                ));
            }
            let kind = match depth {
                3 => EntryKind::File,
                _ => EntryKind::Directory { opaque: false },
            };
            let names = (0..10).map(|name: u8| [b'0' + name]);
            let entry = |name: [u8; 1]| Entry::new(join_path(path, &name), kind);
            let node = |entry| Node {
                entry,
                identity: None,
                layer: 0,
                digest: None,
            };
            Ok(names.map(|name| node(entry(name))).collect())
        }

        fn open(&self, _: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
            Ok(Box::new(io::empty()))
        }
    }

    fn walk(
        list: &mut dyn FnMut(&[u8]) -> Listed,
        directory: &[u8],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<(), TreeError> {
        for node in list(directory)? {
            found.push(node.entry.path.clone());
            if node.entry.is_directory() {
                walk(list, &node.entry.path, found)?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_walk_finds_everything_once_in_its_own_order_up_to_what_fails() {
        let tree: Arc<dyn FileTree> = Arc::new(Tree::default());
        let mut found = Vec::new();
        let walked = Ahead::during(&tree, &|_| true, &Cancel::new(), |list| {
            walk(list, b"", &mut found)
        });
        let failed = walked.expect_err("7/7/7 can't be read").to_string();
        assert!(failed.starts_with("`/7/7/7`"), "{failed}");
        let expected = {
            let mut expected = Vec::new();
            let mut list = |path: &[u8]| Tree::default().children(path);
            let _ = walk(&mut list, b"", &mut expected);
            expected
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_the_walk_does_not_want_is_not_listed() {
        let asked = Arc::new(Tree::default());
        let tree: Arc<dyn FileTree> = asked.clone();
        let wanted = |node: &Node| node.entry.path.starts_with(b"3");
        Ahead::during(&tree, &wanted, &Cancel::new(), |list| {
            list(b"").expect("it can be read");
            list(b"3").expect("it can be read");
        });
        let asked = asked.asked.lock().expect("nothing panicked");
        assert!(
            asked
                .iter()
                .all(|path| path.is_empty() || path.starts_with(b"3"))
        );
    }

    /// Panics where a thread lists one directory, and not where the walk does so itself.
    struct Panicking(Tree, std::thread::ThreadId);

    impl FileTree for Panicking {
        fn lookup(&self, _: &[u8], _: bool) -> Result<Option<Node>, TreeError> {
            Ok(None)
        }

        fn children(&self, path: &[u8]) -> Listed {
            assert!(
                path != b"5" || std::thread::current().id() == self.1,
                "a thread lists it"
            );
            if path.is_empty() || std::thread::current().id() != self.1 {
                return self.0.children(path);
            }
            // The threads are to be quicker than the walk.
            std::thread::sleep(std::time::Duration::from_millis(20));
            self.0.children(path)
        }

        fn open(&self, _: &FileRef) -> Result<Box<dyn Read + Send>, TreeError> {
            Ok(Box::new(io::empty()))
        }
    }

    #[test]
    fn a_thread_that_panics_leaves_nobody_waiting() {
        if std::thread::available_parallelism().map_or(1, NonZero::get) < 2 {
            return;
        }
        let (ended, end) = std::sync::mpsc::channel();
        let walking = std::thread::spawn(move || {
            let own = std::thread::current().id();
            let tree: Arc<dyn FileTree> = Arc::new(Panicking(Tree::default(), own));
            let mut found = Vec::new();
            Ahead::during(&tree, &|_| true, &Cancel::new(), |list| {
                let _ = walk(list, b"", &mut found);
                let _ = ended.send(());
            });
        });
        end.recv_timeout(std::time::Duration::from_secs(60))
            .expect("the walk ends");
        // The panic is the walk's, too.
        assert!(walking.join().is_err());
    }
}
