//! Handing images to a container engine of this machine: Docker, Podman or containerd.
//!
//! The engine's own program gets an archive on its standard input, whichever socket, context or
//! environment it speaks to its daemon by. It runs outside of rbuild's namespaces, as the user.
//! No image is written to a file on the way.

use std::ffi::OsString;
use std::io::{self, BufWriter, PipeWriter};

use super::ExportError;
use crate::reference::Reference;
use crate::sandbox::{OutsideError, OutsideHelper, OutsideOutput, OutsideProgram};

const BUFFER: usize = 256 * 1024;

/// A container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// `docker load`.
    Docker,
    /// `podman load`.
    Podman,
    /// `ctr images import`.
    Containerd,
}

/// Why an image could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine isn't there, or its daemon doesn't answer.
    #[error("{} takes no image here: {reason}", engine.name())]
    Absent {
        /// The engine.
        engine: Engine,
        /// What its program said, or that there's none.
        reason: String,
    },
    /// Its program could not be run.
    #[error(transparent)]
    Run(#[from] OutsideError),
    /// The engine refused the image.
    #[error("{} did not take the image: {said}", engine.name())]
    Refused {
        /// The engine.
        engine: Engine,
        /// What its program said.
        said: String,
    },
    /// The engine has no place for an image without a name.
    #[error("{} keeps only images that have a name: add `-t NAME`", .0.name())]
    Nameless(Engine),
    /// The image could not be read.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl Engine {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::Docker, Self::Podman, Self::Containerd];

    /// How it calls itself.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Containerd => "containerd",
        }
    }

    /// A command that succeeds where images can be loaded.
    fn probe(self) -> OutsideProgram {
        match self {
            // The client's own version would say nothing of a daemon.
            Self::Docker => program(["docker", "version", "--format", "{{.Server.Version}}"]),
            Self::Podman => program(["podman", "--version"]),
            // It waits for a socket that isn't there.
            Self::Containerd => program(["ctr", "--connect-timeout", "2s", "version"]),
        }
    }

    /// The command that loads the archive on its standard input.
    fn loader(self) -> OutsideProgram {
        match self {
            Self::Docker => program(["docker", "load", "--quiet"]),
            Self::Podman => program(["podman", "load", "--quiet"]),
            Self::Containerd => program(["ctr", "images", "import", "-"]),
        }
    }

    /// Makes sure that the engine takes images.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn check(self, outside: &OutsideHelper) -> Result<(), EngineError> {
        let absent = |reason: String| EngineError::Absent {
            engine: self,
            reason,
        };
        let probe = self.probe();
        match outside.run(&probe) {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => Err(absent(said(&output))),
            Err(OutsideError::NotStarted { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                let name = probe.program.display().to_string();
                Err(absent(format!("`{name}` is not installed")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The first engine that takes images.
    ///
    /// # Errors
    /// When programs can't be run at all. That there is no engine is `None`.
    pub fn find(outside: &OutsideHelper) -> Result<Option<Self>, EngineError> {
        for engine in Self::ALL {
            match engine.check(outside) {
                Ok(()) => return Ok(Some(engine)),
                Err(EngineError::Absent { .. } | EngineError::Run(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Makes sure that the engine can keep an image under these names.
    ///
    /// # Errors
    /// When it needs one and there is none.
    pub fn check_names(self, names: &[Reference]) -> Result<(), EngineError> {
        match self {
            Self::Containerd if names.is_empty() => Err(EngineError::Nameless(self)),
            _ => Ok(()),
        }
    }

    /// Whether the engine has this image under all of these names already, as far as it can be
    /// asked: sending an image again costs as much as the first time. `ids` are those that it may
    /// know the image by: the digest of the config, or of the manifest.
    pub fn has(self, outside: &OutsideHelper, names: &[Reference], ids: &[String]) -> bool {
        let program = match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => return false,
        };
        if names.is_empty() {
            return false;
        }
        let question = ["image", "inspect", "--format", "{{.Id}}"].map(OsString::from);
        let words = question
            .into_iter()
            .chain(names.iter().map(|name| name.to_string().into()));
        let question = words.fold(OutsideProgram::new(program), OutsideProgram::arg);
        match outside.run(&question) {
            Ok(output) if output.code == 0 => {
                let answers = String::from_utf8_lossy(&output.stdout);
                let is_known = |answer: &str| {
                    let hex = answer.trim().trim_start_matches("sha256:");
                    ids.iter().any(|id| id.ends_with(hex) && !hex.is_empty())
                };
                answers.lines().count() == names.len() && answers.lines().all(is_known)
            }
            _ => false,
        }
    }

    /// Has the engine load the archive that `write` writes.
    ///
    /// # Errors
    /// When the engine refuses it, or writing fails.
    pub fn load(
        self,
        outside: &OutsideHelper,
        write: impl FnOnce(BufWriter<PipeWriter>) -> Result<(), ExportError>,
    ) -> Result<(), EngineError> {
        let (output, written) = outside.run_writing(&self.loader(), |pipe| {
            write(BufWriter::with_capacity(BUFFER, pipe))
        })?;
        match written {
            // A pipe that broke says less than whoever broke it.
            Err(ExportError::Write(_)) if output.code != 0 => {}
            written => written?,
        }
        if output.code == 0 {
            return Ok(());
        }
        Err(EngineError::Refused {
            engine: self,
            said: said(&output),
        })
    }
}

fn program<const N: usize>(words: [&str; N]) -> OutsideProgram {
    let mut words = words.into_iter().map(OsString::from);
    let program = OutsideProgram::new(words.next().unwrap_or_default());
    words.fold(program, OutsideProgram::arg)
}

/// The last thing that a program said about its failure.
fn said(output: &OutsideOutput) -> String {
    let text = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes));
    let last = text
        .iter()
        .filter_map(|text| {
            text.lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty())
        })
        .next();
    last.map_or_else(
        || format!("it ended with code {}", output.code),
        str::to_owned,
    )
}
