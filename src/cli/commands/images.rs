//! `rbuild images`.

use std::time::Duration;

use clap::Args;

use super::{Context, parse_reference};
use crate::cli::error::Failure;
use crate::cli::output;
use crate::cli::ui::format;
use crate::reference::Reference;
use crate::store::ImageRecord;
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

/// Lists the images of the store.
///
/// # Errors
/// When the store can't be read.
pub fn run(arguments: ImagesArguments, context: &Context) -> Result<(), Failure> {
    let filter = arguments.name.as_deref().map(Filter::new).transpose()?;
    let images = context.open_store()?.images()?;
    output::print(&render(
        &images,
        filter.as_ref(),
        &arguments,
        Timestamp::now(),
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
    images: &[(Vec<Reference>, ImageRecord)],
    filter: Option<&Filter>,
    arguments: &ImagesArguments,
    now: Timestamp,
) -> String {
    let mut rows = Vec::new();
    let mut ids: Vec<String> = Vec::new();
    for (names, image) in images {
        let id = if arguments.no_trunc {
            image.id.to_string()
        } else {
            image.id.hex().chars().take(12).collect()
        };
        let shown: Vec<&Reference> = names
            .iter()
            .filter(|name| filter.is_none_or(|filter| filter.matches(name)))
            .collect();
        if shown.is_empty() && (filter.is_some() || !names.is_empty()) {
            continue;
        }
        let mut lines: Vec<(String, String)> = shown
            .iter()
            .map(|name| {
                (
                    name.familiar_name(),
                    name.tag().unwrap_or("<none>").to_owned(),
                )
            })
            .collect();
        if lines.is_empty() {
            lines.push(("<none>".to_owned(), "<none>".to_owned()));
        }
        let age = image.created.map_or_else(
            || "unknown".to_owned(),
            |created| {
                let seconds = u64::try_from(now.seconds() - created.seconds()).unwrap_or(0);
                format!("{} ago", format::rough(Duration::from_secs(seconds)))
            },
        );
        for (name, tag) in lines {
            rows.push(vec![
                name,
                tag,
                id.clone(),
                age.clone(),
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
    use crate::digest::{Digest, ImageId};
    use crate::platform::Platform;

    fn listed(names: &[&str]) -> (Vec<Reference>, ImageRecord) {
        let image = ImageRecord {
            id: ImageId(Digest::of(names.join(" ").as_bytes())),
            layers: Vec::new(),
            platform: Platform::host(),
            created: Some(Timestamp::from_seconds(1_700_000_000)),
            size: 4_210_000,
        };
        (
            names.iter().map(|name| name.parse().unwrap()).collect(),
            image,
        )
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
