//! `COPY --parents`: what a pattern matches below a root, with the directories in between.
//!
//! The directories in between come along as the source has them, and only where something below
//! them does. One that the destination has keeps its owner, and takes the source's mode. No link
//! between root and match is followed.

use super::CopyError;
use super::ahead::{Ahead, Listed};
use super::destination::{Bytes, Destination, Item};
use super::selection::{Selector, below};
use crate::ignore::{Matcher, has_wildcards};
use crate::layer::entry::{EntryKind, join_path};
use crate::snapshot::Node;

/// A directory above the place of the walk.
struct Above {
    node: Node,
    target: Vec<u8>,
    is_there: bool,
}

/// A walk over everything below one root.
struct Walk<'a> {
    include: &'a Matcher,
    above: Vec<Above>,
    found: bool,
}

/// The directory that a walk is at.
struct At<'a> {
    directory: &'a [u8],
    /// Its path below the root, which patterns are about.
    relative: &'a [u8],
    target: &'a [u8],
    /// Whether the pattern matches it or one above it.
    is_included: bool,
}

impl Selector<'_> {
    /// Puts what `pattern` matches below `root` into the destination.
    pub(super) fn with_parents(
        &self,
        destination: &mut Destination,
        root: &[u8],
        pattern: &str,
        written: &[u8],
    ) -> Result<(), CopyError> {
        let bad = |_| CopyError::BadPattern(format!("/{pattern}"));
        let is_wild = has_wildcards(root);
        let must_exist = !is_wild && !has_wildcards(pattern.as_bytes());
        for root in self.expand_wildcards(root)? {
            let wanted = || self.not_found(&join_path(&root, pattern.as_bytes()));
            let tree = self.tree.ok_or_else(wanted)?;
            let node = tree.lookup(&root, true)?.ok_or_else(wanted)?;
            if !node.entry.is_directory() {
                if is_wild {
                    continue;
                }
                return Err(wanted());
            }
            let target = destination.resolve(written)?;
            destination.make_directories(&target)?;
            // Names of one file stay links of each other within one source only.
            self.source.set(self.source.get() + 1);
            let include = Matcher::new(&[pattern]).map_err(bad)?;
            let mut walk = Walk {
                include: &include,
                above: Vec::new(),
                found: false,
            };
            let at = At {
                directory: &node.entry.path,
                relative: b"",
                target: &target,
                is_included: false,
            };
            let exclude = self.exclude;
            let is_entered = |child: &Node| {
                let path = below(&child.entry.path, &node.entry.path);
                may_enter(&include, exclude, path, include.excluded(path))
            };
            Ahead::during(tree, &is_entered, self.cancel, |list| {
                self.walk(destination, list, &mut walk, &at)
            })?;
            if must_exist && !walk.found {
                return Err(wanted());
            }
        }
        Ok(())
    }

    fn walk(
        &self,
        destination: &mut Destination,
        list: &mut dyn FnMut(&[u8]) -> Listed,
        walk: &mut Walk<'_>,
        at: &At<'_>,
    ) -> Result<(), CopyError> {
        self.cancel.check().map_err(|_| CopyError::Canceled)?;
        for child in list(at.directory)? {
            let relative = join_path(at.relative, child.entry.name());
            let is_included = at.is_included || walk.include.excluded(&relative);
            let exclude = self.exclude;
            let is_wanted = is_included && !exclude.is_some_and(|one| one.excluded(&relative));
            let target = join_path(at.target, child.entry.name());
            if is_wanted {
                self.make_parents(destination, walk)?;
                self.node(destination, child.clone(), target.clone())?;
                walk.found = true;
            }
            if !child.entry.is_directory()
                || !may_enter(walk.include, exclude, &relative, is_included)
            {
                continue;
            }
            let directory = child.entry.path.clone();
            walk.above.push(Above {
                node: child,
                target: target.clone(),
                is_there: is_wanted,
            });
            let at = At {
                directory: &directory,
                relative: &relative,
                target: &target,
                is_included,
            };
            self.walk(destination, list, walk, &at)?;
            walk.above.pop();
        }
        Ok(())
    }

    /// Makes the directories between the root and a match.
    fn make_parents(
        &self,
        destination: &mut Destination,
        walk: &mut Walk<'_>,
    ) -> Result<(), CopyError> {
        for above in walk.above.iter_mut().filter(|above| !above.is_there) {
            above.is_there = true;
            match destination.get(&above.target) {
                Some(existing) if existing.is_directory() => {
                    let mut entry = existing.clone();
                    entry.path.clone_from(&above.target);
                    entry.kind = EntryKind::Directory { opaque: false };
                    // As in BuildKit, `--chmod` isn't about what was there before.
                    entry.mode = above.node.entry.mode;
                    destination.insert(Item {
                        entry,
                        bytes: Bytes::None,
                        identity: None,
                        on_the_way: false,
                    });
                }
                _ => self.node(destination, above.node.clone(), above.target.clone())?,
            }
        }
        Ok(())
    }
}

/// Whether something below a directory may be wanted.
fn may_enter(
    include: &Matcher,
    exclude: Option<&Matcher>,
    relative: &[u8],
    is_included: bool,
) -> bool {
    let is_out = |exclude: &Matcher| !exclude.has_exceptions() && exclude.excluded(relative);
    (is_included || include.may_match_below(relative)) && !exclude.is_some_and(is_out)
}
