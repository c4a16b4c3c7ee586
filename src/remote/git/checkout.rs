//! From a commit to a layer of the store.
//!
//! The commit is checked out in a folder of its own, which is then written as a tar and thrown
//! away. Owners are root and modes those of a umask of 022, whatever the caller's is.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::program::Git;
use super::reference::masked;
use super::repository::{self, Repository, Resolved, cannot_be_shallow, is_commit, kept_ref};
use super::{FileTimes, GitError, GitFetcher, GitSource};
use crate::context::local::LocalTree;
use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::layer::entry::EntryKind;
use crate::layer::tar_writer::TarWriter;
use crate::snapshot::{FileTree, Snapshot, SnapshotError, SnapshotTree};
use crate::store::{CacheRecord, LayerId, NewLayer};
use crate::time::Timestamp;

const WHAT: &str = "failed to check out the git repository";
const SUBMODULES: &str = "failed to update the submodules of the git repository";

/// A commit whose files are in the store.
#[derive(Clone, Debug)]
pub struct Checkout {
    /// The hash of the commit.
    pub commit: String,
    /// Its files, as a snapshot of one layer.
    pub snapshot: Snapshot,
    /// Whether nothing had to be fetched.
    pub cached: bool,
}

impl GitFetcher {
    /// Brings what `source` says into the store.
    ///
    /// # Errors
    /// When there is no git, the repository can't be reached or doesn't have what is asked for, or
    /// the store fails.
    pub fn checkout(&self, source: &GitSource) -> Result<Checkout, GitError> {
        let git = Git::new(self, &source.remote);
        let resolved = self.resolve(&git, source)?;
        let key = key(source, &resolved);
        if let Some(found) = self.cached(&key, &resolved)? {
            return Ok(found);
        }
        let repository = repository::fetch(&git, &resolved)?;
        // Whoever had the lock may have been at the same.
        if let Some(found) = self.cached(&key, &resolved)? {
            return Ok(found);
        }
        repository::verify(&git, &repository, &resolved)?;
        let store = self.materializer.store();
        let scratch = store.scratch()?;
        let worker = Worker {
            git: &git,
            source,
            resolved: &resolved,
            repository: &repository,
            tree: scratch.path(),
        };
        worker.check_out()?;
        let layer = worker.write_layer(self)?;
        let record = CacheRecord {
            layer: Some(layer),
            created: Timestamp::now(),
        };
        store.record(&key, &record)?;
        Ok(Checkout {
            commit: resolved.commit().to_owned(),
            snapshot: Snapshot {
                layers: vec![layer],
                key,
            },
            cached: false,
        })
    }

    /// The files of a checkout.
    ///
    /// # Errors
    /// When its layer is damaged.
    pub fn tree(&self, checkout: &Checkout) -> Result<SnapshotTree, SnapshotError> {
        SnapshotTree::new(Arc::clone(&self.materializer), &checkout.snapshot)
    }

    fn cached(&self, key: &CacheKey, resolved: &Resolved) -> Result<Option<Checkout>, GitError> {
        let Some(CacheRecord { layer, .. }) = self.materializer.store().cached(key)? else {
            return Ok(None);
        };
        let Some(layer) = layer else {
            return Ok(None);
        };
        if !self.materializer.is_available(layer)? {
            return Ok(None);
        }
        Ok(Some(Checkout {
            commit: resolved.commit().to_owned(),
            snapshot: Snapshot {
                layers: vec![layer],
                key: *key,
            },
            cached: true,
        }))
    }
}

/// The key of a checkout: its commit, and all that changes its files.
fn key(source: &GitSource, resolved: &Resolved) -> CacheKey {
    let mut key = CacheKeyBuilder::new("git checkout 2");
    let keeps = source.keep_git_dir && source.subdir.is_empty();
    // What is in `.git` tells a tag from its commit.
    let hash = match keeps {
        true => &resolved.object,
        false => resolved.commit(),
    };
    key.field(hash.as_bytes()).field(source.subdir.as_bytes());
    key.number(u64::from(source.submodules));
    key.number(u64::from(source.times == Some(FileTimes::Commit)));
    if keeps {
        key.field(masked(&source.remote).as_bytes());
        key.field(resolved.full_ref.as_deref().unwrap_or_default().as_bytes());
        key.field(source.reference.as_deref().unwrap_or_default().as_bytes());
    }
    key.finish()
}

/// One checkout being made.
struct Worker<'a> {
    git: &'a Git<'a>,
    source: &'a GitSource,
    resolved: &'a Resolved,
    repository: &'a Repository,
    /// The working tree, an empty folder at first.
    tree: &'a Path,
}

impl Worker<'_> {
    fn keeps_git_dir(&self) -> bool {
        self.source.keep_git_dir && self.source.subdir.is_empty()
    }

    fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
        self.git.run(WHAT, &self.tree.join(".git"), arguments)
    }

    /// Makes the working tree and the repository in it.
    fn check_out(&self) -> Result<(), GitError> {
        let folder = self.tree.join(".git");
        repository::init(self.git, &folder, &self.resolved.object, false)?;
        if self.keeps_git_dir() {
            self.fetch_own()?;
        } else {
            self.borrow_objects()?;
        }
        let commit = format!("{}^{{commit}}", self.resolved.object);
        self.run(&["checkout", "--quiet", "--force", "--detach", &commit])?;
        // Submodules may be named relative to it.
        self.run(&["config", "remote.origin.url", self.git.remote()])?;
        if self.source.submodules && self.tree.join(".gitmodules").symlink_metadata().is_ok() {
            let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
            let mut update = update.to_vec();
            update.push("--depth=1");
            let output = self.git.output(&folder, &update)?;
            let text = String::from_utf8_lossy(&output.stderr);
            if output.code != 0 && cannot_be_shallow(&text) {
                update.pop();
                self.git.run(SUBMODULES, &folder, &update)?;
            } else if output.code != 0 {
                return Err(self.git.failed(SUBMODULES, &output));
            }
        }
        if self.keeps_git_dir() {
            self.run(&["config", "remote.origin.url", &self.git.shown()])?;
            let fetch = "+refs/heads/*:refs/remotes/origin/*";
            self.run(&["config", "remote.origin.fetch", fetch])?;
            self.run(&["reflog", "expire", "--all", "--expire=now"])?;
            let _ = std::fs::remove_file(folder.join("FETCH_HEAD"));
        }
        Ok(())
    }

    /// Lets the working tree's repository read the objects of the store's.
    fn borrow_objects(&self) -> Result<(), GitError> {
        let folder = self.tree.join(".git");
        let objects = self.repository.folder.join("objects");
        let mut line = objects.into_os_string().into_encoded_bytes();
        line.push(b'\n');
        let written = std::fs::create_dir_all(folder.join("objects/info"))
            .and_then(|()| std::fs::write(folder.join("objects/info/alternates"), line));
        written.map_err(SnapshotError::io("preparing a git checkout"))?;
        let shallow = self.repository.folder.join("shallow");
        if shallow.exists() {
            std::fs::copy(shallow, folder.join("shallow"))
                .map_err(SnapshotError::io("preparing a git checkout"))?;
        }
        Ok(())
    }

    /// Gives the working tree's repository objects of its own, and the ref that was asked for
    /// under the name that BuildKit gives it.
    fn fetch_own(&self) -> Result<(), GitError> {
        let mut address = std::ffi::OsString::from("file://");
        address.push(&self.repository.folder);
        let address = address.to_string_lossy().into_owned();
        let from = kept_ref(&self.resolved.object);
        let wanted = match self.name() {
            Some(name) => format!("+{from}:{name}"),
            None => from,
        };
        self.run(&[
            "fetch",
            "--quiet",
            "-u",
            "--depth=1",
            "--no-tags",
            "--",
            &address,
            &wanted,
        ])
        .map(drop)
    }

    /// What the ref is called in a `.git` that is kept.
    fn name(&self) -> Option<String> {
        let full_ref = self.resolved.full_ref.as_ref()?;
        match self.source.reference.as_deref() {
            Some(commit) if is_commit(commit) => None,
            Some(name) if name.starts_with("refs/") => Some(full_ref.clone()),
            _ if self.source.fetch_by_commit => Some(full_ref.clone()),
            // BuildKit fetches a bare name by way of a tag.
            Some(name) => Some(format!("refs/tags/{name}")),
            None => {
                let branch = full_ref.strip_prefix("refs/heads/").unwrap_or(full_ref);
                Some(format!("refs/tags/{branch}"))
            }
        }
    }

    /// When the commit was made, where the files are to have that time.
    fn commit_time(&self) -> Result<Option<i64>, GitError> {
        if self.source.times != Some(FileTimes::Commit) {
            return Ok(None);
        }
        let commit = format!("{}^{{commit}}", self.resolved.object);
        let printed = self.run(&["log", "-1", "--format=%ct", &commit])?;
        let printed = String::from_utf8_lossy(&printed);
        Ok(printed.trim().parse().ok())
    }

    /// Writes the files that are wanted as a layer of the store.
    fn write_layer(&self, fetcher: &GitFetcher) -> Result<LayerId, GitError> {
        let time = self.commit_time()?;
        let tree = LocalTree::open(self.tree, None).map_err(|error| {
            SnapshotError::io("opening a git checkout")(std::io::Error::other(error))
        })?;
        let below = self.folder(&tree)?;
        let store = fetcher.materializer.store();
        let mut tar = TarWriter::new(store.ingest()?);
        let mut open = tree.children(below.as_bytes())?;
        open.reverse();
        while let Some(node) = open.pop() {
            if (fetcher.is_stopped)() {
                return Err(GitError::Canceled);
            }
            // Nothing that is checked in can be called so.
            if node.entry.name() == b".git" && !self.keeps_git_dir() {
                continue;
            }
            let mut entry = node.entry.clone();
            let start = if below.is_empty() { 0 } else { below.len() + 1 };
            entry.path = node.entry.path.get(start..).unwrap_or_default().to_vec();
            entry.uid = 0;
            entry.gid = 0;
            entry.xattrs.clear();
            entry.mtime = time.unwrap_or(entry.mtime);
            entry.mode = with_umask(entry.mode, &entry.kind);
            match entry.kind {
                EntryKind::File => {
                    let mut content = tree.open(&node.file())?;
                    tar.append(entry, Some(&mut content as &mut dyn Read))?;
                }
                EntryKind::Directory { .. } => {
                    tar.append(entry, None)?;
                    open.extend(tree.children(&node.entry.path)?.into_iter().rev());
                }
                EntryKind::Symlink => tar.append(entry, None)?,
                // Git makes nothing else.
                _ => {}
            }
        }
        let (writer, index) = tar.finish()?;
        let (digest, size) = writer.commit(None)?;
        let layer = store.create_layer(&NewLayer::of_tar(digest, size))?;
        store.put_index(layer, &index)?;
        Ok(layer)
    }

    /// The path of the folder that is wanted. Every component has to be a folder itself: what a
    /// link leads to is not in the repository.
    fn folder(&self, tree: &LocalTree) -> Result<String, GitError> {
        let subdir = &self.source.subdir;
        let mut path = String::new();
        for name in subdir.split('/').filter(|name| !name.is_empty()) {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(name);
            let bad = |problem| GitError::Subdir {
                remote: self.git.shown(),
                subdir: subdir.clone(),
                at: path.clone(),
                problem,
            };
            let found = match name {
                ".git" => None,
                _ => tree.lookup(path.as_bytes(), false)?,
            };
            match found {
                None => return Err(bad("is not there")),
                Some(node) if !node.entry.is_directory() => return Err(bad("is not a directory")),
                Some(_) => {}
            }
        }
        Ok(path)
    }
}

/// A mode as git makes it under a umask of 022: what the owner may do, others may, but write.
fn with_umask(mode: u32, kind: &EntryKind) -> u32 {
    if matches!(kind, EntryKind::Symlink) {
        return 0o777;
    }
    let owner = mode & 0o700;
    let others = (owner >> 6) & 0o5;
    owner | others << 3 | others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_the_usual_umask() {
        for (found, kept) in [
            (0o600, 0o644),
            (0o664, 0o644),
            (0o700, 0o755),
            (0o777, 0o755),
            (0o400, 0o444),
        ] {
            assert_eq!(with_umask(found, &EntryKind::File), kept);
        }
    }

    #[test]
    fn keys_name_the_commit_and_what_changes_its_files() {
        let resolved = |object: &str, peeled: Option<&str>| Resolved {
            object: object.to_owned(),
            peeled: peeled.map(str::to_owned),
            full_ref: Some("refs/tags/v1".to_owned()),
        };
        let source = GitSource {
            remote: "https://h/a.git".to_owned(),
            submodules: true,
            ..GitSource::default()
        };
        let here = key(&source, &resolved("c", None));
        let elsewhere = GitSource {
            remote: "https://mirror/a.git".to_owned(),
            reference: Some("v1".to_owned()),
            checksum: Some("c".to_owned()),
            ..source.clone()
        };
        assert_eq!(here, key(&elsewhere, &resolved("c", None)));
        assert_eq!(here, key(&source, &resolved("t", Some("c"))));
        let others = [
            GitSource {
                subdir: "a".to_owned(),
                ..source.clone()
            },
            GitSource {
                submodules: false,
                ..source.clone()
            },
            GitSource {
                times: Some(FileTimes::Commit),
                ..source.clone()
            },
            GitSource {
                keep_git_dir: true,
                ..source.clone()
            },
        ];
        for other in &others {
            assert_ne!(here, key(other, &resolved("c", None)));
        }
        assert_ne!(here, key(&source, &resolved("d", None)));
    }
}
