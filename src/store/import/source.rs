//! Named files that can be opened: in a folder, or in a tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::ImportError;
use crate::fs::Root;
use crate::layer::compression::{self, Encoding, MAGIC_LENGTH};
use crate::store::{Scratch, Store};

/// No archive of an image has more members; each takes a row in memory.
const MEMBERS_LIMIT: usize = 100_000;

/// The headers of an archive's members, long names and all, are no larger than this. Names are held
/// in memory.
const HEADERS_LIMIT: u64 = 256 << 20;

/// As many links are followed from one member to another.
const LINKS_LIMIT: usize = 8;

/// Files by their names relative to a common root.
pub(super) trait Source {
    /// Opens a file; `None` where there is none of this name.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + Send>>>;
}

/// A folder. No name leads out of it.
pub(super) struct Folder(Root);

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Root::open(path).map(Self).map_err(into_io)
    }
}

impl Source for Folder {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + Send>>> {
        match self.0.open_file(name.as_bytes()).map_err(into_io) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn into_io(error: crate::fs::FsError) -> io::Error {
    error.source
}

/// A tar archive.
pub(super) struct Archive {
    file: Arc<File>,
    members: BTreeMap<String, Member>,
    // Holds the plain archive where the given one is compressed or a pipe.
    _scratch: Option<Scratch>,
}

enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Archive {
    /// Opens an archive and makes the table of its members.
    pub(super) fn open(store: &Store, path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read {
            path: path.to_owned(),
            source,
        };
        Self::read(store, File::open(path).map_err(failed)?, path)
    }

    /// The same of an open file, which may be a pipe. `path` is how it is called.
    pub(super) fn read(store: &Store, mut file: File, path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read {
            path: path.to_owned(),
            source,
        };
        // Somebody may have read the beginning: what is left is the archive.
        let is_whole = file.stream_position().is_ok_and(|position| position == 0);
        let is_regular = file.metadata().map_err(failed)?.is_file() && is_whole;
        let mut start = [0; MAGIC_LENGTH];
        let plain = is_regular && {
            let count = file.read_at(&mut start, 0).map_err(failed)?;
            matches!(Encoding::detect(&start[..count]), Encoding::Plain)
        };
        let (file, scratch) = if plain {
            (file, None)
        } else {
            let scratch = store.scratch()?;
            let unpacked = scratch.path().join("archive");
            let unpack = || {
                let mut out = File::create_new(&unpacked)?;
                io::copy(&mut compression::decompress(file)?, &mut out)?;
                File::open(&unpacked)
            };
            (unpack().map_err(failed)?, Some(scratch))
        };
        let members = members(&file).map_err(failed)?;
        Ok(Self {
            file: Arc::new(file),
            members,
            _scratch: scratch,
        })
    }
}

impl Source for Archive {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read + Send>>> {
        let mut name = name;
        for _ in 0..LINKS_LIMIT {
            match self.members.get(name) {
                None => return Ok(None),
                Some(Member::Link(target)) => name = target,
                Some(&Member::File { offset, size }) => {
                    return Ok(Some(Box::new(Section {
                        file: Arc::clone(&self.file),
                        offset,
                        end: offset.saturating_add(size),
                    })));
                }
            }
        }
        Ok(None)
    }
}

fn members(file: &File) -> io::Result<BTreeMap<String, Member>> {
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(Headers {
        file: io::BufReader::new(file),
        left: HEADERS_LIMIT,
    });
    for entry in archive.entries_with_seek()? {
        let entry = entry.map_err(|error| match error.kind() {
            // What the reader says of a header that is none quotes the file, whatever that is.
            io::ErrorKind::Other | io::ErrorKind::InvalidData => io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no tar archive, or a damaged one",
            ),
            _ => error,
        })?;
        let name = clean("", &String::from_utf8_lossy(&entry.path_bytes()));
        let link = || {
            let target = entry.link_name_bytes().unwrap_or_default();
            String::from_utf8_lossy(&target).into_owned()
        };
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => Member::File {
                offset: entry.raw_file_position(),
                size: entry.size(),
            },
            // Older versions of docker name a layer that two images share once by content.
            tar::EntryType::Symlink => Member::Link(clean(parent, &link())),
            tar::EntryType::Link => Member::Link(clean("", &link())),
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MEMBERS_LIMIT {
            let many = format!("it has more than {MEMBERS_LIMIT} members");
            return Err(io::Error::new(io::ErrorKind::InvalidData, many));
        }
    }
    Ok(members)
}

/// An archive of which only headers are read, and content is skipped.
struct Headers<'a> {
    file: io::BufReader<&'a File>,
    left: u64,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let mebibytes = HEADERS_LIMIT >> 20;
            let large = format!("the headers of its members are larger than {mebibytes} MiB");
            io::Error::new(io::ErrorKind::FileTooLarge, large)
        })?;
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// `path` seen from `folder`, without `.`, `..` and slashes that mean nothing. A name, never
/// opened.
fn clean(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { folder };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read without moving anybody else's position.
struct Section {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..length], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// How the bytes of a stream are encoded, and the same stream from its beginning.
pub(super) fn detect(
    content: Box<dyn Read + Send>,
) -> io::Result<(Encoding, Box<dyn Read + Send>)> {
    let mut content = io::BufReader::new(content);
    let encoding = Encoding::detect(content.fill_buf()?);
    Ok((encoding, Box::new(content)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{HEADERS_LIMIT, clean, members};

    #[test]
    fn a_name_is_not_read_without_end() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(HEADERS_LIMIT);
        header.set_cksum();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(header.as_bytes()).unwrap();
        // All but the header is a hole.
        file.set_len(HEADERS_LIMIT + 4096).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let error = members(&file).err().unwrap();
        assert!(error.to_string().contains("larger than 256 MiB"), "{error}");
        // What is no header may be of any size.
        header.set_entry_type(tar::EntryType::Regular);
        header.set_path("large").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        std::io::Seek::rewind(&mut file).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len((1 << 40) + 4096).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert!(members(&file).unwrap().contains_key("large"));
    }

    #[test]
    fn names_are_written_in_one_way() {
        for (folder, path, expected) in [
            ("", "./index.json", "index.json"),
            ("", "/a//b/", "a/b"),
            ("id2", "../id1/layer.tar", "id1/layer.tar"),
            ("id2", "/id1/layer.tar", "id1/layer.tar"),
            ("a", "../../../etc/passwd", "etc/passwd"),
        ] {
            assert_eq!(clean(folder, path), expected);
        }
    }
}
