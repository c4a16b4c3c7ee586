//! `rbuild images`.

use std::time::Duration;

use clap::Args;

use super::{Context, parse_reference};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::ui::format;
use crate::digest::ImageId;
use crate::reference::Reference;
use crate::time::Timestamp;

/// Options of `rbuild images`.
#[derive(Args, Debug)]
#[command(visible_alias = "image ls")]
pub struct ImagesArguments {
    /// Only images of this name: NAME[:TAG]
    name: Option<String>,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,

    /// Docker's flag for intermediate images, which rbuild never lists
    #[arg(short, long, hide = true)]
    all: bool,
}

/// One image of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its id.
    pub id: ImageId,
    /// Its names; none where it has lost them all.
    pub names: Vec<Reference>,
    /// When it was made.
    pub created: Timestamp,
    /// Size of its layers in bytes, uncompressed.
    pub size: u64,
}

/// Lists the images of the store.
///
/// # Errors
/// When the store can't be read.
pub async fn run(arguments: ImagesArguments, context: &Context) -> Result<(), Failure> {
    let filter = arguments.name.as_deref().map(Filter::new).transpose()?;
    let images = list(context)?;
    output::print(&render(
        &images,
        filter.as_ref(),
        &arguments,
        Timestamp::now(),
    ))
}

/// Reads the images of the store, newest first.
fn list(_context: &Context) -> Result<Vec<Listed>, Failure> {
    Err(Failure::internal(
        "this version of rbuild can't list images yet",
    ))
}

/// Which names are shown.
struct Filter {
    name: String,
    tag: Option<String>,
}

impl Filter {
    fn new(text: &str) -> Result<Self, Failure> {
        let reference = parse_reference(text)?;
        // `alpine` means every tag, although its reference says `latest`.
        let has_tag = text
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
        Ok(Self {
            name: reference.name(),
            tag: reference.tag().filter(|_| has_tag).map(str::to_owned),
        })
    }

    fn matches(&self, reference: &Reference) -> bool {
        reference.name() == self.name
            && self
                .tag
                .as_deref()
                .is_none_or(|tag| reference.tag() == Some(tag))
    }
}

fn render(
    images: &[Listed],
    filter: Option<&Filter>,
    arguments: &ImagesArguments,
    now: Timestamp,
) -> String {
    let mut rows = Vec::new();
    let mut ids: Vec<String> = Vec::new();
    for image in images {
        let id = if arguments.no_trunc {
            image.id.to_string()
        } else {
            image.id.hex().chars().take(12).collect()
        };
        let shown: Vec<&Reference> = image
            .names
            .iter()
            .filter(|name| filter.is_none_or(|filter| filter.matches(name)))
            .collect();
        if shown.is_empty() && (filter.is_some() || !image.names.is_empty()) {
            continue;
        }
        let mut names: Vec<(String, String)> = shown
            .iter()
            .map(|name| {
                (
                    name.familiar_name(),
                    name.tag().unwrap_or("<none>").to_owned(),
                )
            })
            .collect();
        if names.is_empty() {
            names.push(("<none>".to_owned(), "<none>".to_owned()));
        }
        let age = Duration::from_secs(
            u64::try_from(now.seconds() - image.created.seconds()).unwrap_or(0),
        );
        for (name, tag) in names {
            rows.push(vec![
                name,
                tag,
                id.clone(),
                format!("{} ago", format::rough(age)),
                format::bytes(image.size),
            ]);
        }
        ids.push(id);
    }
    if arguments.quiet {
        return ids.iter().map(|id| format!("{id}\n")).collect();
    }
    output::table(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn listed(names: &[&str]) -> Listed {
        Listed {
            id: ImageId(Digest::of(names.join(" ").as_bytes())),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            created: Timestamp::from_seconds(1_700_000_000),
            size: 4_210_000,
        }
    }

    fn shown(filter: Option<&str>, quiet: bool, no_trunc: bool) -> String {
        let arguments = ImagesArguments {
            name: None,
            quiet,
            no_trunc,
            all: false,
        };
        let filter = filter.map(|text| Filter::new(text).unwrap());
        let images = [
            listed(&["alpine:3.20", "localhost:5000/base:v1"]),
            listed(&["alpine:latest"]),
            listed(&[]),
        ];
        render(
            &images,
            filter.as_ref(),
            &arguments,
            Timestamp::from_seconds(1_700_000_000 + 3 * 86_400),
        )
    }

    #[test]
    fn every_name_has_a_line() {
        let ids: Vec<String> = ["alpine:3.20 localhost:5000/base:v1", "alpine:latest", ""]
            .iter()
            .map(|text| Digest::of(text.as_bytes()).hex()[..12].to_owned())
            .collect();
        assert_eq!(
            shown(None, false, false),
            format!(
                "REPOSITORY            TAG      IMAGE ID       CREATED      SIZE\n\
                 alpine                3.20     {}   3 days ago   4.21MB\n\
                 localhost:5000/base   v1       {}   3 days ago   4.21MB\n\
                 alpine                latest   {}   3 days ago   4.21MB\n\
                 <none>                <none>   {}   3 days ago   4.21MB\n",
                ids[0], ids[0], ids[1], ids[2]
            )
        );
        assert_eq!(
            shown(None, true, false),
            format!("{}\n{}\n{}\n", ids[0], ids[1], ids[2])
        );
    }

    #[test]
    fn a_name_means_all_its_tags() {
        assert_eq!(shown(Some("alpine"), false, false).lines().count(), 3);
        assert_eq!(shown(Some("alpine:3.20"), false, false).lines().count(), 2);
        assert_eq!(
            shown(Some("localhost:5000/base"), false, false)
                .lines()
                .count(),
            2
        );
        assert_eq!(shown(Some("nothing"), true, false), "");
        assert!(shown(Some("alpine:3.20"), true, true).starts_with("sha256:"));
    }
}
