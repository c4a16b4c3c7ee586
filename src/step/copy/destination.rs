//! The file system that COPY writes into: what the layers below hold, and what this instruction
//! has put there so far.
//!
//! Nothing is written here; the items collected become one layer's tar. What exists decides how
//! (links are followed inside the root, directories keep their mode and owner), so that a layer
//! never changes a directory that the user didn't name.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use super::CopyError;
use crate::layer::entry::{Entry, EntryKind, ancestors, compare_paths, join_path, split_path};
use crate::layer::view::View;
use crate::snapshot::{Content, FileRef, FileTree, TreeError};

/// Links followed before a path counts as a circle; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Where an item's bytes are.
#[derive(Clone)]
pub(super) enum Bytes {
    /// It has none.
    None,
    /// A file of a tree.
    Tree(Arc<dyn FileTree>, FileRef),
    /// A file of a layer or archive, by the entry that says where in it.
    Content(Arc<Content>, Entry),
    /// Bytes in memory.
    Inline(Arc<[u8]>),
}

impl Bytes {
    pub(super) fn open(&self) -> Result<Box<dyn Read + Send>, TreeError> {
        match self {
            Self::None => Ok(Box::new(std::io::empty())),
            Self::Tree(tree, file) => tree.open(file),
            Self::Content(content, entry) => {
                content.open(entry).map_err(TreeError::file(&entry.path))
            }
            Self::Inline(bytes) => Ok(Box::new(std::io::Cursor::new(Arc::clone(bytes)))),
        }
    }
}

/// One entry of the new layer.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) bytes: Bytes,
    /// Equal for names of the same file.
    pub(super) identity: Option<Vec<u8>>,
    /// Made on the way: its time is still to be set.
    pub(super) on_the_way: bool,
}

/// Owner and mode of directories that are made on the way.
#[derive(Clone, Copy)]
pub(super) struct OnTheWay {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) struct Destination {
    view: View,
    /// By path with `/` as NUL, which sorts names component by component.
    items: BTreeMap<Vec<u8>, Item>,
    /// The path of the last of the items: a walk comes in their order, so that most paths asked
    /// for lie behind it.
    last: Vec<u8>,
    /// A directory that is there: most of what is copied lies in the same one as what was before.
    directory: Option<Vec<u8>>,
    on_the_way: OnTheWay,
}

fn sort_key(path: &[u8]) -> Vec<u8> {
    path.iter()
        .map(|b| if *b == b'/' { 0 } else { *b })
        .collect()
}

impl Destination {
    pub(super) fn new(view: View, on_the_way: OnTheWay) -> Self {
        Self {
            view,
            items: BTreeMap::new(),
            last: Vec::new(),
            directory: None,
            on_the_way,
        }
    }

    /// What this instruction has put at `path`.
    fn item(&self, path: &[u8]) -> Option<&Item> {
        if compare_paths(path, &self.last).is_gt() {
            return None;
        }
        self.items.get(&sort_key(path))
    }

    /// What is at `path`, no link followed.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Entry> {
        if let Some(item) = self.item(path) {
            return Some(&item.entry);
        }
        let found = self.view.get(path)?;
        // Something that this instruction put on the way hides what was below it.
        let hidden = ancestors(path).any(|above| {
            let item = self.item(above);
            item.is_some_and(|item| !item.entry.is_directory())
        });
        (!hidden).then_some(found.entry)
    }

    pub(super) fn is_directory(&self, path: &[u8]) -> bool {
        path.is_empty() || self.get(path).is_some_and(Entry::is_directory)
    }

    /// Where `path` leads when every link is followed inside the root. What doesn't exist is
    /// taken as written.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let mut resolved: Vec<u8> = Vec::new();
        let mut rest: Vec<Vec<u8>> = components(path);
        rest.reverse();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    resolved.truncate(split_path(&resolved).0.len());
                    continue;
                }
                _ => {}
            }
            let next = join_path(&resolved, &name);
            match self.get(&next) {
                Some(entry) if entry.kind == EntryKind::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(CopyError::LinkLoop(display(path)));
                    }
                    if entry.link.starts_with(b"/") {
                        resolved.clear();
                    }
                    let mut target = components(&entry.link);
                    target.reverse();
                    rest.extend(target);
                }
                _ => resolved = next,
            }
        }
        Ok(resolved)
    }

    /// Makes a directory and all that are missing above it.
    pub(super) fn make_directories(&mut self, path: &[u8]) -> Result<(), CopyError> {
        self.make_directories_as(path, self.on_the_way)
    }

    /// The same with another owner and mode.
    pub(super) fn make_directories_as(
        &mut self,
        path: &[u8],
        made: OnTheWay,
    ) -> Result<(), CopyError> {
        if self.directory.as_deref() == Some(path) {
            return Ok(());
        }
        let mut missing = Vec::new();
        let mut at = path;
        while !at.is_empty() {
            match self.get(at) {
                Some(entry) if entry.is_directory() => break,
                Some(_) => return Err(CopyError::NotADirectory(display(at))),
                None => missing.push(at.to_vec()),
            }
            at = split_path(at).0;
        }
        for path in missing.into_iter().rev() {
            let OnTheWay { mode, uid, gid } = made;
            let entry = Entry {
                mode,
                uid,
                gid,
                ..Entry::directory(path)
            };
            self.insert(Item {
                entry,
                bytes: Bytes::None,
                identity: None,
                on_the_way: true,
            });
        }
        self.directory = Some(path.to_vec());
        Ok(())
    }

    /// Puts an item where its entry says, over whatever is there.
    pub(super) fn insert(&mut self, item: Item) {
        let path = &item.entry.path;
        if compare_paths(path, &self.last).is_gt() {
            self.last.clone_from(path);
        }
        if !item.entry.is_directory() && self.directory.as_ref() == Some(path) {
            self.directory = None;
        }
        self.items.insert(sort_key(path), item);
    }

    /// Removes what this instruction has put at and below `path`.
    pub(super) fn forget_below(&mut self, path: &[u8]) {
        self.directory = None;
        let start = sort_key(path);
        let mut end = start.clone();
        end.push(1);
        let below: Vec<Vec<u8>> = self
            .items
            .range(start..end)
            .map(|(key, _)| key.clone())
            .collect();
        for key in below {
            self.items.remove(&key);
        }
    }

    /// All items in the order of a layer, with the existing directories above them exactly as
    /// they are, and times for directories made on the way.
    pub(super) fn finish(mut self, directory_time: Option<i64>) -> Vec<Item> {
        self.repeat_parents();
        self.date_directories(directory_time);
        self.items.into_values().collect()
    }

    fn repeat_parents(&mut self) {
        let mut parents: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        let mut last = None;
        for item in self.items.values() {
            // What lies in one directory stands together, and has the same directories above it.
            let parent = split_path(&item.entry.path).0;
            if last.replace(parent) == Some(parent) {
                continue;
            }
            for above in ancestors(&item.entry.path) {
                if parents.contains_key(above) || self.items.contains_key(&sort_key(above)) {
                    continue;
                }
                if let Some(found) = self.view.get(above) {
                    let mut entry = found.entry.clone();
                    entry.kind = EntryKind::Directory { opaque: false };
                    entry.path = above.to_vec();
                    parents.insert(above.to_vec(), entry);
                }
            }
        }
        for (_, entry) in parents {
            self.insert(Item {
                entry,
                bytes: Bytes::None,
                identity: None,
                on_the_way: false,
            });
        }
    }

    fn date_directories(&mut self, directory_time: Option<i64>) {
        let mut newest: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        if directory_time.is_none() {
            let files = self.items.values().filter(|item| !item.on_the_way);
            let mut files = files.map(|item| &item.entry).peekable();
            while let Some(first) = files.next() {
                // What lies in one directory stands together, and has the same directories above.
                let parent = split_path(&first.path).0;
                let mut time = first.mtime;
                while let Some(next) = files.next_if(|entry| split_path(&entry.path).0 == parent) {
                    time = time.max(next.mtime);
                }
                for above in ancestors(&first.path) {
                    let known = newest.entry(sort_key(above)).or_insert(i64::MIN);
                    *known = (*known).max(time);
                }
            }
        }
        for (key, item) in self.items.iter_mut().filter(|(_, item)| item.on_the_way) {
            item.entry.mtime = directory_time
                .or_else(|| newest.get(key).copied())
                .unwrap_or(0);
        }
    }
}

fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect()
}

pub(super) fn display(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
