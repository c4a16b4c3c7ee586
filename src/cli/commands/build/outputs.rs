//! `--output` and `--annotation`, as buildx writes them.
//!
//! A key that asks for something that rbuild doesn't have is refused by name, whatever its type.

use std::path::PathBuf;

use super::annotation::{self, Annotations};
use super::values::{fields, truth};
use crate::build::{Output, OutputTarget};
use crate::cli::commands::parse_reference;
use crate::cli::error::Failure;
use crate::export::{ArchiveFormat, MediaTypes, Packaging};
use crate::layer::compression::Compression;
use crate::platform::Platform;
use crate::reference::Reference;

const FLAG: &str = "--output";

/// One `--output`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OutputValue {
    /// Where to.
    pub(super) kind: Kind,
    /// `name=`.
    pub(super) names: Vec<Reference>,
    /// How the image is packed.
    pub(super) packaging: Packaging,
    /// `rewrite-timestamp=`; plain files have none.
    pub(super) rewrite_timestamp: Option<bool>,
    /// `platform-split=`.
    pub(super) platform_split: Option<bool>,
}

/// What an output is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `type=image` and `type=registry`.
    Image {
        /// `push=true`.
        push: bool,
        /// `push-by-digest=true`.
        by_digest: bool,
    },
    /// `type=docker` without a file: a container engine.
    Engine,
    /// `type=cacheonly`: nothing but what the build leaves in the cache.
    Nothing,
    /// Everything that is a file or a folder.
    Written(OutputTarget),
}

impl OutputValue {
    /// An image for the store, packed as usual but for the annotations.
    pub(super) fn image(packaging: Packaging, push: bool) -> Self {
        Self {
            kind: Kind::Image {
                push,
                by_digest: false,
            },
            names: Vec::new(),
            packaging,
            rewrite_timestamp: None,
            platform_split: None,
        }
    }

    /// The outputs that it amounts to, but for that to a container engine.
    pub(super) fn outputs(&self) -> Vec<Output> {
        let targets = match &self.kind {
            Kind::Image { push, by_digest } => {
                let by_digest = *by_digest;
                let registry = push.then_some(OutputTarget::Registry { by_digest });
                [OutputTarget::Store].into_iter().chain(registry).collect()
            }
            Kind::Engine | Kind::Nothing => Vec::new(),
            Kind::Written(target) => vec![target.clone()],
        };
        let output = |target| self.to(target);
        targets.into_iter().map(output).collect()
    }

    /// The same image to another place.
    pub(super) fn to(&self, target: OutputTarget) -> Output {
        Output {
            target,
            names: self.names.clone(),
            packaging: self.packaging.clone(),
            platform_split: self.platform_split,
        }
    }
}

/// What is known before an output is read.
pub(super) struct Around<'a> {
    /// Whether standard output is a terminal.
    pub(super) stdout_is_terminal: bool,
    /// What the image runs on: at least one.
    pub(super) platforms: &'a [Platform],
    /// `--annotation`.
    pub(super) annotations: &'a Annotations,
}

/// Reads one `--output`.
pub(super) fn output(text: &str, around: &Around<'_>) -> Result<OutputValue, Failure> {
    let fields = fields(FLAG, text)?;
    if let [alone] = fields.as_slice()
        && alone == text
        && !text.contains('=')
    {
        return Reading::new(if text == "-" { "tar" } else { "local" }, around)
            .with_dest(text)
            .value();
    }
    let mut pairs = Vec::with_capacity(fields.len());
    for field in &fields {
        let pair = field
            .split_once('=')
            .ok_or_else(|| Failure::user(format!("`{FLAG}`: `{field}` is not key=value")))?;
        pairs.push(pair);
    }
    let is_type = |(key, _): &&(&str, &str)| key.trim().eq_ignore_ascii_case("type");
    let kind = pairs.iter().find(is_type).map(|(_, kind)| *kind);
    let kind = kind.filter(|kind| !kind.is_empty()).ok_or_else(|| {
        Failure::user(format!("`{FLAG} {text}` has no type"))
            .hint("it is one of image, registry, oci, docker, local, tar, cacheonly")
    })?;
    let mut reading = Reading::new(kind, around);
    for (key, value) in pairs {
        reading.take(key.trim(), value)?;
    }
    reading.value()
}

/// An output that is being read.
struct Reading<'a> {
    kind: &'a str,
    around: &'a Around<'a>,
    dest: Option<String>,
    tar: bool,
    push: bool,
    by_digest: bool,
    names: Vec<Reference>,
    packaging: Packaging,
    level: Option<u32>,
    rewrite_timestamp: bool,
    platform_split: Option<bool>,
}

impl<'a> Reading<'a> {
    fn new(kind: &'a str, around: &'a Around<'a>) -> Self {
        Self {
            kind,
            around,
            dest: None,
            tar: true,
            push: kind == "registry",
            by_digest: false,
            names: Vec::new(),
            packaging: Packaging::default(),
            level: None,
            rewrite_timestamp: false,
            platform_split: None,
        }
    }

    fn with_dest(mut self, dest: &str) -> Self {
        self.dest = Some(dest.to_owned());
        self
    }

    fn is_image(&self) -> bool {
        matches!(self.kind, "image" | "registry" | "oci" | "docker")
    }

    fn take(&mut self, written: &str, value: &str) -> Result<(), Failure> {
        let key = written.to_ascii_lowercase();
        // As in BuildKit, a switch with an empty value is on.
        let is_on = || match value {
            "" => Ok(true),
            value => truth(FLAG, &key, value),
        };
        match (self.kind, key.as_str()) {
            (_, "type") => {}
            ("oci" | "docker" | "local" | "tar", "dest") => self.dest = Some(value.to_owned()),
            ("oci", "tar") => self.tar = is_on()?,
            ("docker", "tar") if is_on()? => {}
            ("image" | "registry", "push") => self.push = is_on()?,
            ("image" | "registry", "push-by-digest") => self.by_digest = is_on()?,
            // The image is in the store anyway, as are the blobs that it is made of.
            ("image" | "registry", "store") if is_on()? => {}
            ("image" | "registry", "unpack" | "name-canonical" | "registry.insecure")
                if !is_on()? => {}
            ("local" | "tar", "platform-split") => {
                let split = is_on()?;
                if !split && self.around.platforms.len() > 1 {
                    return Err(Failure::user(
                        "`platform-split=false` would mix the files of several platforms",
                    )
                    .hint("leave it out: each platform gets a folder of its own"));
                }
                self.platform_split = Some(split);
            }
            ("local", "mode") if value == "copy" => {}
            (_, "name") if self.is_image() => self.names.extend(names(value)?),
            (_, "rewrite-timestamp") if self.is_image() => self.rewrite_timestamp = is_on()?,
            (_, "oci-mediatypes") if self.is_image() => {
                self.packaging.media_types = match is_on()? {
                    true => MediaTypes::Oci,
                    false => MediaTypes::Docker,
                };
            }
            (_, "compression") if self.is_image() => {
                self.packaging.compression = compression(value)?;
            }
            (_, "compression-level") if self.is_image() => {
                let level = value.parse().map_err(|_| {
                    Failure::user(format!("`{FLAG}`: `{key}` is a number, not `{value}`"))
                })?;
                self.level = Some(level);
            }
            (_, "force-compression") if self.is_image() => {
                self.packaging.force_compression = is_on()?;
            }
            (_, "oci-artifact" | "attestation-inline" | "prefer-nondist-layers")
                if self.is_image() && !is_on()? => {}
            _ if self.is_image() && key.starts_with("annotation") => {
                // Keys of annotations keep their case.
                let (place, name) = annotation::place_of_key(written)?;
                let platforms = self.around.platforms;
                Annotations::read(place, name, value, platforms)?.add_to(&mut self.packaging);
            }
            _ => return Err(self.refuse(written, value)),
        }
        Ok(())
    }

    fn refuse(&self, key: &str, value: &str) -> Failure {
        let kind = self.kind;
        if !matches!(
            kind,
            "image" | "registry" | "oci" | "docker" | "local" | "tar" | "cacheonly"
        ) {
            return unknown_type(kind);
        }
        let failure = Failure::user(format!(
            "rbuild does not support `{key}={value}` in `{FLAG} type={kind}`"
        ));
        failure.hint(match key {
            "registry.insecure" => "name the registry with `--insecure-registry HOST`",
            "store" => "without an image in the store, write an archive: `type=oci,dest=FILE`",
            "dangling-name-prefix" | "name-canonical" => {
                "an image in rbuild's store has a name and a tag, or none: give it one with `-t`"
            }
            "unpack" => "rbuild unpacks layers when a step needs them",
            "source-date-epoch" => "set SOURCE_DATE_EPOCH in the environment",
            "dest" => "it is written to no file: see `type=oci` and `type=docker`",
            _ if self.is_image() => {
                "it takes name, rewrite-timestamp, oci-mediatypes, compression, compression-level, \
                 force-compression and annotation.KEY; image also push and push-by-digest, oci and \
                 docker also dest, oci also tar"
            }
            _ if kind == "cacheonly" => "it writes nothing",
            _ => "it takes dest and platform-split",
        })
    }

    fn value(mut self) -> Result<OutputValue, Failure> {
        if self.kind == "docker" && self.around.platforms.len() > 1 {
            return Err(several_for_docker());
        }
        let kind = match self.kind {
            "image" | "registry" => Kind::Image {
                push: self.push,
                by_digest: self.by_digest,
            },
            "docker" if self.dest.as_deref().is_none_or(str::is_empty) => Kind::Engine,
            "docker" => self.archive(ArchiveFormat::Docker)?,
            "cacheonly" => Kind::Nothing,
            "oci" if self.tar => self.archive(ArchiveFormat::Oci)?,
            "oci" => Kind::Written(OutputTarget::Layout {
                dest: self.folder("type=oci,tar=false")?,
            }),
            "tar" => Kind::Written(OutputTarget::Tar { dest: self.file()? }),
            "local" => Kind::Written(OutputTarget::Folder {
                dest: self.folder("type=local")?,
            }),
            other => return Err(unknown_type(other)),
        };
        if self.by_digest && !self.push {
            return Err(
                Failure::user("`push-by-digest=true` needs `push=true`").hint("or `type=registry`")
            );
        }
        if self.is_image() {
            self.around.annotations.add_to(&mut self.packaging);
            self.packaging.level = level(self.packaging.compression, self.level)?;
            check(&self.packaging)?;
        }
        Ok(OutputValue {
            rewrite_timestamp: self.is_image().then_some(self.rewrite_timestamp),
            kind,
            names: self.names,
            packaging: self.packaging,
            platform_split: self.platform_split,
        })
    }

    fn archive(&self, format: ArchiveFormat) -> Result<Kind, Failure> {
        let dest = self.file()?;
        Ok(Kind::Written(OutputTarget::Archive { format, dest }))
    }

    /// The file, or standard output where none is named.
    fn file(&self) -> Result<PathBuf, Failure> {
        let dest = self.dest.as_deref().filter(|dest| !dest.is_empty());
        let dest = dest.unwrap_or("-");
        if dest == "-" && self.around.stdout_is_terminal {
            return Err(Failure::user("an archive is not written to a terminal")
                .hint("add `dest=FILE`, or redirect standard output"));
        }
        Ok(dest.into())
    }

    fn folder(&self, what: &str) -> Result<PathBuf, Failure> {
        let dest = self.dest.as_deref().filter(|dest| !dest.is_empty());
        match dest {
            Some(dest) if dest != "-" => Ok(dest.into()),
            _ => {
                Err(Failure::user(format!("`{FLAG} {what}` needs a folder"))
                    .hint("add `dest=FOLDER`"))
            }
        }
    }
}

/// Docker's own archives, and engines that are handed one, take one image.
pub(super) fn several_for_docker() -> Failure {
    Failure::user("docker exporter does not currently support exporting manifest lists")
        .hint("build each platform by itself, or write `--output type=oci,dest=FILE`")
}

/// What can't go together in one manifest.
pub(super) fn check(packaging: &Packaging) -> Result<(), Failure> {
    if packaging.media_types == MediaTypes::Oci {
        return Ok(());
    }
    let refuse = |what: &str| {
        Err(Failure::user(format!(
            "`oci-mediatypes=false` and {what} contradict each other"
        ))
        .hint("Docker's own formats have no place for it"))
    };
    if packaging.compression == Compression::Zstd {
        return refuse("`compression=zstd`");
    }
    if !packaging.annotations.is_empty() {
        return refuse("annotations");
    }
    Ok(())
}

fn compression(value: &str) -> Result<Compression, Failure> {
    match value {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::None),
        _ => Err(
            Failure::user(format!("rbuild does not support `compression={value}`"))
                .hint("it is one of gzip, zstd, uncompressed"),
        ),
    }
}

fn level(compression: Compression, level: Option<u32>) -> Result<Option<u32>, Failure> {
    let most = match compression {
        Compression::None => 0,
        Compression::Gzip => 9,
        Compression::Zstd => 22,
    };
    match (compression, level) {
        (_, None) | (Compression::Zstd, Some(0)) => Ok(None),
        (Compression::None, Some(_)) => Err(Failure::user(
            "`compression-level` means nothing with `compression=uncompressed`",
        )),
        (_, Some(level)) if level <= most => Ok(Some(level)),
        (_, Some(level)) => Err(
            Failure::user(format!("`compression-level={level}` is too high"))
                .hint(format!("the highest is {most}")),
        ),
    }
}

fn names(list: &str) -> Result<Vec<Reference>, Failure> {
    let names = list.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(|name| {
            let reference = parse_reference(name)?;
            if reference.digest().is_some() {
                return Err(Failure::user(format!(
                    "can't name an image `{name}`: its digest isn't known yet"
                ))
                .hint("leave `@sha256:…` out"));
            }
            Ok(reference)
        })
        .collect()
}

fn unknown_type(kind: &str) -> Failure {
    Failure::user(format!("`{FLAG}`: there is no type `{kind}`"))
        .hint("it is one of image, registry, oci, docker, local, tar, cacheonly")
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
