//! `rbuild login`.
//!
//! A password is in no message, no log and no other program's arguments.

use std::convert::Infallible;

use clap::Args;

use super::Context;
use super::logout::{self, shown_server};
use crate::cli::error::Failure;
use crate::cli::{output, prompt};
use crate::registry::{Credential, CredentialFile, CredentialsError, Kept, RegistryError, Secret};

/// Options of `rbuild login`.
#[derive(Args, Debug)]
pub struct LoginArguments {
    /// The registry: HOST[:PORT] [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    server: Option<String>,

    /// The user's name
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,

    /// The password or access token, `-` for standard input; others on this machine can see it here
    #[arg(short, long, value_name = "PASSWORD", value_parser = secret, allow_hyphen_values = true)]
    password: Option<Secret>,

    /// Read the password or access token from standard input
    #[arg(long)]
    password_stdin: bool,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Proves who the user is to a registry, and keeps what proved it.
///
/// # Errors
/// When the registry refuses, nobody can be asked, or the credentials can't be kept.
pub async fn run(arguments: LoginArguments, context: &Context) -> Result<(), Failure> {
    check(&arguments)?;
    let host = logout::host(arguments.server.as_deref())?;
    let file = logout::credential_file(context)?;
    logout::note_other_places(context);
    if arguments.username.is_none()
        && arguments.password.is_none()
        && with_what_is_kept(&host, &file, context).await?
    {
        return output::print("Login Succeeded\n");
    }
    let (username, password) = ask(arguments, &host, context).await?;
    let credential = Credential::Basic {
        username: username.clone(),
        password,
    };
    let kept = verify(&host, &credential, context).await?;
    keep(&host, &username, &kept, &file, context)?;
    output::print("Login Succeeded\n")
}

/// Refuses what Docker refuses, in its words.
fn check(arguments: &LoginArguments) -> Result<(), Failure> {
    let is_dash = |password: &Secret| password.expose() == "-";
    let from_stdin = arguments.password_stdin || arguments.password.as_ref().is_some_and(is_dash);
    if arguments.password_stdin && arguments.password.as_ref().is_some_and(|p| !is_dash(p)) {
        return Err(Failure::user(
            "conflicting options: cannot specify both --password and --password-stdin",
        ));
    }
    match &arguments.username {
        None if from_stdin => {
            return Err(Failure::user(
                "the --password-stdin option requires --username to be set",
            ));
        }
        Some(name) if name.trim().is_empty() => return Err(Failure::user("username is empty")),
        // It ends the name where name and password are one text.
        Some(name) if name.contains(':') => {
            return Err(Failure::user("a user name has no colon in it"));
        }
        _ => {}
    }
    match &arguments.password {
        Some(password) if password.expose().is_empty() => Err(Failure::user("password is empty")),
        _ => Ok(()),
    }
}

/// Tries what is kept for this registry; whether it is good still.
async fn with_what_is_kept(
    host: &str,
    file: &CredentialFile,
    context: &Context,
) -> Result<bool, Failure> {
    let Some(credential) = file.find(host).map_err(failure)? else {
        return Ok(false);
    };
    let name = match &credential {
        Credential::Basic { username, .. } => format!(" [Username: {username}]"),
        Credential::IdentityToken(_) | Credential::RegistryToken(_) => String::new(),
    };
    context.stderr.write_lines(&format!(
        "Authenticating with existing credentials...{name}\n"
    ));
    let error = match context.anonymous_client().log_in(host, &credential).await {
        Ok(kept) => {
            if kept != credential
                && let Credential::Basic { username, .. } = &credential
            {
                keep(host, username, &kept, file, context)?;
            }
            return Ok(true);
        }
        Err(error) => error,
    };
    if !error.is_denied() || !prompt::is_possible() {
        return Err(error.into());
    }
    context
        .stderr
        .write_lines("Stored credentials invalid or expired\n");
    Ok(false)
}

/// User name and password: those of the options, else what the person at the terminal says.
async fn ask(
    arguments: LoginArguments,
    host: &str,
    context: &Context,
) -> Result<(String, Secret), Failure> {
    let mut password = arguments.password;
    if let Some(given) = password.take_if(|password| password.expose() != "-") {
        context.stderr.write_lines(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n",
        );
        password = Some(given);
    } else if arguments.password_stdin || password.is_some() {
        password = Some(prompt::secret_on_stdin().await?);
    }
    if (arguments.username.is_none() || password.is_none()) && !prompt::is_possible() {
        return Err(
            Failure::user("cannot perform an interactive login from a non TTY device")
                .hint("use `--username USER --password-stdin`"),
        );
    }
    let username = match arguments.username {
        Some(username) => username,
        None => {
            let server = shown_server(host);
            prompt::line(&format!("Username for {server}: ")).await?
        }
    };
    let username = username.trim().to_owned();
    if username.is_empty() {
        return Err(Failure::user("username is empty"));
    }
    let password = match password {
        Some(password) => password,
        None => prompt::password("Password: ").await?,
    };
    if password.expose().trim().is_empty() {
        return Err(Failure::user("password is empty"));
    }
    Ok((username, password))
}

async fn verify(
    host: &str,
    credential: &Credential,
    context: &Context,
) -> Result<Credential, RegistryError> {
    context.anonymous_client().log_in(host, credential).await
}

fn keep(
    host: &str,
    username: &str,
    credential: &Credential,
    file: &CredentialFile,
    context: &Context,
) -> Result<(), Failure> {
    let kept = file.store(host, username, credential).map_err(failure)?;
    if let (Kept::File(path), Credential::Basic { .. }) = (kept, credential) {
        context.stderr.write_lines(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n\n",
            path.display()
        ));
    }
    Ok(())
}

/// Files and helpers of the user's are the user's to mend.
pub(super) fn failure(error: CredentialsError) -> Failure {
    Failure::user(error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn checked(line: &str) -> Result<(), String> {
        let command = LoginArguments::augment_args(Command::new("login"));
        let words = std::iter::once("login").chain(line.split(' ').filter(|word| !word.is_empty()));
        let matches = command.try_get_matches_from(words).unwrap();
        let arguments = LoginArguments::from_arg_matches(&matches).unwrap();
        assert!(!format!("{arguments:?}").contains("hunter2"));
        check(&arguments).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (line, expected) in [
            ("", Ok(())),
            ("-u me -p hunter2 host", Ok(())),
            ("-u me -p -hunter2 host", Ok(())),
            ("-u me --password-stdin", Ok(())),
            ("-u me -p -", Ok(())),
            (
                "-u me -p hunter2 --password-stdin",
                Err("conflicting options: cannot specify both --password and --password-stdin"),
            ),
            (
                "--password-stdin",
                Err("the --password-stdin option requires --username to be set"),
            ),
            ("--username= -p hunter2", Err("username is empty")),
            ("-u a:b -p hunter2", Err("a user name has no colon in it")),
            ("-u me --password=", Err("password is empty")),
        ] {
            assert_eq!(checked(line), expected.map_err(str::to_owned), "{line}");
        }
    }
}
