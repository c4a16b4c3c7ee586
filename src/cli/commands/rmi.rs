//! `rbuild rmi`.

use clap::Args;

use super::{Context, find_image, find_images};
use crate::cli::error::{ErrorKind, Failure};
use crate::cli::output;
use crate::digest::ImageId;
use crate::reference::Reference;
use crate::store::Store;

/// Options of `rbuild rmi`.
#[derive(Args, Debug)]
#[command(visible_alias = "image rm")]
pub struct RmiArguments {
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Remove an image that has several names, and ignore one that isn't there
    #[arg(short, long)]
    force: bool,

    /// Keep the layers that no other image has
    #[arg(long)]
    no_prune: bool,
}

/// Takes names from images; an image that has lost its last name is removed.
///
/// # Errors
/// When one isn't there, or has more names than the one that was given.
pub fn run(arguments: RmiArguments, context: &Context) -> Result<(), Failure> {
    let store = context.open_store()?;
    let mut failures = Vec::new();
    for name in &arguments.images {
        match remove(&store, name, &arguments) {
            Ok(text) => output::print(&text)?,
            Err(failure) => failures.push(failure),
        }
    }
    let Some(first) = failures.pop() else {
        return Ok(());
    };
    for failure in &failures {
        context.stderr.write_lines(&failure.render(context.style));
    }
    Err(first)
}

fn remove(store: &Store, text: &str, arguments: &RmiArguments) -> Result<String, Failure> {
    let id = match find_image(store, text) {
        Ok(id) => id,
        Err(failure) if arguments.force && failure.is_user_error() => return Ok(String::new()),
        Err(failure) => return Err(failure),
    };
    let names = store.names(&id)?;
    let named = text.parse::<Reference>().map(Reference::with_default_tag);
    if let Ok(reference) = named
        && names.contains(&reference)
    {
        let all = find_images(store, text)?;
        store.untag(&reference)?;
        let mut out = format!("Untagged: {}\n", reference.familiar());
        for id in all {
            if store.names(&id)?.is_empty() {
                out.push_str(&delete(store, &id, &[], arguments)?);
            }
        }
        return Ok(out);
    }
    if names.len() > 1 && !arguments.force {
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        return Err(Failure::user(format!(
            "the image `{text}` has several names: {}",
            names.join(", ")
        ))
        .hint("`--force` removes it with all of them"));
    }
    delete(store, &id, &names, arguments)
}

/// Removes an image with these names.
fn delete(
    store: &Store,
    id: &ImageId,
    names: &[Reference],
    arguments: &RmiArguments,
) -> Result<String, Failure> {
    let layers = store.image(id)?.map(|image| image.layers);
    store.remove_image(id)?;
    let untagged = names
        .iter()
        .map(|name| format!("Untagged: {}\n", name.familiar()));
    let mut out: String = untagged.collect();
    out.push_str(&format!("Deleted: {id}\n"));
    if arguments.no_prune {
        return Ok(out);
    }
    let pruned = store.release_layers(&layers.unwrap_or_default())?;
    match pruned.left.first() {
        None => Ok(out),
        Some(left) => Err(Failure::new(
            ErrorKind::Internal,
            format!("can't remove `{}`", left.path.display()),
        )
        .caused_by(&left.source)),
    }
}
