//! From a repository's name to a commit, and the commit's objects into the store.
//!
//! The store has one bare repository for each remote address, which fetches add to. Every object
//! that was fetched hangs on a ref of its own hash, so that no branch of the other side can get in
//! another's way here. Fetches are shallow where the other side can do that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::program::Git;
use super::{GitError, GitFetcher, GitSource};
use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::snapshot::SnapshotError;
use crate::store::Lock;

/// No repository: git is asked about another's.
const NOWHERE: &str = "/dev/null";
/// A file in a repository of the store that was made to its end.
const READY: &str = "rbuild-ready";
const ASKING: &str = "failed to ask the git repository";
const FETCHING: &str = "failed to fetch the git repository";
const READING: &str = "failed to read the git repository";

/// What a reference stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The object: a commit, or the tag object of an annotated tag.
    pub(super) object: String,
    /// The commit that an annotated tag names.
    pub(super) peeled: Option<String>,
    /// Which ref of the remote it is; `None` where a commit was named.
    pub(super) full_ref: Option<String>,
}

impl Resolved {
    /// The commit, as far as the remote has said.
    pub(super) fn commit(&self) -> &str {
        self.peeled.as_deref().unwrap_or(&self.object)
    }
}

/// Whether a text is a whole commit hash, SHA-1 or SHA-256.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// Finds out which object `source` means; the network is asked unless it says so itself or `known`
/// does, where what was asked is put.
pub(super) fn resolve(
    git: &Git<'_>,
    source: &GitSource,
    known: &mut Option<Resolved>,
) -> Result<Resolved, GitError> {
    let checksum = source.checksum.as_deref();
    if let Some(checksum) = checksum
        && (checksum.is_empty() || !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(GitError::BadChecksum(checksum.to_owned()));
    }
    let reference = source.reference.as_deref();
    if let Some(reference) = reference
        && reference.starts_with('-')
    {
        return Err(GitError::BadRef(reference.to_owned()));
    }
    let named = |object: &str, full_ref| Resolved {
        object: object.to_owned(),
        peeled: None,
        full_ref,
    };
    let resolved = match reference {
        Some(commit) if is_commit(commit) => named(commit, None),
        _ if source.fetch_by_commit => {
            let commit = checksum.filter(|text| is_commit(text));
            let full_ref = reference.map(|name| match name.starts_with("refs/") {
                true => name.to_owned(),
                false => format!("refs/heads/{name}"),
            });
            return Ok(named(commit.ok_or(GitError::NoCommit)?, full_ref));
        }
        _ => match known {
            Some(known) => known.clone(),
            None => {
                let asked = match reference {
                    Some(name) => look_up(git, name)?,
                    None => default_branch(git)?,
                };
                known.insert(asked).clone()
            }
        },
    };
    match checksum {
        Some(expected) => check(expected, resolved),
        None => Ok(resolved),
    }
}

/// A checksum names the beginning of the commit's hash, or of the tag object's.
fn check(expected: &str, resolved: Resolved) -> Result<Resolved, GitError> {
    let hashes = std::iter::once(&resolved.object).chain(&resolved.peeled);
    if hashes.clone().any(|hash| hash.starts_with(expected)) {
        return Ok(resolved);
    }
    let found: Vec<String> = hashes.map(|hash| format!("`{hash}`")).collect();
    Err(GitError::WrongCommit {
        expected: expected.to_owned(),
        found: found.join(" or "),
    })
}

fn default_branch(git: &Git<'_>) -> Result<Resolved, GitError> {
    let listed = git.list(&["--symref"], &["HEAD"])?;
    let missing = || GitError::NoDefaultBranch(git.shown());
    let branch = listed.iter().find_map(|(value, name)| {
        let branch = value.strip_prefix("ref: ")?;
        (name == "HEAD" && branch.starts_with("refs/heads/")).then(|| branch.to_owned())
    });
    let object = listed
        .iter()
        .find(|(value, name)| name == "HEAD" && is_commit(value));
    let (object, _) = object.ok_or_else(missing)?;
    Ok(Resolved {
        object: object.clone(),
        peeled: None,
        full_ref: Some(branch.ok_or_else(missing)?),
    })
}

/// Looks a name up as git does: a full ref, else a branch, else a tag.
fn look_up(git: &Git<'_>, name: &str) -> Result<Resolved, GitError> {
    let peeled = format!("{name}^{{}}");
    let listed = git.list(&[], &[name, &peeled])?;
    let find = |wanted: &str| {
        let found = listed.iter().find(|(_, name)| name == wanted);
        found.map(|(value, _)| value.clone())
    };
    let below = |folder: &str| format!("{folder}{}", name.strip_prefix(folder).unwrap_or(name));
    let tag = below("refs/tags/");
    for full_ref in [below("refs/"), below("refs/heads/"), tag.clone()] {
        let Some(object) = find(&full_ref) else {
            continue;
        };
        if !is_commit(&object) {
            continue;
        }
        let peeled = (full_ref == tag).then(|| find(&format!("{tag}^{{}}")));
        return Ok(Resolved {
            object,
            peeled: peeled.flatten().filter(|commit| is_commit(commit)),
            full_ref: Some(full_ref),
        });
    }
    let looks_short = (4..40).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit());
    Err(GitError::NoRef {
        remote: git.shown(),
        reference: name.to_owned(),
        help: match looks_short {
            true => ": a commit is named by its whole hash",
            false => "",
        },
    })
}

impl Git<'_> {
    /// `git ls-remote`: values and names.
    fn list(&self, options: &[&str], names: &[&str]) -> Result<Vec<(String, String)>, GitError> {
        let mut arguments = vec!["ls-remote"];
        arguments.extend(options);
        arguments.extend(["--", self.remote()]);
        arguments.extend(names);
        let output = self.run(ASKING, Path::new(NOWHERE), &arguments)?;
        let output = String::from_utf8_lossy(&output);
        let lines = output.lines().filter_map(|line| line.split_once('\t'));
        let pairs = lines.map(|(value, name)| (value.to_owned(), name.to_owned()));
        Ok(pairs.collect())
    }

    /// Whether a repository has an object of a kind.
    fn has(&self, folder: &Path, object: &str) -> Result<bool, GitError> {
        Ok(self.output(folder, &["cat-file", "-e", object])?.code == 0)
    }
}

/// A bare repository of the store, held until this is dropped.
pub(super) struct Repository {
    pub(super) folder: PathBuf,
    _lock: Lock,
}

/// The ref that keeps an object.
pub(super) fn kept_ref(object: &str) -> String {
    format!("refs/rbuild/{object}")
}

/// Brings the objects of what was resolved into the store.
pub(super) fn fetch(git: &Git<'_>, resolved: &Resolved) -> Result<Repository, GitError> {
    let key = CacheKeyBuilder::new("git repository")
        .field(git.remote().as_bytes())
        .number(resolved.object.len() as u64)
        .finish();
    let _lock = wait(git.fetcher(), &key)?;
    let store = git.fetcher().materializer.store();
    let folder = store.source_folder(&key)?;
    let is_new = !folder.join(READY).exists();
    if is_new {
        // What is there was not finished.
        store.empty_source_folder(&key)?;
    }
    let fetched = fetch_into(git, &folder, is_new, resolved);
    let damaged = matches!(fetched, Err(GitError::Failed { .. })) && !is_new;
    if damaged && git.output(&folder, &["fsck", "--connectivity-only"])?.code != 0 {
        // A power cut may have left it so; the remote has everything.
        store.empty_source_folder(&key)?;
        fetch_into(git, &folder, true, resolved)?;
    } else {
        fetched?;
    }
    Ok(Repository { folder, _lock })
}

fn wait(fetcher: &GitFetcher, key: &CacheKey) -> Result<Lock, GitError> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(lock) = fetcher.materializer.store().try_lock(key)? {
            return Ok(lock);
        }
        if (fetcher.is_stopped)() {
            return Err(GitError::Canceled);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

fn fetch_into(
    git: &Git<'_>,
    folder: &Path,
    is_new: bool,
    resolved: &Resolved,
) -> Result<(), GitError> {
    let object = &resolved.object;
    if is_new {
        init(git, folder, object, true)?;
        std::fs::write(folder.join(READY), "")
            .map_err(SnapshotError::io("making a git repository"))?;
    } else if git.has(folder, &kept_ref(object))? {
        return Ok(());
    }
    // What a killed fetch has left. Nobody else is at it.
    for name in ["shallow".to_owned(), kept_ref(object)] {
        let _ = std::fs::remove_file(folder.join(format!("{name}.lock")));
    }
    let Some(full_ref) = &resolved.full_ref else {
        return fetch_commit(git, folder, object);
    };
    let wanted = format!("+{full_ref}:{}", kept_ref(object));
    let output = fetch_shallow(git, folder, &wanted)?;
    if output.code == 0 && current(git, folder, object)? {
        return Ok(());
    }
    // The ref may have moved on since it was looked up, or have been named beside a commit.
    match fetch_commit(git, folder, object) {
        Err(GitError::Failed { .. }) if output.code != 0 => Err(git.failed(FETCHING, &output)),
        Err(GitError::Failed { .. }) => Err(GitError::Moved {
            remote: git.shown(),
            reference: full_ref.clone(),
        }),
        result => result,
    }
}

/// Sees to it that a tag is one of the commit that the remote has said: its word is a claim, and
/// what is known of a commit serves every repository.
pub(super) fn verify(
    git: &Git<'_>,
    repository: &Repository,
    resolved: &Resolved,
) -> Result<(), GitError> {
    let Some(claimed) = &resolved.peeled else {
        return Ok(());
    };
    let commit = format!("{}^{{commit}}", resolved.object);
    let found = git.run(
        READING,
        &repository.folder,
        &["rev-parse", "--verify", &commit],
    )?;
    match String::from_utf8_lossy(&found).trim() {
        found if found == claimed => Ok(()),
        found => Err(GitError::FalseTag {
            remote: git.shown(),
            claimed: claimed.clone(),
            found: found.to_owned(),
        }),
    }
}

/// Makes a repository whose hashes are like `object`.
pub(super) fn init(
    git: &Git<'_>,
    folder: &Path,
    object: &str,
    is_bare: bool,
) -> Result<(), GitError> {
    let mut arguments = vec!["init", "--quiet"];
    if is_bare {
        arguments.push("--bare");
    }
    if object.len() == 64 {
        arguments.push("--object-format=sha256");
    }
    git.run(READING, folder, &arguments).map(drop)
}

/// Whether the ref that keeps an object leads to it, as it has to.
fn current(git: &Git<'_>, folder: &Path, object: &str) -> Result<bool, GitError> {
    let name = kept_ref(object);
    let found = git.run(READING, folder, &["rev-parse", "--verify", &name])?;
    if String::from_utf8_lossy(&found).trim() == object {
        return Ok(true);
    }
    git.run(READING, folder, &["update-ref", "-d", &name])?;
    Ok(false)
}

/// Whether git says that the other side can't leave out history.
pub(super) fn cannot_be_shallow(text: &str) -> bool {
    text.contains("shallow") || text.contains("--depth")
}

/// Fetches one ref or object without its history; with it where the other side can't do without.
fn fetch_shallow(
    git: &Git<'_>,
    folder: &Path,
    wanted: &str,
) -> Result<crate::sandbox::OutsideOutput, GitError> {
    let shallow = [
        "fetch",
        "--depth=1",
        "--no-tags",
        "--force",
        "--",
        git.remote(),
        wanted,
    ];
    let output = git.output(folder, &shallow)?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.code != 0 && cannot_be_shallow(&text) {
        let whole = ["fetch", "--no-tags", "--force", "--", git.remote(), wanted];
        return git.output(folder, &whole);
    }
    Ok(output)
}

/// Fetches a commit that no ref is known of: by its hash, else with everything there is.
fn fetch_commit(git: &Git<'_>, folder: &Path, object: &str) -> Result<(), GitError> {
    let name = kept_ref(object);
    let output = fetch_shallow(git, folder, &format!("+{object}:{name}"))?;
    if output.code == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let refused = [
        "not our ref",
        "unadvertised object",
        "couldn't find remote ref",
    ];
    if !refused.iter().any(|reason| text.contains(reason)) {
        return Err(git.failed(FETCHING, &output));
    }
    let mut everything = vec!["fetch", "--no-tags", "--force"];
    if folder.join("shallow").exists() {
        everything.push("--unshallow");
    }
    let all = [
        "+refs/heads/*:refs/remotes/heads/*",
        "+refs/tags/*:refs/remotes/tags/*",
    ];
    everything.extend(["--", git.remote()]);
    everything.extend(all);
    git.run(FETCHING, folder, &everything)?;
    if !git.has(folder, object)? {
        return Err(GitError::NoRef {
            remote: git.shown(),
            reference: object.to_owned(),
            help: "",
        });
    }
    git.run(READING, folder, &["update-ref", &name, object])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_hashes_are_commits() {
        for (text, expected) in [
            ("0123456789abcdef0123456789abcdef01234567", true),
            ("0123456789ABCDEF0123456789abcdef01234567", false),
            ("0123456789abcdef0123456789abcdef0123456", false),
            (&"a".repeat(64), true),
            (&"g".repeat(40), false),
            ("", false),
        ] {
            assert_eq!(is_commit(text), expected, "{text}");
        }
    }

    #[test]
    fn a_checksum_is_the_beginning_of_a_hash() {
        let resolved = Resolved {
            object: "aaaa".to_owned(),
            peeled: Some("bbbb".to_owned()),
            full_ref: None,
        };
        for good in ["a", "aaaa", "bb"] {
            assert!(check(good, resolved.clone()).is_ok());
        }
        let error = check("ab", resolved).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected checksum to match `ab`, got `aaaa` or `bbbb`"
        );
    }
}
