//! Reading an image that rbuild wrote, with none of rbuild's own code: every digest, size and
//! rule of the OCI image spec that can be checked on the way is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tree::{Node, NodeKind, Tree, hex, read_content, shown_content};

/// What the history of the tests' base images says.
pub(super) const BASE: &str = "base image for tests";

/// An image: manifest, config and layers.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// Digest of the manifest.
    pub(crate) digest: String,
    /// Digest of the config: the image's id.
    pub(crate) id: String,
    /// `index.json` of the layout.
    pub(crate) index: Value,
    /// The config, whole.
    pub(crate) config: Value,
    /// The layers, lowest first.
    pub(crate) layers: Vec<LayerTar>,
}

/// One layer as its tar stream says it.
#[derive(Clone, Debug)]
pub(crate) struct LayerTar {
    /// Digest of the plain tar.
    pub(crate) diff_id: String,
    /// Digest of the blob.
    pub(crate) blob: String,
    /// Entries in the order of the stream.
    pub(crate) entries: Vec<TarEntry>,
}

/// One entry of a layer's tar stream.
#[derive(Clone, Debug)]
pub(crate) struct TarEntry {
    /// Its name without `./` in front and `/` behind.
    pub(crate) path: Vec<u8>,
    /// The kind in the header.
    pub(crate) kind: tar::EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) size: u64,
    pub(crate) digest: String,
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// The user and group names of the header, which should be empty.
    pub(crate) names: (String, String),
}

/// A file inside the layout's archive or folder.
trait Layout {
    fn open(&mut self, path: &str) -> Box<dyn Read + '_>;
}

struct Archive {
    file: File,
    members: BTreeMap<String, (u64, u64)>,
}

impl Layout for Archive {
    fn open(&mut self, path: &str) -> Box<dyn Read + '_> {
        let (offset, size) = *self.members.get(path).unwrap_or_else(|| {
            panic!(
                "no `{path}` in the archive; it has {:?}",
                self.members.keys()
            )
        });
        self.file.seek(SeekFrom::Start(offset)).unwrap();
        Box::new((&mut self.file).take(size))
    }
}

struct Folder(std::path::PathBuf);

impl Layout for Folder {
    fn open(&mut self, path: &str) -> Box<dyn Read + '_> {
        Box::new(
            File::open(self.0.join(path))
                .unwrap_or_else(|error| panic!("no `{path}` in the layout: {error}")),
        )
    }
}

impl Image {
    /// Reads an OCI image layout: a tar archive or a folder.
    #[track_caller]
    pub(crate) fn read(path: &Path) -> Image {
        if path.is_dir() {
            return Image::from_layout(&mut Folder(path.to_owned()));
        }
        let mut file = File::open(path)
            .unwrap_or_else(|error| panic!("no image at {}: {error}", path.display()));
        let members = tar::Archive::new(&mut file)
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.path().unwrap().to_str().unwrap().to_owned();
                (name, (entry.raw_file_position(), entry.size()))
            })
            .collect();
        Image::from_layout(&mut Archive { file, members })
    }

    /// An image without layers.
    pub(super) fn of_config(config: Value) -> Image {
        Image {
            digest: String::new(),
            id: String::new(),
            index: Value::Null,
            config,
            layers: Vec::new(),
        }
    }

    fn from_layout(layout: &mut dyn Layout) -> Image {
        let marker = json(&read(layout, "oci-layout"));
        assert_eq!(marker["imageLayoutVersion"], "1.0.0");
        let index = json(&read(layout, "index.json"));
        let mut descriptor = match index["manifests"].as_array().map(Vec::as_slice) {
            Some([one]) => one.clone(),
            Some([one, rest @ ..]) if rest.iter().all(|other| other["digest"] == one["digest"]) => {
                one.clone()
            }
            _ => panic!("not exactly one image in the layout: {index:#}"),
        };
        let mut manifest = json(&blob(layout, &descriptor));
        if manifest["manifests"].is_array() {
            descriptor = manifest["manifests"][0].clone();
            manifest = json(&blob(layout, &descriptor));
        }
        assert_eq!(manifest["schemaVersion"], 2, "{manifest:#}");
        let config_descriptor = manifest["config"].clone();
        let config = json(&blob(layout, &config_descriptor));
        let layers: Vec<LayerTar> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| LayerTar::read(layout, layer))
            .collect();

        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let declared: Vec<&str> = config["rootfs"]["diff_ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        assert_eq!(diff_ids, declared, "diff ids are not those of the layers");
        assert_eq!(config["rootfs"]["type"], "layers");
        let with_layer = config["history"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["empty_layer"] != true)
            .count();
        assert_eq!(
            with_layer,
            layers.len(),
            "history and layers don't match: {:#}",
            config["history"]
        );
        Image {
            digest: text(&descriptor["digest"]),
            id: text(&config_descriptor["digest"]),
            index,
            config,
            layers,
        }
    }

    /// The root file system: all layers applied.
    pub(crate) fn tree(&self) -> Tree {
        applied(&self.layers)
    }

    /// What the base's layer alone makes.
    pub(super) fn base_tree(&self) -> Tree {
        applied(&self.layers[..self.layers.len() - self.own_layers().len()])
    }

    /// `config.NAME` of the image config; null where it isn't there.
    pub(crate) fn setting(&self, name: &str) -> &Value {
        &self.config["config"][name]
    }

    /// History as one line per entry: `layer TEXT` or `empty TEXT`, entries of the base left out.
    pub(crate) fn history(&self) -> String {
        let mut out = String::new();
        for entry in self.config["history"].as_array().unwrap() {
            let kind = if entry["empty_layer"] == true {
                "empty"
            } else {
                "layer"
            };
            let created_by = entry["created_by"].as_str().unwrap_or_default();
            if created_by == BASE {
                continue;
            }
            writeln!(out, "{kind} {created_by}").unwrap();
        }
        out
    }

    /// The layers above the base's one.
    pub(crate) fn own_layers(&self) -> &[LayerTar] {
        let based = self.config["history"][0]["created_by"] == BASE;
        &self.layers[usize::from(based)..]
    }
}

fn applied(layers: &[LayerTar]) -> Tree {
    let mut tree = Tree::default();
    let mut inode = 0;
    for layer in layers {
        layer.apply(&mut tree, &mut inode);
    }
    tree
}

impl LayerTar {
    fn read(layout: &mut dyn Layout, descriptor: &Value) -> LayerTar {
        let digest = text(&descriptor["digest"]);
        let media_type = text(&descriptor["mediaType"]);
        let path = blob_path(&digest);
        let (size, found, _) = read_content(layout.open(&path));
        assert_eq!(format!("sha256:{found}"), digest);
        assert_eq!(Some(size), descriptor["size"].as_u64());

        let stored = layout.open(&path);
        let plain: Box<dyn Read + '_> = if media_type.ends_with("gzip") {
            // One member only: some readers stop at the first.
            Box::new(flate2::read::GzDecoder::new(stored))
        } else if media_type.ends_with("zstd") {
            Box::new(zstd::Decoder::new(stored).unwrap())
        } else {
            assert!(media_type.ends_with(".tar"), "media type {media_type}");
            stored
        };
        let mut hashing = Hashing {
            inner: plain,
            hash: Sha256::new(),
        };
        let entries = read_entries(&mut hashing);
        std::io::copy(&mut hashing, &mut std::io::sink()).unwrap();
        LayerTar {
            diff_id: format!("sha256:{}", hex(&hashing.hash.finalize())),
            blob: digest,
            entries,
        }
    }

    /// One line per entry of the stream. Whiteouts are `w PATH`, opaque directories `o PATH`.
    pub(crate) fn lines(&self) -> String {
        let mut out = String::new();
        for entry in &self.entries {
            let name = entry.path.escape_ascii();
            let owner = format!("{}:{}", entry.uid, entry.gid);
            let mode = entry.mode;
            match entry.whiteout() {
                Some(Whiteout::Of(path)) => {
                    writeln!(out, "w {}", path.escape_ascii()).unwrap();
                    continue;
                }
                Some(Whiteout::Opaque(path)) => {
                    writeln!(out, "o {}", path.escape_ascii()).unwrap();
                    continue;
                }
                None => {}
            }
            match entry.kind {
                tar::EntryType::Directory => write!(out, "d {mode:04o} {owner} {name}"),
                tar::EntryType::Symlink => {
                    write!(out, "l {owner} {name} -> {}", entry.link.escape_ascii())
                }
                tar::EntryType::Link => write!(out, "h {name} => {}", entry.link.escape_ascii()),
                tar::EntryType::Char => write!(
                    out,
                    "c {mode:04o} {owner} {name} {},{}",
                    entry.device.0, entry.device.1
                ),
                tar::EntryType::Block => write!(
                    out,
                    "b {mode:04o} {owner} {name} {},{}",
                    entry.device.0, entry.device.1
                ),
                tar::EntryType::Fifo => write!(out, "p {mode:04o} {owner} {name}"),
                _ => write!(
                    out,
                    "f {mode:04o} {owner} {name} {}",
                    shown_content(entry.size, &entry.digest, entry.content.as_deref())
                ),
            }
            .unwrap();
            for (name, value) in &entry.xattrs {
                write!(out, " {name}=0x{}", hex(value)).unwrap();
            }
            out.push('\n');
        }
        out
    }

    fn apply(&self, tree: &mut Tree, next_inode: &mut u64) {
        for entry in &self.entries {
            match entry.whiteout() {
                Some(Whiteout::Of(path)) => remove(tree, &path, true),
                Some(Whiteout::Opaque(path)) => remove(tree, &path, false),
                None => {}
            }
        }
        for entry in self
            .entries
            .iter()
            .filter(|entry| entry.whiteout().is_none())
        {
            if entry.path.is_empty() {
                continue;
            }
            let node = if entry.kind == tar::EntryType::Link {
                tree.nodes.get(&entry.link).cloned().unwrap_or_else(|| {
                    panic!(
                        "hard link `{}` to `{}`, which is not there",
                        entry.path.escape_ascii(),
                        entry.link.escape_ascii()
                    )
                })
            } else {
                *next_inode += 1;
                entry.node(*next_inode)
            };
            if node.kind != NodeKind::Directory {
                remove(tree, &entry.path, true);
            }
            tree.nodes.insert(entry.path.clone(), node);
        }
    }
}

/// A layer of a plain tar stream.
pub(super) fn layer_of_tar(from: impl Read) -> LayerTar {
    LayerTar {
        diff_id: String::new(),
        blob: String::new(),
        entries: read_entries(from),
    }
}

enum Whiteout {
    Of(Vec<u8>),
    Opaque(Vec<u8>),
}

impl TarEntry {
    fn whiteout(&self) -> Option<Whiteout> {
        let cut = self
            .path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |place| place + 1);
        let name = self.path[cut..].strip_prefix(b".wh.")?;
        if name == b".wh..opq" {
            return Some(Whiteout::Opaque(
                self.path[..cut.saturating_sub(1)].to_vec(),
            ));
        }
        let mut path = self.path[..cut].to_vec();
        path.extend_from_slice(name);
        Some(Whiteout::Of(path))
    }

    fn node(&self, inode: u64) -> Node {
        let kind = match self.kind {
            tar::EntryType::Directory => NodeKind::Directory,
            tar::EntryType::Symlink => NodeKind::Symlink,
            tar::EntryType::Char => NodeKind::CharDevice,
            tar::EntryType::Block => NodeKind::BlockDevice,
            tar::EntryType::Fifo => NodeKind::Fifo,
            tar::EntryType::Regular => NodeKind::File,
            other => panic!("entry kind {other:?} in a layer"),
        };
        Node {
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            link: self.link.clone(),
            device: self.device,
            size: self.size,
            digest: self.digest.clone(),
            content: self.content.clone(),
            xattrs: self.xattrs.clone(),
            inode,
        }
    }
}

/// Removes what is below a path and, where asked, the path itself.
fn remove(tree: &mut Tree, path: &[u8], itself: bool) {
    let mut below = path.to_vec();
    if !below.is_empty() {
        below.push(b'/');
    }
    let gone: Vec<Vec<u8>> = tree
        .nodes
        .range(below.clone()..)
        .map(|(name, _)| name)
        .take_while(|name| name.starts_with(&below))
        .cloned()
        .collect();
    for name in gone {
        tree.nodes.remove(&name);
    }
    if itself {
        tree.nodes.remove(path);
    }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

fn read_entries(from: impl Read) -> Vec<TarEntry> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(from).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut xattrs = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().unwrap() {
            for extension in extensions {
                let extension = extension.unwrap();
                if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        let path = trimmed(&entry.path_bytes());
        let link = entry.link_name_bytes().map(|link| link.into_owned());
        let header = entry.header();
        let kind = header.entry_type();
        let mut read = TarEntry {
            path,
            kind,
            mode: header.mode().unwrap() & 0o7777,
            uid: header.uid().unwrap().try_into().unwrap(),
            gid: header.gid().unwrap().try_into().unwrap(),
            mtime: header.mtime().unwrap().try_into().unwrap(),
            link: match kind {
                tar::EntryType::Link => trimmed(&link.unwrap_or_default()),
                _ => link.unwrap_or_default(),
            },
            device: match kind {
                tar::EntryType::Char | tar::EntryType::Block => (
                    header.device_major().unwrap().unwrap_or_default(),
                    header.device_minor().unwrap().unwrap_or_default(),
                ),
                _ => (0, 0),
            },
            names: (
                header.username().ok().flatten().unwrap_or_default().into(),
                header.groupname().ok().flatten().unwrap_or_default().into(),
            ),
            size: 0,
            digest: String::new(),
            content: None,
            xattrs,
        };
        if kind == tar::EntryType::Regular {
            (read.size, read.digest, read.content) = read_content(&mut entry);
        }
        entries.push(read);
    }
    entries
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path == b"." {
        Vec::new()
    } else {
        path.to_vec()
    }
}

fn read(layout: &mut dyn Layout, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    layout.open(path).read_to_end(&mut bytes).unwrap();
    bytes
}

fn blob_path(digest: &str) -> String {
    let hex = digest
        .strip_prefix("sha256:")
        .unwrap_or_else(|| panic!("digest `{digest}` is not sha256"));
    format!("blobs/sha256/{hex}")
}

/// Reads a small blob and checks digest and size.
fn blob(layout: &mut dyn Layout, descriptor: &Value) -> Vec<u8> {
    let digest = text(&descriptor["digest"]);
    let bytes = read(layout, &blob_path(&digest));
    assert_eq!(
        format!("sha256:{}", hex(&Sha256::digest(&bytes))),
        digest,
        "a blob is not what its descriptor says"
    );
    assert_eq!(Some(bytes.len() as u64), descriptor["size"].as_u64());
    bytes
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("no JSON: {error}\n{}", String::from_utf8_lossy(bytes)))
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a string: {value}"))
        .to_owned()
}
