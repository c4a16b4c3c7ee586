//! What a stack of layers looks like from above, answered from their indexes alone.
//!
//! The rules are those of the OCI image spec 1.1, `layer.md`, "Applying Changesets", and of an
//! overlay mount over the same layers:
//!
//! - an entry of a higher layer replaces the one below it, except that a directory over a
//!   directory merges with it;
//! - a whiteout removes its path, and all below it, of the lower layers, never of its own layer;
//! - an opaque directory hides what lower layers have inside it;
//! - whatever is no directory hides what lower layers have below its path;
//! - a directory that a layer only implies, by an entry inside it, keeps the attributes that a
//!   lower layer gives it, else it is 0755, owned by root, of time 0, from the lowest layer that
//!   implies it.
//!
//! Pure: never touches a disk.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::entry::{
    Entry, EntryKind, ancestors, compare_paths, display_path, is_inside, join_path, split_path,
};
use super::index::Index;

/// As many links are followed as the kernel would, times six; more is a loop.
const LINK_LIMIT: usize = 255;

static ROOT: LazyLock<Entry> = LazyLock::new(|| Entry::directory(""));

/// A stack of layers, bottom first.
#[derive(Debug, Clone, Default)]
pub struct View {
    layers: Vec<Arc<Index>>,
    notes: Vec<Arc<Notes>>,
}

/// What a layer says without an entry of its own, found once when the layer joins the view.
#[derive(Debug, Default)]
struct Notes {
    /// Directories that have entries inside but none themselves; sorted.
    implied: Vec<Entry>,
    /// Paths of opaque directories; sorted.
    opaque: Vec<Vec<u8>>,
}

/// An entry that shows in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// Which layer it is from; 0 is the lowest.
    pub layer: usize,
    /// The entry. Its path is the path that was asked for; whether a directory is opaque in its
    /// own layer means nothing in the view.
    pub entry: &'a Entry,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The path after following links, inside the root, in the form of [`Entry::path`].
    pub path: Vec<u8>,
    /// What is there, if anything.
    pub found: Option<Found<'a>>,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Links that lead to each other.
    #[error("too many symbolic links in `{0}`: they may form a loop")]
    LinkLoop(String),
    /// Something that is no directory stands in the middle of the path.
    #[error("`{path}` can't be reached: `{ancestor}` is not a directory")]
    NotADirectory {
        /// The path that was asked for.
        path: String,
        /// The component that is no directory.
        ancestor: String,
    },
}

/// What one layer says about a path.
enum Said<'a> {
    /// It has this entry.
    Entry(&'a Entry),
    /// Entries inside make it a directory; `hides` when nothing of lower layers shows there.
    Implied(&'a Entry, bool),
    /// Nothing, and nothing of lower layers shows there.
    Hides,
    /// Nothing.
    Nothing,
}

impl View {
    /// A view of `layers`, bottom first.
    pub fn new(layers: Vec<Arc<Index>>) -> Self {
        let notes = layers
            .iter()
            .map(|layer| Arc::new(Notes::of(layer)))
            .collect();
        Self { layers, notes }
    }

    /// Puts a layer on top.
    pub fn push(&mut self, layer: Arc<Index>) {
        self.notes.push(Arc::new(Notes::of(&layer)));
        self.layers.push(layer);
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> &[Arc<Index>] {
        &self.layers
    }

    /// What shows at exactly this path; no link is followed. The root is always there.
    pub fn get(&self, path: &[u8]) -> Option<Found<'_>> {
        let mut implied: Option<Found<'_>> = None;
        for (layer, said) in self.said(path) {
            match said {
                Said::Entry(entry) if entry.is_directory() => return Some(Found { layer, entry }),
                Said::Entry(entry) if entry.is_whiteout() => return implied.or_else(|| root(path)),
                Said::Entry(entry) => return implied.or(Some(Found { layer, entry })),
                Said::Implied(entry, hides) => {
                    implied = Some(Found { layer, entry });
                    if hides {
                        return implied;
                    }
                }
                Said::Hides => return implied.or_else(|| root(path)),
                Said::Nothing => {}
            }
        }
        implied.or_else(|| root(path))
    }

    /// What each layer says about `path`, top first.
    fn said<'a>(&'a self, path: &[u8]) -> impl Iterator<Item = (usize, Said<'a>)> {
        self.layers
            .iter()
            .zip(&self.notes)
            .enumerate()
            .rev()
            .map(move |(i, (layer, notes))| (i, notes.say(layer, path)))
    }

    /// The entry that holds the content and metadata of `found`: itself, or for a hard link the
    /// file of the same layer that it names; `None` when that is not there.
    pub fn inode<'a>(&'a self, found: Found<'a>) -> Option<Found<'a>> {
        let entry = self.layers.get(found.layer).map_or_else(
            || (found.entry.kind != EntryKind::HardLink).then_some(found.entry),
            |layer| layer.inode(found.entry),
        )?;
        Some(Found {
            layer: found.layer,
            entry,
        })
    }

    /// Follows `path` as a process with this root would: links lead inside the root, `..` at the
    /// root stays there. From the first component that does not exist, the rest is taken as
    /// written (`..` removing the component before it). `path` may have leading, trailing and
    /// doubled slashes. The last component is followed when `follow_last` is set or a slash ends
    /// the path.
    ///
    /// # Errors
    /// When links form a loop, or a component before the last is no directory.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Resolved<'_>, ViewError> {
        let follow_last = follow_last || path.ends_with(b"/") || path.ends_with(b"/.");
        let mut rest: Vec<Vec<u8>> = components_reversed(path);
        let mut at: Vec<u8> = Vec::new();
        let mut found = self.get(b"");
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                at.truncate(split_path(&at).0.len());
                found = self.get(&at);
                continue;
            }
            if found.is_some_and(|found| !found.entry.is_directory()) {
                return Err(ViewError::NotADirectory {
                    path: shown(path),
                    ancestor: display_path(&at),
                });
            }
            let next = join_path(&at, &component);
            // Below what does not exist, nothing does.
            let next_found = found.and_then(|_| self.get(&next));
            match next_found {
                Some(f)
                    if f.entry.kind == EntryKind::Symlink && (follow_last || !rest.is_empty()) =>
                {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(ViewError::LinkLoop(shown(path)));
                    }
                    if f.entry.link.starts_with(b"/") {
                        at.clear();
                        found = self.get(b"");
                    }
                    rest.extend(components_reversed(&f.entry.link));
                }
                _ => {
                    at = next;
                    found = next_found;
                }
            }
        }
        Ok(Resolved { path: at, found })
    }

    /// The names in the directory at exactly this path, sorted, with what shows there; empty when
    /// it is no directory.
    pub fn children(&self, directory: &[u8]) -> Vec<(Vec<u8>, Found<'_>)> {
        if !self
            .get(directory)
            .is_some_and(|found| found.entry.is_directory())
        {
            return Vec::new();
        }
        let mut names: BTreeMap<&[u8], Name<'_>> = BTreeMap::new();
        for (layer, (index, notes)) in self.layers.iter().zip(&self.notes).enumerate().rev() {
            match notes.say(index, directory) {
                Said::Nothing if !directory.is_empty() => continue,
                Said::Hides => break,
                Said::Entry(entry) if !entry.is_directory() => break,
                Said::Entry(_) | Said::Implied(..) | Said::Nothing => {}
            }
            for child in children_in_layer(index, notes, directory) {
                add_child(&mut names, layer, child);
            }
            if notes.hides_below(directory) {
                break;
            }
        }
        names
            .into_iter()
            .filter_map(|(name, found)| match found {
                Name::Settled(found) => Some((name.to_vec(), found?)),
                Name::Implied(found) => Some((name.to_vec(), found)),
            })
            .collect()
    }

    /// What shows at exactly this path and, for a directory, everything below it, sorted by
    /// [`compare_paths`]; empty when nothing is there.
    pub fn walk(&self, path: &[u8]) -> Vec<(Vec<u8>, Found<'_>)> {
        let mut all = Vec::new();
        let mut pending: Vec<(Vec<u8>, Found<'_>)> = Vec::new();
        pending.extend(self.get(path).map(|found| (path.to_vec(), found)));
        while let Some((path, found)) = pending.pop() {
            if found.entry.is_directory() {
                let children = self.children(&path);
                pending.extend(
                    children
                        .into_iter()
                        .rev()
                        .map(|(name, found)| (join_path(&path, &name), found)),
                );
            }
            all.push((path, found));
        }
        all
    }

    /// The content of `/etc/passwd`; `None` when it is missing, too large or no regular file.
    pub fn passwd(&self) -> Option<&[u8]> {
        self.inline_file(b"etc/passwd")?.passwd.as_deref()
    }

    /// The content of `/etc/group`, likewise.
    pub fn group(&self) -> Option<&[u8]> {
        self.inline_file(b"etc/group")?.group.as_deref()
    }

    /// The layer whose file shows at `path`.
    fn inline_file(&self, path: &[u8]) -> Option<&Index> {
        let found = self.get(path).filter(|found| found.entry.is_file())?;
        self.layers.get(found.layer).map(Arc::as_ref)
    }
}

/// What is known about a name of a directory, looking from the top layer down.
enum Name<'a> {
    /// Nothing of lower layers changes it; `None` when a whiteout removed it.
    Settled(Option<Found<'a>>),
    /// A directory whose attributes a lower layer may still give.
    Implied(Found<'a>),
}

fn add_child<'a>(names: &mut BTreeMap<&'a [u8], Name<'a>>, layer: usize, child: Child<'a>) {
    let Child {
        name,
        entry,
        implied,
    } = child;
    let found = Found { layer, entry };
    match names.get(name) {
        Some(Name::Settled(_)) => {}
        Some(&Name::Implied(above)) => {
            let settled = if implied {
                Name::Implied(found)
            } else if entry.is_directory() {
                Name::Settled(Some(found))
            } else {
                Name::Settled(Some(above))
            };
            names.insert(name, settled);
        }
        None if implied => {
            names.insert(name, Name::Implied(found));
        }
        None => {
            names.insert(name, Name::Settled((!entry.is_whiteout()).then_some(found)));
        }
    }
}

struct Child<'a> {
    name: &'a [u8],
    entry: &'a Entry,
    implied: bool,
}

/// The direct children of `directory` that one layer has or implies.
fn children_in_layer<'a>(
    index: &'a Index,
    notes: &'a Notes,
    directory: &[u8],
) -> impl Iterator<Item = Child<'a>> {
    let mut rest = index.inside(directory);
    let prefix = if directory.is_empty() {
        0
    } else {
        directory.len() + 1
    };
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let end = first.path[prefix..]
            .iter()
            .position(|&b| b == b'/')
            .map_or(first.path.len(), |slash| prefix + slash);
        let path = &first.path[..end];
        let implied = end < first.path.len();
        let skip = skip_inside(&rest[usize::from(!implied)..], path) + usize::from(!implied);
        rest = &rest[skip..];
        let entry = if implied { notes.implied(path)? } else { first };
        Some(Child {
            name: &path[prefix..],
            entry,
            implied,
        })
    })
}

/// How many of the sorted `entries`, from the first, are inside `directory`.
fn skip_inside(entries: &[Entry], directory: &[u8]) -> usize {
    // Most names of most directories are files: look before searching.
    match entries.first() {
        Some(entry) if is_inside(&entry.path, directory) => {
            entries.partition_point(|entry| is_inside(&entry.path, directory))
        }
        _ => 0,
    }
}

impl Notes {
    fn of(index: &Index) -> Self {
        let mut notes = Self::default();
        let mut before: &[u8] = b"";
        for entry in &index.entries {
            // Sorted, so a directory without its own entry shows at the first entry inside it:
            // every ancestor not shared with the entry before is either that entry or implied.
            for ancestor in ancestors(&entry.path) {
                if ancestor != before && !is_inside(before, ancestor) {
                    notes.implied.push(Entry::directory(ancestor));
                }
            }
            if entry.kind == (EntryKind::Directory { opaque: true }) {
                notes.opaque.push(entry.path.clone());
            }
            before = &entry.path;
        }
        notes
    }

    fn implied(&self, path: &[u8]) -> Option<&Entry> {
        self.implied
            .binary_search_by(|entry| compare_paths(&entry.path, path))
            .ok()
            .map(|i| &self.implied[i])
    }

    /// Whether this directory or one above it is opaque.
    fn hides_below(&self, directory: &[u8]) -> bool {
        let is_opaque = |path: &[u8]| {
            self.opaque
                .binary_search_by(|opaque| compare_paths(opaque, path))
                .is_ok()
        };
        !self.opaque.is_empty()
            && (is_opaque(b"") || is_opaque(directory) || ancestors(directory).any(is_opaque))
    }

    fn say<'a>(&'a self, index: &'a Index, path: &[u8]) -> Said<'a> {
        let at = match index.position(path) {
            Ok(i) => return Said::Entry(&index.entries[i]),
            Err(at) => at,
        };
        let hides = self.hides_below(split_path(path).0);
        if let Some(entry) = self.implied(path) {
            return Said::Implied(entry, hides);
        }
        if hides || self.is_blocked(index, at, path) {
            Said::Hides
        } else {
            Said::Nothing
        }
    }

    /// Whether the nearest ancestor of `path` that has an entry is no directory. `at` is where the
    /// entry of `path` would be.
    fn is_blocked(&self, index: &Index, at: usize, path: &[u8]) -> bool {
        // Sorted, so no ancestor lies deeper than what the entry before has in common with `path`.
        let Some(before) = at.checked_sub(1).map(|i| &index.entries[i]) else {
            return false;
        };
        let common = if before.path.is_empty() || is_inside(path, &before.path) {
            Some(before)
        } else {
            let shared = path
                .iter()
                .zip(&before.path)
                .take_while(|(a, b)| a == b)
                .count();
            let end = path[..shared].iter().rposition(|&b| b == b'/').unwrap_or(0);
            index.get(&path[..end])
        };
        common.is_some_and(|entry| !entry.is_directory())
    }
}

/// The root directory, which is there even when no layer has an entry for it.
fn root(path: &[u8]) -> Option<Found<'static>> {
    path.is_empty().then(|| Found {
        layer: 0,
        entry: &ROOT,
    })
}

fn components_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

fn shown(path: &[u8]) -> String {
    let start = path.iter().position(|&b| b != b'/').unwrap_or(path.len());
    display_path(&path[start..])
}

#[cfg(test)]
mod tests;
