//! Where an archive goes: a file, which is whole when it has its name, or standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::ExportError;

/// An archive's destination, opened.
pub struct Destination {
    out: Out,
}

enum Out {
    Stdout(io::BufWriter<io::Stdout>),
    File {
        out: io::BufWriter<File>,
        beside: tempfile::TempPath,
        place: PathBuf,
    },
    /// A pipe or a device: it can't be renamed over.
    InPlace(io::BufWriter<File>),
}

const BUFFER: usize = 1 << 18;

impl Destination {
    /// Opens `path`, or standard output where that is `-`. A file appears under its name only
    /// with [`Destination::commit`].
    ///
    /// # Errors
    /// When it can't be written, or standard output is a terminal.
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        if path == Path::new("-") {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(ExportError::Terminal);
            }
            let out = Out::Stdout(io::BufWriter::with_capacity(BUFFER, stdout));
            return Ok(Self { out });
        }
        let is_special = |path: &Path| {
            path.metadata()
                .is_ok_and(|found| !found.is_file() && !found.is_dir())
        };
        if is_special(path) {
            let file = OpenOptions::new().write(true).open(path);
            let file = file.map_err(ExportError::io("open", path))?;
            let out = Out::InPlace(io::BufWriter::with_capacity(BUFFER, file));
            return Ok(Self { out });
        }
        let place = behind_links(path).map_err(ExportError::io("open", path))?;
        let folder = folder_of(&place);
        let beside = new_file(folder).map_err(without_path);
        let beside = beside.map_err(ExportError::io("create a file in", folder))?;
        let (file, beside) = beside.into_parts();
        Ok(Self {
            out: Out::File {
                out: io::BufWriter::with_capacity(BUFFER, file),
                beside,
                place,
            },
        })
    }

    /// Finds out whether `path` could be written, and leaves nothing there: a long build should not
    /// end with a mistake that its beginning could have named.
    ///
    /// # Errors
    /// As [`Destination::open`].
    pub fn check(path: &Path) -> Result<(), ExportError> {
        let found = path.metadata();
        if path == Path::new("-") || found.as_ref().is_ok_and(|f| !f.is_file() && !f.is_dir()) {
            // To open a pipe or a device is to use it.
            return Ok(());
        }
        if found.is_ok_and(|found| found.is_dir()) {
            let is_folder = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(ExportError::io("create", path)(is_folder));
        }
        Self::open(path).map(drop)
    }

    /// The same of a folder, which is made with those above it.
    ///
    /// # Errors
    /// When it couldn't be made, or nothing could be made in it.
    pub fn check_folder(path: &Path) -> Result<(), ExportError> {
        let path = Path::new(".").join(path);
        let nearest = path.ancestors().find(|path| path.exists());
        let nearest = nearest.unwrap_or(Path::new("."));
        let error = ExportError::io("create a file in", nearest);
        if !nearest.is_dir() {
            return Err(error(io::ErrorKind::NotADirectory.into()));
        }
        access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| error(errno.into()))
    }

    /// Ends the output: what was written is now under its name.
    ///
    /// # Errors
    /// When the last bytes can't be written or the file can't be renamed.
    pub fn commit(self) -> Result<(), ExportError> {
        match self.out {
            Out::Stdout(mut out) => out.flush().map_err(ExportError::Write),
            Out::InPlace(mut out) => out.flush().map_err(ExportError::Write),
            Out::File {
                mut out,
                beside,
                place,
            } => {
                out.flush().map_err(ExportError::Write)?;
                let renamed = beside.persist(&place).map_err(|error| error.error);
                renamed.map_err(ExportError::io("create", &place))
            }
        }
    }
}

/// Where the file that a path names is, for that is replaced, not a link to it; a link that leads
/// nowhere is.
///
/// In a folder where everybody may make files, such as `/tmp`, somebody else's link is not
/// followed: that is the rule of the kernel (`fs.protected_symlinks`), which therefore gets to
/// follow the links, and where it has been told not to mind, of this function.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(path.to_owned()),
        Err(error) => return Err(error.into()),
    };
    if is_planted(path)? {
        return Err(Errno::ACCESS.into());
    }
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    match std::fs::read_link(link) {
        Ok(place) => Ok(place),
        // No /proc.
        Err(_) => path.canonicalize(),
    }
}

/// Whether this is a link that somebody else has put where everybody may put one.
fn is_planted(path: &Path) -> io::Result<bool> {
    const STICKY_FOR_ALL: u32 = 0o1002;
    let link = path.symlink_metadata()?;
    if !link.is_symlink() {
        return Ok(false);
    }
    let folder = folder_of(path).metadata()?;
    let is_ours = link.uid() == rustix::process::geteuid().as_raw() || link.uid() == folder.uid();
    Ok(folder.mode() & STICKY_FOR_ALL == STICKY_FOR_ALL && !is_ours)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A new file in `folder` with the mode that any new file gets.
pub(super) fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new()
        .prefix(".rbuild-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

/// The system's own answer: a name made up for the time of writing says nothing to anybody.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.rsplit_once(" at path ") {
        Some((answer, _)) => io::Error::new(error.kind(), answer),
        None => error,
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Out::Stdout(out) => out.write(bytes),
            Out::File { out, .. } | Out::InPlace(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.out {
            Out::Stdout(out) => out.flush(),
            Out::File { out, .. } | Out::InPlace(out) => out.flush(),
        }
    }
}
