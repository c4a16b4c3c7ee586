//! Owners that the machine has no ids for: what a step's supervisor has to know of them, and what
//! it noted.
//!
//! What a step's supervisor is asked about is decided here: one that is asked about every owner slows
//! down every stat.

use std::collections::BTreeMap;
use std::fs::File;

use super::mount_points::MountPoints;
use super::owner::ExecUser;
use super::run::{Assembly, RunError, failed};
use crate::layer::diff::{NotedOwner, Owners};
use crate::layer::entry::{Entry, EntryKind, is_inside};
use crate::layer::form::Form;
use crate::layer::view::{Found, View, ViewError};
use crate::sandbox::{
    FileNames, HighestIds, MountSource, Note, NotedOwners, NotedPath, SandboxMount, Security,
};

/// Where a step's supervisor writes, and who the step is.
#[derive(Debug)]
pub(super) struct OwnerNotes {
    /// `None` where the step has no supervisor.
    notes: Option<File>,
    /// Who stands in for owners that the machine lacks; `None` where every owner is noted.
    stand_in: Option<HighestIds>,
    maker: Option<(u32, u32)>,
}

impl OwnerNotes {
    /// What the sandbox of a step on top of `view`, with its mounts, needs; `None` where the kernel is
    /// asked alone. The file that it writes to joins what is passed.
    pub(super) fn prepare(
        form: &Form,
        view: &View,
        user: &ExecUser,
        security: Security,
        assembly: &mut Assembly,
    ) -> Result<(Self, Option<NotedOwners>), RunError> {
        let (noted, stand_in) = match extent(form, view, user, security) {
            Extent::Nothing => {
                let none = Self {
                    notes: None,
                    stand_in: None,
                    maker: None,
                };
                return Ok((none, None));
            }
            Extent::Everything => (unmarkable(form, view), None),
            Extent::Beyond(stand_in) => (Vec::new(), Some(stand_in)),
        };
        let what = "making a file for notes on owners";
        let notes = rustix::fs::memfd_create("owners", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| failed(what)(error.into()))?;
        let ours = notes.try_clone().map_err(failed(what))?;
        let owners = NotedOwners {
            noted,
            names: match stand_in {
                None => names(form, view, user, &assembly.mounts),
                Some(_) => None,
            },
            notes: assembly.passed.len(),
            stand_in,
        };
        assembly.passed.push(notes);
        let notes = Self {
            notes: Some(File::from(ours)),
            stand_in,
            maker: (!form.is_mapped(user.uid, user.gid)).then_some((user.uid, user.gid)),
        };
        Ok((notes, Some(owners)))
    }

    /// What was noted, when the step has ended.
    pub(super) fn read(&self) -> Result<Owners, RunError> {
        let mut owners = Owners {
            supervised: self.notes.is_some() && self.stand_in.is_none(),
            stand_in: self.stand_in.map(|HighestIds { uid, gid }| (uid, gid)),
            maker: self.maker,
            noted: BTreeMap::new(),
        };
        let Some(notes) = &self.notes else {
            return Ok(owners);
        };
        Note::read_all(notes, |note| {
            let noted = NotedOwner {
                born: note.born,
                uid: note.uid,
                gid: note.gid,
                device: note.device,
            };
            let known = owners.noted.entry(note.inode).or_insert(noted);
            known.add(noted);
        })
        .map_err(failed("reading notes on owners"))?;
        Ok(owners)
    }
}

/// What a step's supervisor is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// There is none.
    Nothing,
    /// Every owner.
    Everything,
    /// What the kernel would refuse.
    Beyond(HighestIds),
}

fn extent(form: &Form, view: &View, user: &ExecUser, security: Security) -> Extent {
    if !form.notes_owners() {
        return Extent::Nothing;
    }
    let is_beyond = |entry: &Entry| !form.is_mapped(entry.uid, entry.gid) || is_device(entry);
    if form.has_one_id() || !form.is_mapped(user.uid, user.gid) || entries(view).any(is_beyond) {
        return Extent::Everything;
    }
    match form.highest() {
        Some((uid, gid)) if security == Security::Sandbox => {
            Extent::Beyond(HighestIds { uid, gid })
        }
        _ => Extent::Nothing,
    }
}

/// Whether a step would see a device, had the machine one there. `/dev` is always the sandbox's own.
fn is_device(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::CharDevice | EntryKind::BlockDevice)
        && !is_inside(&entry.path, b"dev")
}

/// apt's settings for a step in which nobody can become another user: apt checks that it did.
const APT_FOLDER: &[u8] = b"etc/apt/apt.conf.d";
const APT_FILE: &[u8] = b"99rbuild";
const APT_SETTINGS: &[u8] = b"// One user id stands for all here: nobody becomes _apt.
APT::Sandbox::User \"root\";
";

/// Tells programs of the image that would notice what a step can't do here.
pub(super) fn tell_programs(
    form: &Form,
    view: &View,
    points: &mut MountPoints,
) -> Result<(), ViewError> {
    let is_folder =
        |found: Option<Found<'_>>| found.is_some_and(|found| found.entry.is_directory());
    if !form.notes_owners() || !form.has_one_id() {
        return Ok(());
    }
    match view.resolve(APT_FOLDER, true) {
        Ok(folder) if is_folder(folder.found) => {
            points.add_file(view, &folder.path, APT_FILE, APT_SETTINGS)
        }
        // An image without apt, or with something else in its place.
        _ => Ok(()),
    }
}

/// Every entry of every layer, whether it shows or not.
fn entries(view: &View) -> impl Iterator<Item = &Entry> {
    view.layers().iter().flat_map(|layer| &layer.entries)
}

/// Files that show in `view`, can carry no attribute and are not what the machine says.
fn unmarkable(form: &Form, view: &View) -> Vec<NotedPath> {
    let shows = |entry: &Entry| {
        view.get(&entry.path)
            .is_some_and(|found| std::ptr::eq(found.entry, entry))
    };
    entries(view)
        .filter(|entry| matches!(entry.kind, EntryKind::Symlink | EntryKind::Fifo))
        .filter(|entry| !form.is_mapped(entry.uid, entry.gid) && shows(entry))
        .map(|entry| NotedPath {
            path: entry.path.clone(),
            uid: entry.uid,
            gid: entry.gid,
        })
        .collect()
}

/// Names of the files that may not be what the machine says, if all of those are known.
fn names(form: &Form, view: &View, user: &ExecUser, mounts: &[SandboxMount]) -> Option<FileNames> {
    // What the image's root owns isn't the step's user's, whose id stands for all.
    if !form.is_mapped(user.uid, user.gid) || mounts.iter().any(shows_others) {
        return None;
    }
    let mut names = FileNames::default();
    for entry in entries(view) {
        let is_noted = match entry.kind {
            EntryKind::Whiteout => continue,
            // The file's owner counts.
            EntryKind::HardLink => true,
            // Some file stands for it.
            EntryKind::CharDevice | EntryKind::BlockDevice => true,
            _ => !form.is_mapped(entry.uid, entry.gid),
        };
        let name = entry.path.rsplit(|byte| *byte == b'/').next();
        let name = name.unwrap_or_default();
        if is_noted {
            names.noted.push(name.to_vec());
        }
        if entry.kind == EntryKind::Symlink {
            names.links.push(name.to_vec());
        }
    }
    Some(names)
}

/// Whether a mount shows files whose owners are noted somewhere else.
fn shows_others(mount: &SandboxMount) -> bool {
    match mount.source {
        MountSource::Tmpfs { .. } => false,
        MountSource::File { uid, gid, .. } => (uid, gid) != (0, 0),
        MountSource::Path { .. } | MountSource::Descriptor { .. } | MountSource::Layers { .. } => {
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layer::form::{Ownership, XattrNamespace};
    use crate::layer::index::Index;
    use crate::sandbox::HostPath;

    fn form(count: u32, ownership: Ownership) -> Form {
        Form {
            xattr_namespace: XattrNamespace::User,
            uid_map: vec![(0, 1000, count)],
            gid_map: vec![(0, 1000, count)],
            ownership,
        }
    }

    fn owned(path: &str, kind: EntryKind, uid: u32) -> Entry {
        let mut entry = Entry::new(path, kind);
        entry.uid = uid;
        entry
    }

    #[test]
    fn what_the_machine_lacks_makes_a_step_supervised() {
        use EntryKind::{CharDevice, File};
        let user = |uid| ExecUser {
            uid,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
        };
        let view =
            |path, kind, uid| View::new(vec![Arc::new(Index::new(vec![owned(path, kind, uid)]))]);
        let noted = Ownership::OverrideStat;
        let (all, none) = (Extent::Everything, Extent::Nothing);
        let beyond = Extent::Beyond(HighestIds {
            uid: 65535,
            gid: 65535,
        });
        for (count, ownership, (path, kind, owner), who, security, expected) in [
            (1, noted, ("f", File, 0), 0, Security::Sandbox, all),
            (65536, noted, ("f", File, 0), 0, Security::Sandbox, beyond),
            (
                65536,
                noted,
                ("f", File, 1000),
                33,
                Security::Sandbox,
                beyond,
            ),
            (
                65536,
                noted,
                ("f", File, 1000),
                33,
                Security::Insecure,
                none,
            ),
            (
                65536,
                noted,
                ("f", File, 1_000_660_000),
                0,
                Security::Sandbox,
                all,
            ),
            (
                65536,
                noted,
                ("f", File, 0),
                1_000_660_000,
                Security::Sandbox,
                all,
            ),
            (
                65536,
                noted,
                ("d", CharDevice, 0),
                0,
                Security::Sandbox,
                all,
            ),
            (
                65536,
                noted,
                ("dev/d", CharDevice, 0),
                0,
                Security::Sandbox,
                beyond,
            ),
            (
                65536,
                Ownership::Real,
                ("f", File, 70_000),
                0,
                Security::Sandbox,
                none,
            ),
        ] {
            let got = extent(
                &form(count, ownership),
                &view(path, kind, owner),
                &user(who),
                security,
            );
            assert_eq!(got, expected, "{count} {path} {owner} {who} {security:?}");
        }
    }

    #[test]
    fn names_are_known_where_every_file_is_the_images() {
        let root = ExecUser {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
        };
        let mut link = owned("usr/bin/c", EntryKind::HardLink, 0);
        link.link = b"usr/bin/b".to_vec();
        let view = View::new(vec![Arc::new(Index::new(vec![
            owned("etc/shadow", EntryKind::File, 42),
            owned("etc/passwd", EntryKind::File, 0),
            owned("dev/null", EntryKind::CharDevice, 0),
            owned("usr/bin/b", EntryKind::File, 5),
            link,
            owned("etc/mtab", EntryKind::Symlink, 0),
        ]))]);
        let mount = |source| SandboxMount {
            target: b"/mnt".to_vec(),
            source,
            read_only: false,
        };
        let tmpfs = mount(MountSource::Tmpfs {
            size: None,
            mode: 0o1777,
            executable: true,
        });
        let secret = |uid| {
            mount(MountSource::File {
                is_secret: false,
                index: 0,
                mode: 0o400,
                uid,
                gid: 0,
            })
        };
        let form = form(1, Ownership::OverrideStat);
        let names = |user: &ExecUser, mounts: &[SandboxMount]| {
            let mut names = names(&form, &view, user, mounts)?;
            names.noted.sort();
            Some(names)
        };
        let all = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let expected = FileNames {
            noted: all(&["b", "c", "null", "shadow"]),
            links: all(&["mtab"]),
        };
        assert_eq!(names(&root, &[]), Some(expected.clone()));
        assert_eq!(names(&root, &[tmpfs, secret(0)]), Some(expected));
        assert_eq!(names(&root, &[secret(7)]), None);
        let folder = MountSource::Path {
            root: HostPath::from(std::path::PathBuf::from("/")),
            path: Vec::new(),
            recursive: false,
        };
        assert_eq!(names(&root, &[mount(folder)]), None);
        let user = ExecUser { uid: 33, ..root };
        assert_eq!(names(&user, &[]), None);
    }

    #[test]
    fn links_of_others_are_named_where_they_show() {
        let lower = Index::new(vec![
            owned("a", EntryKind::Symlink, 33),
            owned("b", EntryKind::Symlink, 33),
            owned("c", EntryKind::Symlink, 0),
            owned("d", EntryKind::File, 33),
        ]);
        let upper = Index::new(vec![owned("b", EntryKind::Symlink, 0)]);
        let view = View::new(vec![Arc::new(lower), Arc::new(upper)]);
        let found = unmarkable(&form(1, Ownership::OverrideStat), &view);
        let paths: Vec<&[u8]> = found.iter().map(|noted| noted.path.as_slice()).collect();
        assert_eq!(paths, [b"a"]);
    }
}
