//! A build context in a temporary folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::dedent;

/// A folder with a Dockerfile and whatever it copies.
pub(crate) struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// An empty context, which everyone may read.
    pub(crate) fn new() -> Project {
        let folder = tempfile::Builder::new()
            .prefix("rbuild-context-")
            .tempdir()
            .unwrap();
        set_mode(folder.path(), 0o755);
        Project { folder }
    }

    /// A context that holds a copy of a folder of this repository.
    pub(crate) fn copy_of(folder: impl AsRef<Path>) -> Project {
        let project = Project::new();
        copy_folder(
            &super::repository().join(folder.as_ref()),
            project.folder.path(),
        );
        project
    }

    /// A context with just this Dockerfile; see [`Project::dockerfile`].
    pub(crate) fn with(dockerfile: &str) -> Project {
        Project::new().dockerfile(dockerfile)
    }

    /// Writes `Dockerfile`; indentation that all lines share is taken off.
    pub(crate) fn dockerfile(self, text: &str) -> Project {
        self.file("Dockerfile", dedent(text))
    }

    /// Writes a file with mode 0644, and the folders on the way with 0755.
    pub(crate) fn file(self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Project {
        let file = self.place(path);
        // A new inode each time, as editors and version control make one.
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, content).unwrap();
        set_mode(&file, 0o644);
        self
    }

    /// Makes an empty folder with mode 0755.
    pub(crate) fn folder(self, path: impl AsRef<Path>) -> Project {
        let folder = self.place(path);
        std::fs::create_dir_all(&folder).unwrap();
        set_mode(&folder, 0o755);
        self
    }

    /// Makes a symbolic link.
    pub(crate) fn symlink(self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Project {
        std::os::unix::fs::symlink(target, self.place(path)).unwrap();
        self
    }

    /// Makes a hard link to a file of the context.
    pub(crate) fn hard_link(self, path: impl AsRef<Path>, existing: impl AsRef<Path>) -> Project {
        std::fs::hard_link(self.path().join(existing), self.place(path)).unwrap();
        self
    }

    /// Sets a file's or folder's mode.
    pub(crate) fn mode(self, path: impl AsRef<Path>, mode: u32) -> Project {
        set_mode(&self.path().join(path), mode);
        self
    }

    /// Sets the time of last modification of a file or folder, in seconds since 1970.
    pub(crate) fn mtime(self, path: impl AsRef<Path>, seconds: u64) -> Project {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        std::fs::File::open(self.path().join(path))
            .and_then(|file| file.set_modified(time))
            .unwrap();
        self
    }

    /// Removes a file.
    pub(crate) fn remove(self, path: impl AsRef<Path>) -> Project {
        std::fs::remove_file(self.path().join(path)).unwrap();
        self
    }

    /// The folder, which is then somebody else's.
    pub(crate) fn into_folder(self) -> tempfile::TempDir {
        self.folder
    }

    /// The context's folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The context as a tar stream.
    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        tar.append_dir_all(".", self.path()).unwrap();
        tar.into_inner().unwrap()
    }

    fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let file = self.path().join(path.as_ref());
        let mut missing = Vec::new();
        let mut parent = file.parent().unwrap();
        while !parent.exists() {
            missing.push(parent.to_owned());
            parent = parent.parent().unwrap();
        }
        for folder in missing.iter().rev() {
            std::fs::create_dir(folder).unwrap();
            set_mode(folder, 0o755);
        }
        file
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            set_mode(&target, 0o755);
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
