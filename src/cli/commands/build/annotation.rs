//! Annotations of images: `--annotation [TYPE[PLATFORM]:]KEY=VALUE`, and the keys
//! `annotation[-TYPE[PLATFORM]].KEY` of `--output`.
//!
//! An image for one platform has a manifest and a descriptor of that; several have an index, too,
//! which other types speak of.

use std::collections::BTreeMap;

use crate::cli::error::Failure;
use crate::export::Packaging;
use crate::export::packaging::Notes;
use crate::platform::Platform;

/// Annotations by place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Annotations {
    manifest: BTreeMap<String, String>,
    descriptor: BTreeMap<String, String>,
    index: BTreeMap<String, String>,
    index_descriptor: BTreeMap<String, String>,
    /// For one platform of several.
    only: BTreeMap<String, Notes>,
}

/// Where an annotation is to stand, as written: `manifest[linux/amd64]`; empty for the usual place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place<'a>(&'a str);

impl Annotations {
    /// Reads all `--annotation`.
    pub(super) fn of_flags(texts: &[String], platforms: &[Platform]) -> Result<Self, Failure> {
        let mut all = Self::default();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Failure::user(format!("`--annotation {text}` has no value"))
                    .hint("write `--annotation KEY=VALUE`")
            })?;
            let (places, key) = key.split_once(':').unwrap_or(("", key));
            for place in places.split(',') {
                let one = Self::read(Place(place.trim()), key, value, platforms)?;
                all.extend(one);
            }
        }
        Ok(all)
    }

    fn extend(&mut self, other: Self) {
        self.manifest.extend(other.manifest);
        self.descriptor.extend(other.descriptor);
        self.index.extend(other.index);
        self.index_descriptor.extend(other.index_descriptor);
        for (platform, notes) in other.only {
            let own = self.only.entry(platform).or_default();
            own.manifest.extend(notes.manifest);
            own.descriptor.extend(notes.descriptor);
        }
    }

    /// One annotation at its place.
    pub(super) fn read(
        place: Place<'_>,
        key: &str,
        value: &str,
        platforms: &[Platform],
    ) -> Result<Self, Failure> {
        if key.is_empty() {
            return Err(Failure::user("an annotation has no key")
                .hint("write `--annotation KEY=VALUE` or `--output …,annotation.KEY=VALUE`"));
        }
        let (kind, only) = match place.0.split_once('[') {
            Some((kind, rest)) => (kind, Some(rest.strip_suffix(']').unwrap_or(rest))),
            None => (place.0, None),
        };
        let only = only.map(|only| one_of(only, key, platforms)).transpose()?;
        let one = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let mut all = Self::default();
        match (kind, only) {
            ("" | "manifest", None) => all.manifest = one,
            ("manifest-descriptor", None) => all.descriptor = one,
            ("" | "manifest", Some(platform)) => {
                all.only.entry(platform).or_default().manifest = one;
            }
            ("manifest-descriptor", Some(platform)) => {
                all.only.entry(platform).or_default().descriptor = one;
            }
            ("index" | "index-descriptor", _) if platforms.len() < 2 => {
                return Err(Failure::user(format!(
                    "the annotation `{key}` is for an index, which an image for one platform has \
                     not"
                ))
                .hint("leave the type out to annotate the manifest"));
            }
            ("index", _) => all.index = one,
            ("index-descriptor", _) => all.index_descriptor = one,
            (other, _) => {
                return Err(
                    Failure::user(format!("there is no annotation type `{other}`"))
                        .hint("it is manifest, manifest-descriptor, index or index-descriptor"),
                );
            }
        }
        Ok(all)
    }

    /// Adds them to a way of packing; one that this says itself is not replaced.
    pub(super) fn add_to(&self, packaging: &mut Packaging) {
        let add = |from: &BTreeMap<String, String>, to: &mut BTreeMap<String, String>| {
            for (key, value) in from {
                to.entry(key.clone()).or_insert_with(|| value.clone());
            }
        };
        add(&self.manifest, &mut packaging.annotations);
        add(&self.descriptor, &mut packaging.descriptor_annotations);
        add(&self.index, &mut packaging.index_annotations);
        add(
            &self.index_descriptor,
            &mut packaging.index_descriptor_annotations,
        );
        for (platform, notes) in &self.only {
            let own = packaging.only.entry(platform.clone()).or_default();
            add(&notes.manifest, &mut own.manifest);
            add(&notes.descriptor, &mut own.descriptor);
        }
    }
}

/// The name of the platform that `text` means, which must be one that the image is for.
fn one_of(text: &str, key: &str, platforms: &[Platform]) -> Result<String, Failure> {
    let wanted: Platform = text.parse().map_err(|error| {
        Failure::user(format!("the annotation `{key}` has a place for {error}"))
    })?;
    if platforms.contains(&wanted) {
        return Ok(wanted.to_string());
    }
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    Err(Failure::user(format!(
        "the annotation `{key}` is for {wanted}, but the image is for {}",
        names.join(", ")
    )))
}

/// Place and key of `annotation-PLACE.KEY`.
pub(super) fn place_of_key(written: &str) -> Result<(Place<'_>, &str), Failure> {
    let unknown = || {
        Failure::user(format!("`--output`: there is no key `{written}`"))
            .hint("annotations are written `annotation.KEY=VALUE`")
    };
    let rest = written.get("annotation".len()..).ok_or_else(unknown)?;
    // A platform may hold a dot; the place ends behind its bracket.
    let from = rest.find(']').unwrap_or(0);
    let dot = rest[from..].find('.').ok_or_else(unknown)? + from;
    let (place, key) = (&rest[..dot], &rest[dot + 1..]);
    let place = match place.strip_prefix('-') {
        Some(place) if !place.is_empty() => place,
        None if place.is_empty() => "",
        _ if place.starts_with('[') => place,
        _ => return Err(unknown()),
    };
    Ok((Place(place), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform::new("linux", "amd64", None)
    }

    fn flags(texts: &[&str]) -> Result<Packaging, String> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let annotations = Annotations::of_flags(&texts, &[platform()])
            .map_err(|failure| failure.message().to_owned())?;
        let mut packaging = Packaging::default();
        annotations.add_to(&mut packaging);
        Ok(packaging.for_platform(&platform()))
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn annotations_stand_where_their_type_says() {
        let packaging = flags(&[
            "a=1",
            "manifest:org.example.B=x=y",
            "manifest[linux/amd64],manifest-descriptor:c=2",
            "",
        ])
        .unwrap();
        assert_eq!(
            packaging.annotations,
            map(&[("a", "1"), ("org.example.B", "x=y"), ("c", "2")])
        );
        assert_eq!(packaging.descriptor_annotations, map(&[("c", "2")]));
        for (text, message) in [
            ("a", "`--annotation a` has no value"),
            ("=a", "an annotation has no key"),
            (
                "index:a=1",
                "the annotation `a` is for an index, which an image for one platform has not",
            ),
            ("layer:a=1", "there is no annotation type `layer`"),
            (
                "manifest[linux/arm64]:a=1",
                "the annotation `a` is for linux/arm64, but the image is for linux/amd64",
            ),
        ] {
            assert_eq!(flags(&[text]), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn keys_of_outputs_name_place_and_key() {
        for (text, place, key) in [
            ("annotation.a.b", "", "a.b"),
            ("annotation-manifest.a", "manifest", "a"),
            (
                "annotation-manifest[windows/amd64.1].a.b",
                "manifest[windows/amd64.1]",
                "a.b",
            ),
            ("annotation[linux/amd64].a", "[linux/amd64]", "a"),
            ("annotation-index-descriptor.a", "index-descriptor", "a"),
        ] {
            assert_eq!(place_of_key(text), Ok((Place(place), key)), "{text}");
        }
        for text in [
            "annotation",
            "annotations.a",
            "annotation-.a",
            "annotationx",
        ] {
            assert!(place_of_key(text).is_err(), "{text}");
        }
    }
}
