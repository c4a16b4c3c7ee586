//! `rbuild images`.

use clap::Args;
use serde_json::{Value, json};

use super::history::ago;
use super::inspect::read_image;
use super::{Context, find_image, parse_reference};
use crate::cli::error::Failure;
use crate::cli::filter::Filter;
use crate::cli::output;
use crate::cli::spelling::parse_bool;
use crate::cli::template::Format;
use crate::cli::ui::format;
use crate::ignore::glob::glob_match;
use crate::reference::Reference;
use crate::store::{ImageRecord, LayerId, Store};
use crate::time::Timestamp;

/// Options of `rbuild images`.
#[derive(Args, Debug, Default)]
#[command(visible_alias = "image ls")]
pub struct ImagesArguments {
    /// Only images of this name: NAME[:TAG], or a pattern such as 'team/*'
    name: Option<String>,

    /// Only some: dangling=true, label=NAME[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE, until=24h
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,

    /// Print rows as a template says: 'table {{.Repository}}\t{{.Size}}', '{{.ID}}' or json
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Format>,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,

    /// Show the digests under which registries have the images
    #[arg(long)]
    digests: bool,

    /// Docker's flag for intermediate images, which rbuild never lists
    #[arg(short, long, hide = true)]
    all: bool,
}

/// Lists the images of the store.
///
/// # Errors
/// When the store can't be read, or a filter can't be understood.
pub fn run(arguments: ImagesArguments, context: &Context) -> Result<(), Failure> {
    let wanted = Wanted::new(&arguments)?;
    let store = context.open_store()?;
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for (names, image) in store.images()? {
        if is_wanted(&store, &names, &image, &arguments.filter, now)? {
            let listed = Listed {
                digests: store.manifests(&image.id)?,
                size: size(&store, &image)?,
                names,
                image,
            };
            rows.extend(listed.rows(&wanted, &arguments, now));
        }
    }
    output::print(&render(&rows, &arguments)?)
}

/// Which names are shown: an image that has others, too, is listed under these only, so that what
/// a script then removes is what it asked for.
struct Wanted {
    name: Option<NameFilter>,
    /// Those of `reference=`, one of which a name has to match.
    patterns: Vec<String>,
}

impl Wanted {
    fn new(arguments: &ImagesArguments) -> Result<Self, Failure> {
        let references = arguments.filter.iter().filter(|f| f.name == "reference");
        Ok(Self {
            name: arguments.name.as_deref().map(NameFilter::new).transpose()?,
            patterns: references.map(|filter| filter.value.clone()).collect(),
        })
    }

    fn takes_all(&self) -> bool {
        self.name.is_none() && self.patterns.is_empty()
    }

    fn takes(&self, name: &Reference) -> bool {
        let is_of_a_pattern = |pattern: &String| is_named(name, pattern);
        self.name.as_ref().is_none_or(|filter| filter.takes(name))
            && (self.patterns.is_empty() || self.patterns.iter().any(is_of_a_pattern))
    }
}

/// The name that is asked for.
enum NameFilter {
    Name { name: String, tag: Option<String> },
    Pattern(String),
}

impl NameFilter {
    fn new(text: &str) -> Result<Self, Failure> {
        if text.contains(['*', '?', '[']) {
            return Ok(Self::Pattern(text.to_owned()));
        }
        let reference = parse_reference(text)?;
        // `alpine` means every tag, although its reference says `latest`.
        let has_tag = text
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
        Ok(Self::Name {
            name: reference.name(),
            tag: reference.tag().filter(|_| has_tag).map(str::to_owned),
        })
    }

    fn takes(&self, reference: &Reference) -> bool {
        match self {
            Self::Pattern(pattern) => is_named(reference, pattern),
            Self::Name { name, tag } => {
                reference.name() == *name
                    && tag
                        .as_deref()
                        .is_none_or(|tag| reference.tag() == Some(tag))
            }
        }
    }
}

/// Whether every filter takes the image.
fn is_wanted(
    store: &Store,
    names: &[Reference],
    image: &ImageRecord,
    filters: &[Filter],
    now: Timestamp,
) -> Result<bool, Failure> {
    const KNOWN: &str = "dangling, label, reference, before, since, until";
    let created = |name: &str| -> Result<Option<Timestamp>, Failure> {
        Ok(read_image(store, &find_image(store, name)?)?.2.created)
    };
    for filter in filters {
        let takes = match filter.name.as_str() {
            "dangling" => {
                let wanted = parse_bool(&filter.value);
                let wanted = wanted.ok_or_else(|| filter.invalid("true or false"))?;
                names.is_empty() == wanted
            }
            "label" => {
                let labels = read_image(store, &image.id)?.2.config.labels;
                match filter.value.split_once('=') {
                    Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
                    None => labels.contains_key(&filter.value),
                }
            }
            // It chooses among the names: see `Wanted`.
            "reference" => true,
            "before" => image.created < created(&filter.value)?,
            "since" => image.created > created(&filter.value)?,
            "until" => image.created < Some(filter.time(now)?),
            _ => return Err(filter.unknown(KNOWN)),
        };
        if !takes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a name, with or without its tag, is as the pattern says.
fn is_named(name: &Reference, pattern: &str) -> bool {
    let matches = |text: String| glob_match(pattern.as_bytes(), text.as_bytes()).unwrap_or(false);
    matches(name.familiar()) || matches(name.familiar_name())
}

/// The size of an image in bytes: of its plain layers where that is known, else of what a
/// registry sends.
pub(super) fn size(store: &Store, image: &ImageRecord) -> Result<u64, Failure> {
    let mut size = 0_u64;
    for layer in &image.layers {
        size = size.saturating_add(layer_size(store, *layer)?);
    }
    Ok(size)
}

/// The same of one layer.
pub(super) fn layer_size(store: &Store, layer: LayerId) -> Result<u64, Failure> {
    let Some(layer) = store.layer(layer)? else {
        return Ok(0);
    };
    if let Some(size) = layer.size {
        return Ok(size);
    }
    let compressed = match layer.diff_id {
        Some(diff_id) => store.compressed_blobs(&diff_id)?,
        None => Vec::new(),
    };
    Ok(compressed.first().map_or(0, |blob| blob.size))
}

/// An image that is listed.
struct Listed {
    names: Vec<Reference>,
    digests: Vec<Reference>,
    image: ImageRecord,
    size: u64,
}

impl Listed {
    /// A row for each name that is wanted; one without a name where it has none.
    fn rows(&self, wanted: &Wanted, arguments: &ImagesArguments, now: Timestamp) -> Vec<Value> {
        let names = self.names.iter().filter(|name| wanted.takes(name));
        let names = names.map(Some);
        let unnamed = (self.names.is_empty() && wanted.takes_all()).then_some(None);
        let row = |name: Option<&Reference>| {
            let same_name = |digest: &&Reference| name.is_some_and(|n| n.name() == digest.name());
            let digest = self.digests.iter().find(same_name);
            let digest = digest.and_then(|digest| digest.digest());
            let none = || "<none>".to_owned();
            json!({
                "ID": match arguments.no_trunc {
                    true => self.image.id.to_string(),
                    false => self.image.id.hex().chars().take(12).collect(),
                },
                "Repository": name.map_or_else(none, Reference::familiar_name),
                "Tag": name.and_then(Reference::tag).map_or_else(none, str::to_owned),
                "Digest": digest.map_or_else(none, ToString::to_string),
                "CreatedSince": self
                    .image
                    .created
                    .map_or_else(|| "unknown".to_owned(), |time| ago(time, now)),
                "CreatedAt": self.image.created.map_or_else(|| "unknown".to_owned(), docker_time),
                "Size": format::bytes(self.size),
                "VirtualSize": format::bytes(self.size),
                "SharedSize": "N/A",
                "UniqueSize": "N/A",
                "Containers": "N/A",
                "Platform": self.image.platform.to_string(),
            })
        };
        names.chain(unnamed).map(row).collect()
    }
}

/// A time as `docker images` has it, whole seconds: `2026-01-31 09:07:05 +0000 UTC`.
fn docker_time(time: Timestamp) -> String {
    let text = time.to_string();
    // RFC 3339, in UTC.
    let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
    format!("{date} {} +0000 UTC", clock.get(..8).unwrap_or(clock))
}

fn render(rows: &[Value], arguments: &ImagesArguments) -> Result<String, Failure> {
    if arguments.quiet {
        let mut ids: Vec<&str> = rows.iter().filter_map(|row| row["ID"].as_str()).collect();
        // An image with several names has one line.
        ids.dedup();
        return Ok(ids.iter().map(|id| format!("{id}\n")).collect());
    }
    let headings = json!({
        "ID": "IMAGE ID",
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "Digest": "DIGEST",
        "CreatedSince": "CREATED",
        "CreatedAt": "CREATED AT",
        "Size": "SIZE",
        "VirtualSize": "SIZE",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
        "Containers": "CONTAINERS",
        "Platform": "PLATFORM",
    });
    let table = match arguments.digests {
        false => "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
        true => {
            "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
        }
    };
    let format = match &arguments.format {
        Some(format) => format.clone(),
        None => table.parse()?,
    };
    Ok(format.rows(rows, &headings)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{BlobDigest, Digest, ImageId};
    use crate::platform::Platform;

    fn listed(names: &[&str]) -> Listed {
        let image = ImageRecord {
            id: ImageId(Digest::of(names.join(" ").as_bytes())),
            layers: Vec::new(),
            platform: Platform::host(),
            created: Some(Timestamp::from_seconds(1_700_000_000)),
            size: 0,
        };
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        Listed {
            digests: names
                .iter()
                .take(1)
                .map(|name| {
                    let manifest = BlobDigest(Digest::of(b"manifest"));
                    name.clone().without_tag().with_digest(manifest)
                })
                .collect(),
            names,
            image,
            size: 4_210_000,
        }
    }

    fn shown(name: Option<&str>, arguments: &ImagesArguments) -> String {
        let mut wanted = Wanted::new(arguments).unwrap();
        wanted.name = name.map(|text| NameFilter::new(text).unwrap());
        let images = [
            listed(&["alpine:3.20", "localhost:5000/base:v1"]),
            listed(&["alpine:latest"]),
            listed(&[]),
        ];
        let now = Timestamp::from_seconds(1_700_000_000 + 3 * 86_400);
        let rows: Vec<Value> = images
            .iter()
            .flat_map(|image| image.rows(&wanted, arguments, now))
            .collect();
        render(&rows, arguments).unwrap()
    }

    fn quiet() -> ImagesArguments {
        ImagesArguments {
            quiet: true,
            ..ImagesArguments::default()
        }
    }

    #[test]
    fn every_name_has_a_line() {
        let ids: Vec<String> = ["alpine:3.20 localhost:5000/base:v1", "alpine:latest", ""]
            .iter()
            .map(|text| Digest::of(text.as_bytes()).hex()[..12].to_owned())
            .collect();
        assert_eq!(
            shown(None, &ImagesArguments::default()),
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
            shown(None, &quiet()),
            format!("{}\n{}\n{}\n", ids[0], ids[1], ids[2])
        );
    }

    #[test]
    fn a_name_means_all_its_tags() {
        let all = ImagesArguments::default();
        assert_eq!(shown(Some("alpine"), &all).lines().count(), 3);
        assert_eq!(shown(Some("alpine:3.20"), &all).lines().count(), 2);
        assert_eq!(shown(Some("localhost:5000/base"), &all).lines().count(), 2);
        assert_eq!(shown(Some("nothing"), &quiet()), "");
        assert_eq!(shown(Some("al*"), &all).lines().count(), 3);
        assert_eq!(shown(Some("*:3.20"), &all).lines().count(), 2);
        let whole = ImagesArguments {
            no_trunc: true,
            ..quiet()
        };
        assert!(shown(Some("alpine:3.20"), &whole).starts_with("sha256:"));
    }

    #[test]
    fn rows_are_what_scripts_ask_docker_for() {
        let format = |text: &str| ImagesArguments {
            format: Some(text.parse().unwrap()),
            ..ImagesArguments::default()
        };
        assert_eq!(
            shown(
                Some("alpine"),
                &format("{{.Repository}}:{{.Tag}} {{.Size}}")
            ),
            "alpine:3.20 4.21MB\nalpine:latest 4.21MB\n"
        );
        let digests = ImagesArguments {
            digests: true,
            ..ImagesArguments::default()
        };
        let shown = shown(None, &digests);
        let manifest = Digest::of(b"manifest").to_string();
        assert!(shown.lines().nth(1).unwrap().contains(&manifest), "{shown}");
        assert!(shown.lines().nth(2).unwrap().contains("<none>"), "{shown}");
    }

    #[test]
    fn a_filter_by_name_leaves_out_the_other_names_of_an_image() {
        let names = |patterns: &[&str]| {
            let arguments = ImagesArguments {
                filter: patterns
                    .iter()
                    .map(|p| format!("reference={p}").parse().unwrap())
                    .collect(),
                format: Some("{{.Repository}}:{{.Tag}}".parse().unwrap()),
                ..ImagesArguments::default()
            };
            shown(None, &arguments)
        };
        assert_eq!(names(&["*/base"]), "localhost:5000/base:v1\n");
        assert_eq!(names(&["alp*"]), "alpine:3.20\nalpine:latest\n");
        assert_eq!(
            names(&["*:latest", "*/base:v*"]),
            "localhost:5000/base:v1\nalpine:latest\n"
        );
        assert_eq!(names(&["nothing"]), "");
    }

    #[test]
    fn scripts_find_the_fields_and_the_times_that_docker_has() {
        let arguments = ImagesArguments {
            format: Some(
                "{{.CreatedAt}}|{{.VirtualSize}}|{{.SharedSize}}|{{.UniqueSize}}|{{.Containers}}"
                    .parse()
                    .unwrap(),
            ),
            ..ImagesArguments::default()
        };
        assert_eq!(
            shown(Some("alpine:latest"), &arguments),
            "2023-11-14 22:13:20 +0000 UTC|4.21MB|N/A|N/A|N/A\n"
        );
    }

    #[test]
    fn names_match_patterns_with_and_without_their_tags() {
        let name: Reference = "alpine:3.20".parse().unwrap();
        for (pattern, matches) in [
            ("alpine", true),
            ("alp*", true),
            ("alpine:3*", true),
            ("*:3.20", true),
            ("busybox", false),
            ("alpine:4", false),
        ] {
            assert_eq!(is_named(&name, pattern), matches, "{pattern}");
        }
    }
}
