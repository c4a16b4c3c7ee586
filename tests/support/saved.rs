//! Reading what `docker save` wrote: many images in one archive, layers that they share once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::Image;
use super::image::{LayerTar, layer_of_tar};

/// Members of the archive: where their bytes are.
struct Members {
    file: File,
    places: BTreeMap<String, (u64, u64)>,
    links: BTreeMap<String, String>,
}

/// The images of an archive by their names.
pub(crate) fn saved_images(archive: &Path) -> BTreeMap<String, Image> {
    let mut members = Members::read(archive);
    let list: Value = serde_json::from_slice(&members.bytes("manifest.json")).unwrap();
    let mut layers: BTreeMap<String, LayerTar> = BTreeMap::new();
    let mut images = BTreeMap::new();
    for image in list.as_array().unwrap() {
        let config: Value =
            serde_json::from_slice(&members.bytes(image["Config"].as_str().unwrap())).unwrap();
        let mut read = Vec::new();
        for name in image["Layers"].as_array().into_iter().flatten() {
            let name = members.target(name.as_str().unwrap());
            if !layers.contains_key(&name) {
                layers.insert(name.clone(), layer_of_tar(members.open(&name)));
            }
            read.push(layers[&name].clone());
        }
        for tag in image["RepoTags"].as_array().into_iter().flatten() {
            let mut image = Image::of_config(config.clone());
            image.layers.clone_from(&read);
            let tag = tag.as_str().unwrap();
            images.insert(tag.trim_end_matches(":latest").to_owned(), image);
        }
    }
    images
}

impl Members {
    fn read(archive: &Path) -> Members {
        let mut file = File::open(archive).unwrap();
        let (mut places, mut links) = (BTreeMap::new(), BTreeMap::new());
        for entry in tar::Archive::new(&mut file).entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            if let Some(link) = entry.link_name().unwrap() {
                links.insert(name, link.to_str().unwrap().to_owned());
            } else {
                places.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Members {
            file,
            places,
            links,
        }
    }

    /// The member that has the bytes: a layer that several images share is there once, and
    /// `../ID/layer.tar` elsewhere.
    fn target(&self, name: &str) -> String {
        match self.links.get(name) {
            Some(link) => link.trim_start_matches("../").to_owned(),
            None => name.to_owned(),
        }
    }

    fn open(&mut self, name: &str) -> impl Read {
        let (offset, size) = self.places[name];
        self.file.seek(SeekFrom::Start(offset)).unwrap();
        (&mut self.file).take(size)
    }

    fn bytes(&mut self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.open(name).read_to_end(&mut bytes).unwrap();
        bytes
    }
}
