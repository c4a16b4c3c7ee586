//! A program in an image's file system, outside of any build: the sandbox of a RUN step without the
//! layer. What it writes goes with it.
//!
//! Nothing here knows an image's config or a terminal's window: whoever starts a container has
//! decided what runs, and gets the other side of its terminal.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::StepError;
use super::mount_points::Kind;
use super::noted_owners::OwnerNotes;
use super::owner::Accounts;
pub use super::run::HOSTNAME;
use super::run::assembly::hosts;
use super::run::mounts::writable_in;
use super::run::{self, Assembly, RunError, STANDARD, StepBase, StepRoot};
use crate::graph::{NetworkMode, RunSettings};
use crate::layer::view::{View, ViewError};
use crate::platform::Platform;
use crate::sandbox::{
    HostPath, Launcher, LauncherError, MountSource, Outcome, OutsideHelper, Resources, Running,
    SandboxFiles, SandboxSpec, Security, StepCgroup, TerminalSpec, terminal,
};
use crate::snapshot::{Materializer, Snapshot};
use crate::store::LayerId;

/// What is to run, and on what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The image's layers, lowest first.
    pub layers: Vec<LayerId>,
    /// The platform that it is for.
    pub platform: Platform,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment, `HOME` added where it isn't there.
    pub env: Vec<(String, String)>,
    /// `NAME|UID[:GROUP|GID]`, as the image knows them; root where empty.
    pub user: String,
    /// The working directory, made where the image lacks it.
    pub cwd: String,
    /// The host name; one of rbuild's own where `None`.
    pub hostname: Option<String>,
    /// The network.
    pub network: NetworkMode,
    /// More hosts, limits, its cgroup.
    pub settings: RunSettings,
    /// Whether the image's file system refuses writing.
    pub read_only: bool,
    /// What is put into the file system.
    pub mounts: Vec<ContainerMount>,
}

/// One place of a container's file system that is not the image's, or is always writable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerMount {
    /// Where, absolute.
    pub target: String,
    /// What.
    pub source: ContainerSource,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// What a [`ContainerMount`] shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerSource {
    /// A file or folder of this machine, with everything mounted below it.
    Host(PathBuf),
    /// An empty file system in memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
        /// Whether programs on it may be run.
        executable: bool,
    },
    /// What the image has there, with a place of its own for what is written.
    Volume,
}

/// What a container reads and writes.
#[derive(Debug)]
pub struct Streams {
    /// Standard input; `/dev/null` where `None`.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// A terminal of the container's own in place of its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedTerminal {
    /// Rows and columns, where they are known.
    pub size: Option<(u16, u16)>,
}

/// A container that was started. Dropping it kills every process in it and removes what they
/// wrote.
#[derive(Debug)]
pub struct RunningContainer {
    running: Arc<Running>,
    line: Option<terminal::Line>,
    // Gone after the processes.
    _cgroup: Option<StepCgroup>,
    _root: StepRoot,
    _assembly: Assembly,
}

impl Drop for RunningContainer {
    fn drop(&mut self) {
        // Others may hold handles; what it wrote is removed next.
        self.running.kill();
        let _ = self.running.wait();
    }
}

impl RunningContainer {
    /// A sandbox that was started, with all that it stands on.
    pub(super) fn new(
        running: Running,
        line: terminal::Line,
        cgroup: Option<StepCgroup>,
        assembly: Assembly,
        root: StepRoot,
    ) -> Self {
        Self {
            running: Arc::new(running),
            line: Some(line),
            _cgroup: cgroup,
            _assembly: assembly,
            _root: root,
        }
    }

    /// A handle to wait for its end, to send signals and to kill.
    pub fn handle(&self) -> Arc<Running> {
        Arc::clone(&self.running)
    }

    /// The other side of its terminal, waited for; `None` where it has none, or ended before it
    /// had one. Given once.
    ///
    /// # Errors
    /// When it gets lost on its way.
    pub fn terminal(&mut self) -> std::io::Result<Option<OwnedFd>> {
        match self.line.take() {
            Some(line) => line.receive(),
            None => Ok(None),
        }
    }

    /// Waits until every process of it is gone.
    ///
    /// # Errors
    /// When nobody can tell any more.
    pub fn wait(&self) -> Result<Outcome, LauncherError> {
        self.running.wait()
    }
}

/// Starts a container. What the image's layers lack of trees is made, which may take a while.
///
/// # Errors
/// When a layer can't be had, a user or group isn't known to the image, or something of this
/// machine that is to be mounted isn't there. A program that can't be started is an
/// [`Outcome`].
pub fn start(
    container: &Container,
    materializer: &Materializer,
    launcher: &Launcher,
    outside: &OutsideHelper,
    streams: Streams,
    terminal: Option<WantedTerminal>,
) -> Result<RunningContainer, StepError> {
    let snapshot = Snapshot::unrecorded(container.layers.clone());
    let view = materializer.view(&snapshot)?;
    let user = Accounts::new(view.passwd(), view.group()).exec_user(&container.user)?;
    let mut assembly = assemble(container, &view, outside)?;
    assembly.tell_programs(materializer.form(), &view)?;
    assembly.env = run::environment(&container.env, &[], &user.home);
    let base = StepBase::prepare(materializer, &snapshot, &view)?;
    let mut root = base.begin(materializer, &snapshot, &view, &mut assembly)?;
    let image = Image {
        materializer,
        snapshot: &snapshot,
        view: &view,
        root: &root,
    };
    add_mounts(container, &image, &mut assembly)?;
    if !launcher.can_mount() {
        refuse_host_mounts(container)?;
        root.place_mounts(materializer, &view, &mut assembly)?;
    }
    let cgroup = assembly.enter_cgroup(&container.settings)?;
    let (line, terminal) = match terminal {
        Some(WantedTerminal { size }) => {
            let (near, far) = terminal::line().map_err(run::failed("making a terminal"))?;
            let line = assembly.passed.len();
            assembly.passed.push(far);
            (Some(near), Some(TerminalSpec { line, size }))
        }
        None => (None, None),
    };
    // What it notes goes with what it writes.
    let (form, security) = (materializer.form(), Security::Sandbox);
    let (_, owners) = OwnerNotes::prepare(form, &view, &user, security, &mut assembly)?;
    let spec = SandboxSpec {
        platform: container.platform.to_string(),
        lower: root.lower(),
        writable: root.writable(),
        folder: root.folder(),
        xattr_namespace: run::xattr_namespace(materializer),
        mounts: std::mem::take(&mut assembly.mounts),
        stand_ins: Vec::new(),
        args: container.args.clone(),
        env: std::mem::take(&mut assembly.env),
        cwd: container.cwd.clone().into_bytes(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        hostname: hostname(container).to_owned(),
        network: assembly.network,
        security,
        read_only: container.read_only,
        terminal,
        resources: Resources {
            ulimits: container.settings.ulimits.clone(),
            shm_size: container.settings.shm_size,
            cgroup: assembly.cgroup,
        },
        owners,
    };
    let files = SandboxFiles {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        passed: std::mem::take(&mut assembly.passed),
    };
    let running = launcher.run(spec, files).map_err(RunError::Launcher)?;
    Ok(RunningContainer {
        running: Arc::new(running),
        line,
        _cgroup: cgroup,
        _assembly: assembly,
        _root: root,
    })
}

fn hostname(container: &Container) -> &str {
    container.hostname.as_deref().unwrap_or(HOSTNAME)
}

/// The mount points, and the files that tell of the machine. Unlike a step, a container may change
/// those.
fn assemble(
    container: &Container,
    view: &View,
    outside: &OutsideHelper,
) -> Result<Assembly, StepError> {
    let mut assembly = Assembly::default();
    assembly.enter_network(container.network, outside)?;
    let hostname = hostname(container);
    for (target, kind) in STANDARD {
        assembly.point(view, target, kind)?;
    }
    let known = hosts(hostname, &container.settings.hosts);
    let files = [
        ("/etc/resolv.conf", assembly.resolv_conf()?),
        ("/etc/hosts", known.into_bytes()),
        ("/etc/hostname", format!("{hostname}\n").into_bytes()),
    ];
    for (path, content) in files {
        assembly.point(view, path.as_bytes(), Kind::File)?;
        assembly.memory_file(path, &content, 0o644, (0, 0))?;
        if let Some(mount) = assembly.mounts.last_mut() {
            mount.read_only = false;
        }
    }
    for mount in &container.mounts {
        let kind = match &mount.source {
            ContainerSource::Host(path) => host_kind(path, &mount.target)?,
            ContainerSource::Tmpfs { .. } | ContainerSource::Volume => Kind::Directory,
        };
        assembly.point(view, mount.target.as_bytes(), kind)?;
    }
    refuse_file(view, &container.cwd)?;
    assembly.point(view, container.cwd.as_bytes(), Kind::Directory)?;
    Ok(assembly)
}

fn host_kind(path: &std::path::Path, target: &str) -> Result<Kind, RunError> {
    let found = std::fs::metadata(path).map_err(|source| RunError::HostPath {
        host_path: path.to_owned(),
        target: target.to_owned(),
        source,
    })?;
    Ok(match found.is_dir() {
        true => Kind::Directory,
        false => Kind::File,
    })
}

/// A working directory is never put in place of a file.
fn refuse_file(view: &View, cwd: &str) -> Result<(), RunError> {
    let failed = |source| RunError::Path {
        path: cwd.to_owned(),
        source,
    };
    let resolved = view.resolve(cwd.as_bytes(), true).map_err(failed)?;
    match resolved.found {
        Some(found) if !found.entry.is_directory() => Err(failed(ViewError::NotADirectory {
            path: cwd.to_owned(),
            ancestor: cwd.to_owned(),
        })),
        _ => Ok(()),
    }
}

/// What a container is started on.
struct Image<'a> {
    materializer: &'a Materializer,
    snapshot: &'a Snapshot,
    view: &'a View,
    root: &'a StepRoot,
}

impl Image<'_> {
    /// What the image has at a directory, with a place of its own for what is written.
    fn volume(&self, target: &[u8], assembly: &mut Assembly) -> Result<MountSource, StepError> {
        let folders = self.materializer.store().scratch()?;
        let source = match self.root.folder() {
            None => MountSource::Layers {
                lower: self.root.lower(),
                writable: Some(writable_in(folders.path())?),
                path: target.to_vec(),
            },
            Some(_) => {
                let resolved = self.view.resolve(target, true);
                let path = resolved.map_err(|source| RunError::Path {
                    path: String::from_utf8_lossy(target).into_owned(),
                    source,
                })?;
                let copy = folders.path();
                self.materializer
                    .copy_out(self.snapshot, self.view, &path.path, copy)?;
                MountSource::Path {
                    root: HostPath::from(copy.to_owned()),
                    path: Vec::new(),
                    recursive: false,
                }
            }
        };
        assembly.scratch.push(folders);
        Ok(source)
    }
}

fn add_mounts(
    container: &Container,
    image: &Image<'_>,
    assembly: &mut Assembly,
) -> Result<(), StepError> {
    let mut mounts: Vec<&ContainerMount> = container.mounts.iter().collect();
    // What lies inside another mount comes after it, however they were written.
    mounts.sort_by_key(|mount| depth(&mount.target));
    for mount in mounts {
        let target = mount.target.as_bytes();
        let source = match &mount.source {
            ContainerSource::Host(path) => MountSource::Path {
                root: HostPath::from(path.clone()),
                path: Vec::new(),
                recursive: true,
            },
            ContainerSource::Tmpfs {
                size,
                mode,
                executable,
            } => MountSource::Tmpfs {
                size: *size,
                mode: *mode,
                executable: *executable,
            },
            // The image's own file system takes the writes, and shows what the image has there.
            ContainerSource::Volume if !container.read_only => continue,
            ContainerSource::Volume => image.volume(target, assembly)?,
        };
        assembly.push(target, source, mount.read_only);
    }
    Ok(())
}

/// What is the user's is never moved into a container.
fn refuse_host_mounts(container: &Container) -> Result<(), RunError> {
    let mut mounts = container.mounts.iter();
    match mounts.find(|mount| matches!(mount.source, ContainerSource::Host(_))) {
        Some(mount) => Err(RunError::NoMounts {
            target: mount.target.clone(),
        }),
        None => Ok(()),
    }
}

fn depth(target: &str) -> usize {
    target
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .count()
}
