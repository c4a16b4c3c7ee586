//! What the tests of this room share: making tar streams that no honest writer makes, trees on
//! disk, and random layers.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;

use proptest::prelude::*;

use super::entry::{Entry, EntryKind, compare_paths, is_inside, split_path};
use super::form::{Form, Ownership, XattrNamespace};
use super::index::Index;
use super::tar_header::{Header, padding};
use super::tar_writer::TarWriter;
use super::view::View;
use crate::fs::Root;

/// A member exactly as written, honest or not.
pub(super) struct Raw<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u8,
    pub(super) link: &'a [u8],
    pub(super) content: &'a [u8],
    pub(super) uid: u32,
}

pub(super) fn raw<'a>(kind: char, name: &'a str, link_or_content: &'a str) -> Raw<'a> {
    let is_file = matches!(kind, '0' | '7' | 'L' | 'K' | 'x' | 'g' | 'S');
    let bytes = link_or_content.as_bytes();
    Raw {
        name: name.as_bytes(),
        kind: kind as u8,
        link: if is_file { b"" } else { bytes },
        content: if is_file { bytes } else { b"" },
        uid: own_ids().0,
    }
}

/// A tar stream of these members, in this order.
pub(super) fn raw_tar(members: &[Raw<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        Header {
            name: member.name,
            kind: member.kind,
            mode: if member.kind == b'5' { 0o755 } else { 0o644 },
            uid: member.uid,
            gid: own_ids().1,
            size: member.content.len() as u64,
            mtime: 1_000_000_000,
            link: member.link,
            device: (0, 0),
            xattrs: None,
        }
        .encode(&mut out);
        out.extend_from_slice(member.content);
        out.resize(out.len() + padding(member.content.len() as u64), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// The ids that files made here have.
pub(super) fn own_ids() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

/// Whether this process is root of the machine, not merely of a user namespace.
pub(super) fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    own_ids().0 == 0 && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The form of trees that this process can make: with real owners as root, else with noted ones.
pub(super) fn own_form() -> Form {
    let (uid, gid) = own_ids();
    if is_root() {
        return Form::root();
    }
    Form {
        xattr_namespace: XattrNamespace::User,
        uid_map: vec![(uid, uid, 1)],
        gid_map: vec![(gid, gid, 1)],
        ownership: Ownership::OverrideStat,
    }
}

/// An empty folder for a tree.
pub(super) struct Tree {
    pub(super) folder: tempfile::TempDir,
    file: std::fs::File,
}

impl Tree {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tree")).unwrap();
        let file = std::fs::File::open(folder.path().join("tree")).unwrap();
        Self { folder, file }
    }

    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join("tree").join(path)
    }

    pub(super) fn root(&self) -> Root {
        Root::open(&self.path("")).unwrap()
    }

    pub(super) fn read(&self, path: &str) -> String {
        let mut text = String::new();
        self.root()
            .open_file(path.as_bytes())
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Trees hold directories that their own mode closes.
        crate::fs::remove::remove_folder(&self.path("")).unwrap();
    }
}

/// A layer as data: entries in order, and contents of files by path.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) entries: Vec<Entry>,
    pub(super) contents: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Layer {
    pub(super) fn tar(&self) -> (Vec<u8>, Index) {
        let mut writer = TarWriter::new(Vec::new());
        for entry in &self.entries {
            let content = self.contents.get(&entry.path).cloned().unwrap_or_default();
            if entry.is_file() {
                writer
                    .append(entry.clone(), Some(&mut content.as_slice()))
                    .unwrap();
            } else {
                writer.append(entry.clone(), None).unwrap();
            }
        }
        writer.finish().unwrap()
    }
}

/// What shows in a view, as lines; directories without their times, which change with their content.
pub(super) fn lines(view: &View) -> Vec<String> {
    view.walk(b"")
        .into_iter()
        .map(|(path, found)| {
            let inode = view.inode(found).unwrap().entry;
            let kind = match inode.kind {
                EntryKind::Directory { .. } => "Directory".to_owned(),
                kind => format!("{kind:?} at {}", inode.mtime),
            };
            format!(
                "{:?} {kind} {:o} {}:{} {} {:?} {:?} {:?}",
                String::from_utf8_lossy(&path),
                inode.mode,
                inode.uid,
                inode.gid,
                inode.size,
                String::from_utf8_lossy(&inode.link),
                inode.device,
                inode.xattrs,
            )
        })
        .collect()
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "a-b", "a.b"]).prop_map(|name| name.as_bytes().to_vec()),
        1 => Just(b"with space\nand \xff\xfe".to_vec()),
        1 => prop::collection::vec(b'x'..b'z', 90..250),
    ];
    prop::collection::vec(name, 1..4).prop_map(|parts| parts.join(&b'/'))
}

fn any_entry(whiteouts: bool) -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kinds = [
        (6, EntryKind::File),
        (4, EntryKind::Directory { opaque: false }),
        (2, EntryKind::Symlink),
        (3, EntryKind::HardLink),
        (1, EntryKind::Fifo),
        (if is_root() { 1 } else { 0 }, EntryKind::CharDevice),
        (if whiteouts { 3 } else { 0 }, EntryKind::Whiteout),
        (
            if whiteouts { 2 } else { 0 },
            EntryKind::Directory { opaque: true },
        ),
    ];
    let kind = prop::strategy::Union::new_weighted(
        kinds
            .into_iter()
            .filter(|(weight, _)| *weight > 0)
            .map(|(weight, kind)| (weight, Just(kind)))
            .collect(),
    );
    let (uid, gid) = own_ids();
    let owner = if is_root() {
        prop::sample::select(vec![(0, 0), (1000, 1000), (0, 50), (3_000_000_000, 7)]).boxed()
    } else {
        Just((uid, gid)).boxed()
    };
    let mode = prop::sample::select(vec![
        0o644, 0o755, 0o700, 0o4755, 0o2755, 0o1777, 0o600, 0o444, 0o555, 0o777,
    ]);
    let mtime = prop::sample::select(vec![0, 1, 1_700_000_000, -5, 8_589_934_592]);
    let content = prop::collection::vec(any::<u8>(), 0..1500);
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..20));
    (any_path(), kind, owner, mode, mtime, content, xattr).prop_map(
        |(path, kind, owner, mode, mtime, content, xattr)| {
            let mut entry = Entry::new(path, kind);
            if kind == EntryKind::Whiteout {
                return (entry, Vec::new());
            }
            (entry.uid, entry.gid) = owner;
            entry.mtime = mtime;
            match kind {
                EntryKind::Symlink => entry.link = b"../some/where".to_vec(),
                // Only root can read what its owner may not.
                _ => entry.mode = if is_root() { mode } else { mode | 0o700 },
            }
            if kind == EntryKind::CharDevice {
                entry.device = (1, 3);
            }
            if matches!(kind, EntryKind::File | EntryKind::Directory { .. })
                && let Some(value) = xattr
            {
                entry.xattrs.insert(b"user.note".to_vec(), value);
            }
            if kind == EntryKind::File {
                entry.size = content.len() as u64;
            }
            (entry, content)
        },
    )
}

/// A well-formed layer: sorted, every parent there, hard links to earlier files.
pub(super) fn any_layer(whiteouts: bool) -> impl Strategy<Value = Layer> {
    prop::collection::vec(any_entry(whiteouts), 0..14).prop_map(move |members| {
        let mut layer = Layer::default();
        let mut members: Vec<(Entry, Vec<u8>)> = members;
        members.sort_by(|a, b| compare_paths(&a.0.path, &b.0.path));
        members.dedup_by(|a, b| a.0.path == b.0.path);
        for (mut entry, content) in members {
            let last = layer.entries.last();
            if last.is_some_and(|last| !last.is_directory() && is_inside(&entry.path, &last.path)) {
                continue;
            }
            if entry.kind == EntryKind::HardLink {
                let target = layer.entries.iter().rev().find(|target| target.is_file());
                let Some(target) = target else { continue };
                let path = entry.path;
                entry = target.clone();
                entry.link = std::mem::replace(&mut entry.path, path);
                entry.kind = EntryKind::HardLink;
                entry.size = 0;
            }
            for parent in super::entry::ancestors(&entry.path.clone()) {
                let is_there = layer.entries.iter().any(|e| e.path == parent);
                if !is_there {
                    let mut directory = Entry::directory(parent);
                    (directory.uid, directory.gid) = own_ids();
                    layer.entries.push(directory);
                }
            }
            debug_assert!(split_path(&entry.path).1 != b"");
            if entry.is_file() {
                layer.contents.insert(entry.path.clone(), content);
            }
            layer.entries.push(entry);
        }
        layer
    })
}
