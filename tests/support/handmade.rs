//! Images put together by hand, with layers that no builder would write.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::tree::hex;

/// A layer's tar stream in the making.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    /// Adds an entry just as it is given: any path, any link, any owner.
    pub(crate) fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        link: &str,
        content: &[u8],
    ) -> Layer {
        let mut header = tar::Header::new_ustar();
        // Written past the checks of the library, which refuses paths like `../x`.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: &str) -> Layer {
        self.entry(path, tar::EntryType::Regular, mode, "", content.as_bytes())
    }

    pub(crate) fn folder(self, path: &str, mode: u32) -> Layer {
        self.entry(path, tar::EntryType::Directory, mode, "", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Layer {
        self.entry(path, tar::EntryType::Symlink, 0o777, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, existing: &str) -> Layer {
        self.entry(path, tar::EntryType::Link, 0o644, existing, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An archive as old versions of `docker save` wrote it, of one image with these layers.
pub(crate) fn docker_archive(name: &str, layers: impl IntoIterator<Item = Layer>) -> Vec<u8> {
    let layers: Vec<Vec<u8>> = layers.into_iter().map(Layer::bytes).collect();
    docker_archive_of(name, &layers, &layers)
}

/// The same with other layers than the config says.
pub(crate) fn damaged_archive(name: &str, said: Layer, held: Layer) -> Vec<u8> {
    docker_archive_of(name, &[said.bytes()], &[held.bytes()])
}

fn docker_archive_of(name: &str, said: &[Vec<u8>], held: &[Vec<u8>]) -> Vec<u8> {
    let sha256 = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let diff_ids: Vec<String> = said
        .iter()
        .map(|layer| format!("sha256:{}", sha256(layer)))
        .collect();
    let config = json!({
        "architecture": super::architecture(),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", sha256(&config));
    let paths: Vec<String> = (0..held.len()).map(|n| format!("{n}/layer.tar")).collect();
    let list = json!([{"Config": config_name, "RepoTags": [name], "Layers": paths}]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    for (path, layer) in paths.iter().zip(held) {
        add(path, layer);
    }
    add(&config_name, &config);
    add("manifest.json", list.to_string().as_bytes());
    archive.into_inner().unwrap()
}
