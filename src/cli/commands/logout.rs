//! `rbuild logout`, and what it shares with `rbuild login`: which registry, and where its
//! credentials are kept.

use clap::Args;

use super::{Context, login, run_helper};
use crate::cli::docker_config;
use crate::cli::error::Failure;
use crate::cli::output;
use crate::registry::{CredentialFile, host_of_server};

const DOCKER_HUB: &str = "docker.io";
/// Docker Hub's name in configuration files, and what Docker calls it.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Variables whose credentials are looked up before the file that `login` writes.
const PLACES_BEFORE: [&str; 2] = ["DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE"];

/// Options of `rbuild logout`.
#[derive(Args, Debug)]
pub struct LogoutArguments {
    /// The registry: HOST[:PORT] [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// Forgets the credentials for a registry.
///
/// # Errors
/// When they can't be removed from where they are kept.
pub fn run(arguments: LogoutArguments, context: &Context) -> Result<(), Failure> {
    let host = host(arguments.server.as_deref())?;
    let file = credential_file(context)?;
    note_other_places(context);
    output::print(&format!(
        "Removing login credentials for {}\n",
        shown_server(&host)
    ))?;
    file.erase(&host).map_err(login::failure)
}

/// The host that the user means.
pub(super) fn host(server: Option<&str>) -> Result<String, Failure> {
    match server {
        None | Some("") => Ok(DOCKER_HUB.to_owned()),
        Some(server) => host_of_server(server).map_err(|error| Failure::user(error.to_string())),
    }
}

/// How Docker names a registry to its users.
pub(super) fn shown_server(host: &str) -> &str {
    match host {
        DOCKER_HUB => DOCKER_HUB_SERVER,
        other => other,
    }
}

/// The file that credentials are kept in, or that names the helper that keeps them.
pub(super) fn credential_file(context: &Context) -> Result<CredentialFile, Failure> {
    let path = docker_config::path(&context.environment).ok_or_else(|| {
        Failure::user("there is no place for credentials: neither HOME nor DOCKER_CONFIG is set")
            .hint("set DOCKER_CONFIG to a folder")
    })?;
    let run_helper = run_helper(context.processes.outside.clone());
    Ok(CredentialFile::new(path, run_helper))
}

/// Says which other credentials go before those of the file.
pub(super) fn note_other_places(context: &Context) {
    for name in PLACES_BEFORE {
        if context.environment.get_os(name).is_some() {
            context.note(&format!(
                "{name} is set: credentials there go before those of `login`"
            ));
        }
    }
}
