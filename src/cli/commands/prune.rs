//! `rbuild prune`.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;

use super::{Context, store_root};
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::filter::{self, Filter};
use crate::cli::output;
use crate::cli::ui::format;
use crate::store::{Prune, PruneImages, Pruned, Store};
use crate::time::Timestamp;

/// Options of `rbuild prune`.
#[derive(Args, Debug)]
#[command(
    visible_aliases = ["system prune", "builder prune", "buildx prune", "image prune"],
    after_help = "Without options: images without a name, and the build cache that no image needs. \
                  What a running build uses always stays."
)]
pub struct PruneArguments {
    /// Everything: images with names too, cache mounts, what was remembered of registries and files
    #[arg(short, long)]
    all: bool,

    /// Don't ask
    #[arg(short, long)]
    force: bool,

    /// Images only
    #[arg(long, conflicts_with = "build_cache")]
    images: bool,

    /// Build cache only
    #[arg(long)]
    build_cache: bool,

    /// Only what nobody has used since: until=24h, until=2026-01-31; for images, what came before
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,

    /// Remove only as much of the build cache as makes the store this small: 10GB
    #[arg(long, value_name = "SIZE", value_parser = filter::bytes,
          visible_aliases = ["max-used-space", "keep-storage"])]
    keep: Option<u64>,

    /// There are no volumes; the cache mounts of RUN steps go with the build cache
    #[arg(long, hide = true)]
    volumes: bool,
}

/// Removes what is not needed.
///
/// # Errors
/// When nobody agrees, or something can't be removed.
pub fn run(arguments: PruneArguments, context: &Context) -> Result<(), Failure> {
    let prune = request(&arguments, Timestamp::now())?;
    // The store first: one that can't be used is no reason to ask.
    Store::spend_reserve(&store_root(&context.settings, &context.environment)?.path);
    let store = context.open_store()?;
    if !arguments.force {
        confirm(&prune, context)?;
    }
    let pruned = store.prune(&prune)?;
    output::print(&report(&pruned))?;
    let Some(left) = pruned.left.first() else {
        return Ok(());
    };
    let message = match pruned.left.len() {
        1 => format!("can't remove `{}`", left.path.display()),
        n => format!("can't remove `{}` and {} more", left.path.display(), n - 1),
    };
    let failure = Failure::new(ErrorKind::Internal, message).caused_by(&left.source);
    Err(failure.hint("whoever made it can: see its owner with `rbuild unshare ls -ld PATH`"))
}

fn request(arguments: &PruneArguments, now: Timestamp) -> Result<Prune, Failure> {
    let mut before = None;
    let mut dangling = !arguments.all;
    for filter in &arguments.filter {
        match filter.name.as_str() {
            "until" | "unused-for" => before = Some(filter.time(now)?),
            "dangling" => {
                dangling = crate::cli::spelling::parse_bool(&filter.value)
                    .ok_or_else(|| filter.invalid("true or false"))?;
            }
            _ => return Err(filter.unknown("`until` and `dangling`")),
        }
    }
    if arguments.images && arguments.keep.is_some() {
        return Err(
            Failure::user("`--keep` is about the build cache, `--images` about images")
                .hint("drop one of them"),
        );
    }
    Ok(Prune {
        images: match (arguments.build_cache, dangling) {
            (true, _) => PruneImages::None,
            // What is to be kept small is the cache.
            (false, _) if arguments.keep.is_some() => PruneImages::None,
            (false, true) => PruneImages::Dangling,
            (false, false) => PruneImages::All,
        },
        cache: !arguments.images || arguments.all,
        memory: arguments.all && before.is_none() && arguments.keep.is_none() && !arguments.images,
        before,
        keep: arguments.keep,
    })
}

fn confirm(prune: &Prune, context: &Context) -> Result<(), Failure> {
    let mut lines = String::from("This will remove:\n");
    match prune.images {
        PruneImages::None => {}
        PruneImages::Dangling => lines.push_str("  - all images without a name\n"),
        PruneImages::All => lines.push_str("  - all images\n"),
    }
    if prune.cache {
        lines.push_str("  - the build cache that no remaining image needs\n");
        lines.push_str("  - failed steps that were kept\n");
    }
    if let Some(before) = prune.before {
        lines.push_str(&format!("as far as nobody has used it since {before}\n"));
    }
    lines.push_str("Continue? [y/N] ");
    context.stderr.write_lines(&lines);
    let mut answer = String::new();
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    // What can't be read is no yes.
    let _ = stdin.lock().read_line(&mut answer);
    if !is_terminal {
        context.stderr.write_lines("\n");
    }
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::user("nothing was removed").hint("`--force` removes without asking")),
    }
}

fn report(pruned: &Pruned) -> String {
    let mut out = String::new();
    if !pruned.images.is_empty() {
        out.push_str("Deleted Images:\n");
        for (id, names) in &pruned.images {
            for name in names {
                out.push_str(&format!("untagged: {}\n", name.familiar()));
            }
            out.push_str(&format!("deleted: {id}\n"));
        }
        out.push('\n');
    }
    if pruned.kept_steps > 0 {
        out.push_str(&format!("Deleted failed steps: {}\n\n", pruned.kept_steps));
    }
    if pruned.layers + pruned.cache_mounts + pruned.repositories > 0 {
        let repositories = match pruned.repositories {
            0 => String::new(),
            count => format!(", {count} git repositories"),
        };
        out.push_str(&format!(
            "Deleted build cache: {} layers, {} cache mounts{repositories}\n\n",
            pruned.layers, pruned.cache_mounts
        ));
    }
    out.push_str(&format!(
        "Total reclaimed space: {}\n",
        format::bytes(pruned.bytes)
    ));
    out
}
