//! `rbuild save`.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::{Context, find_image, parse_reference};
use crate::build::{self, SavedArchive};
use crate::cli::error::Failure;
use crate::cli::ui::{Phase, ProgressMode};
use crate::digest::ImageId;
use crate::export::ArchiveFormat;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{ImageRecord, Store};

/// `--format`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// What Docker, Podman, containerd and skopeo load
    #[value(alias = "docker-archive")]
    Docker,
    /// An OCI image layout
    #[value(alias = "oci-archive")]
    Oci,
}

/// Options of `rbuild save`.
#[derive(Args, Debug)]
pub struct SaveArguments {
    /// The images: names, ids or their beginnings; a name without a tag means all its tags
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,

    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The kind of archive: docker, which every tool loads, or oci
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "docker",
        hide_possible_values = true
    )]
    format: Format,

    /// Save only images for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<Platform>,
}

/// Writes images with their names into one archive.
///
/// # Errors
/// When an image isn't there, or the archive can't be written.
pub async fn run(arguments: SaveArguments, context: &Context) -> Result<(), Failure> {
    let dest = arguments.output.unwrap_or_else(|| "-".into());
    if dest == Path::new("-") && io::stdout().is_terminal() {
        return Err(Failure::user("an archive is not written to a terminal")
            .hint("name a file with `-o FILE`, or redirect standard output"));
    }
    let environment = context.build_environment(None)?;
    let store = &environment.store;
    let mut images: Vec<(Vec<ImageId>, Vec<Reference>)> = Vec::new();
    for text in &arguments.images {
        for (id, name) in named(store, text)? {
            let ids = variants(store, id, name.as_ref(), &arguments.platform)?;
            add(&mut images, ids, name);
        }
    }
    let archive = SavedArchive {
        images,
        format: match arguments.format {
            Format::Docker => ArchiveFormat::Docker,
            Format::Oci => ArchiveFormat::Oci,
        },
        dest,
    };
    // Docker's command shows nothing, and standard output may be the archive.
    let progress = context.progress(ProgressMode::Quiet, Phase::Saving)?;
    let saved = build::save(archive, &environment, progress.sink()).await;
    progress.finish();
    saved.map_err(|error| Failure::of_build(error, context.style))
}

/// The images that a word means, each with the name that it is asked for by.
fn named(store: &Store, text: &str) -> Result<Vec<(ImageId, Option<Reference>)>, Failure> {
    let is_name_only = |reference: &Reference| {
        let last = text.rsplit('/').next().unwrap_or(text);
        reference.digest().is_none() && !last.contains(':')
    };
    if let Ok(reference) = parse_reference(text)
        && is_name_only(&reference)
    {
        let mut all: Vec<_> = tags_of(&store.images()?, &reference);
        // Of variants, the one that stands for all.
        let stands = |(id, name): &(ImageId, Option<Reference>)| match name {
            Some(name) => Ok::<bool, Failure>(store.resolve(name)? == Some(*id)),
            None => Ok(true),
        };
        let standing = all.iter().map(stands).collect::<Result<Vec<_>, _>>()?;
        let mut standing = standing.into_iter();
        all.retain(|_| standing.next().unwrap_or(true));
        if !all.is_empty() {
            return Ok(all);
        }
    }
    let id = find_image(store, text)?;
    let name = parse_reference(text).ok();
    let is_its_name = |name: &Reference| store.resolve(name).is_ok_and(|found| found == Some(id));
    Ok(vec![(id, name.filter(is_its_name))])
}

/// All tags of a repository, in their order.
fn tags_of(
    images: &[(Vec<Reference>, ImageRecord)],
    repository: &Reference,
) -> Vec<(ImageId, Option<Reference>)> {
    let mut all: Vec<(ImageId, Option<Reference>)> = Vec::new();
    for (names, image) in images {
        let of_repository = names.iter().filter(|name| name.name() == repository.name());
        all.extend(of_repository.map(|name| (image.id, Some(name.clone()))));
    }
    all.sort_by_key(|(_, name)| name.as_ref().map(ToString::to_string));
    all
}

/// Adds a name of an image; the same image is written once.
fn add(
    images: &mut Vec<(Vec<ImageId>, Vec<Reference>)>,
    ids: Vec<ImageId>,
    name: Option<Reference>,
) {
    let known = images.iter().position(|(known, _)| *known == ids);
    let at = known.unwrap_or_else(|| {
        images.push((ids, Vec::new()));
        images.len() - 1
    });
    images[at].1.extend(name);
    let mut seen = Vec::new();
    images[at].1.retain(|name| {
        let is_new = !seen.contains(name);
        seen.push(name.clone());
        is_new
    });
}

/// The image, or what it is one of for several platforms, as far as those are wanted.
fn variants(
    store: &Store,
    id: ImageId,
    name: Option<&Reference>,
    wanted: &[Platform],
) -> Result<Vec<ImageId>, Failure> {
    let mut all = match name {
        Some(name) => store.variants(name)?,
        None => Vec::new(),
    };
    if all.is_empty() {
        all.push(id);
    }
    let mut fitting = Vec::with_capacity(all.len());
    let mut platforms = Vec::new();
    for one in all {
        let Some(image) = store.image(&one)? else {
            continue;
        };
        if wanted.is_empty() || wanted.iter().any(|one| one.accepts(&image.platform)) {
            fitting.push(one);
        }
        platforms.push(image.platform.to_string());
    }
    if !fitting.is_empty() {
        return Ok(fitting);
    }
    let short: String = id.hex().chars().take(12).collect();
    Err(Failure::user(format!(
        "the image {short} is for {}, not for {}",
        platforms.join(", "),
        wanted
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{BlobDigest, Digest};

    fn store(images: &[&[&str]]) -> (tempfile::TempDir, Store, Vec<ImageId>) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).unwrap();
        let ids = images.iter().enumerate().map(|(n, names)| {
            let BlobDigest(digest) = store.put_blob(format!("{{\"n\":{n}}}").as_bytes()).unwrap();
            let id = ImageId(digest);
            let record = ImageRecord {
                id,
                layers: Vec::new(),
                platform: Platform::new("linux", "amd64", None),
                created: None,
                size: 0,
            };
            store.put_image(&record).unwrap();
            for name in *names {
                store.tag(&name.parse().unwrap(), &id).unwrap();
            }
            id
        });
        let ids = ids.collect();
        (root, store, ids)
    }

    #[test]
    fn a_word_means_a_tag_a_repository_or_an_id() {
        let (_root, store, ids) = store(&[
            &["docker.io/library/app:2", "docker.io/library/app:latest"],
            &["docker.io/library/app:1", "example.org:5000/app:1"],
        ]);
        let meant = |text: &str| -> Vec<(ImageId, String)> {
            let meant = named(&store, text).unwrap().into_iter();
            meant
                .map(|(id, name)| (id, name.map_or_else(String::new, |name| name.familiar())))
                .collect()
        };
        let [two, one] = [ids[0], ids[1]];
        assert_eq!(
            meant("app"),
            [
                (one, "app:1".to_owned()),
                (two, "app:2".to_owned()),
                (two, "app:latest".to_owned())
            ]
        );
        assert_eq!(meant("app:2"), [(two, "app:2".to_owned())]);
        let remote = "example.org:5000/app:1".to_owned();
        assert_eq!(meant("example.org:5000/app"), [(one, remote)]);
        assert_eq!(meant(&one.to_string()), [(one, String::new())]);
        assert_eq!(meant(&two.hex()[..12]), [(two, String::new())]);
        assert!(named(&store, "other").is_err());
        assert!(named(&store, "app:3").is_err());
    }

    #[test]
    fn an_image_is_written_once_with_each_name_once() {
        let id = ImageId(Digest::of(b"a"));
        let name = |text: &str| Some(text.parse::<Reference>().unwrap());
        let mut images = Vec::new();
        for name in [name("a:1"), None, name("a:2"), name("a:1")] {
            add(&mut images, vec![id], name);
        }
        assert_eq!(
            images,
            [(
                vec![id],
                vec!["a:1".parse().unwrap(), "a:2".parse::<Reference>().unwrap()]
            )]
        );
    }

    #[test]
    fn an_image_for_another_platform_is_refused() {
        let (_root, store, ids) = store(&[&[]]);
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let variants = |wanted: &[Platform]| variants(&store, ids[0], None, wanted);
        assert_eq!(variants(&[]), Ok(vec![ids[0]]));
        let wanted = [platform("linux/arm64"), platform("linux/amd64")];
        assert_eq!(variants(&wanted), Ok(vec![ids[0]]));
        let failure = variants(&wanted[..1]).unwrap_err();
        assert!(
            failure
                .message()
                .ends_with("is for linux/amd64, not for linux/arm64"),
            "{}",
            failure.message()
        );
    }
}
