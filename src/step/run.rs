//! RUN: a program in a sandbox on top of the parent's trees; its changes become a layer.
//!
//! The step's upper directory is a tree of the store from the start, so nothing is copied when it
//! ends. The environment, the working directory and the user are the image's; the machine gives
//! only its network, its name servers and its kernel. Secrets are memory that one step sees.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::mount_points::{Kind, MountPoints, root_entry};
use super::owner::{Accounts, ExecUser};
use super::{Inputs, StepContext, StepError, StepResult, copy};
use crate::digest::{CacheKey, CacheKeyBuilder};
use crate::dockerfile::instruction::CacheSharing;
use crate::graph::{Copy, CopySource, FileSystem, Mount, MountKind, NetworkMode, Run};
use crate::layer::view::{View, ViewError};
use crate::layer::{LayerError, apply, diff};
use crate::sandbox::{
    HostPath, LauncherError, MountSource, Network, Outcome, SandboxFiles, SandboxMount,
    SandboxSpec, Security, SetupFailure, Writable, XattrNamespace,
};
use crate::snapshot::{Content, Snapshot};
use crate::solver::events::{Event, LogStream, VertexId};
use crate::store::{NewLayer, PendingTree, Scratch};

/// The name that steps see as theirs.
const HOSTNAME: &str = "rbuild";
/// Mount points that every step has.
const STANDARD: [(&[u8], Kind); 5] = [
    (b"dev", Kind::Directory),
    (b"proc", Kind::Directory),
    (b"sys", Kind::Directory),
    (b"etc/resolv.conf", Kind::File),
    (b"etc/hosts", Kind::File),
];
/// Where a heredoc that starts with `#!` is shown to its step.
const SCRIPTS: &str = "/dev/pipes";

/// Why a RUN step failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program ended with a code other than zero.
    #[error("process \"{command}\" did not complete successfully: exit code: {code}")]
    Exit {
        /// The command line.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// The program was ended by a signal.
    #[error("process \"{command}\" did not complete successfully: killed by signal {signal}")]
    Signal {
        /// The command line.
        command: String,
        /// The signal.
        signal: i32,
    },
    /// The program could not be started.
    #[error("process \"{command}\" did not start: {message}")]
    NotStarted {
        /// The command line.
        command: String,
        /// The code that a shell would give.
        code: i32,
        /// Why.
        message: String,
    },
    /// The sandbox could not be made.
    #[error(transparent)]
    Setup(#[from] SetupFailure),
    /// Sandboxes can't be started any more.
    #[error(transparent)]
    Launcher(LauncherError),
    /// There is no sandbox on this machine.
    #[error("RUN needs a sandbox, and this machine gives none: {0}")]
    NoSandbox(String),
    /// A required secret that the build was not given.
    #[error("secret {0}: not found")]
    NoSecret(String),
    /// A secret for an environment variable that is no text.
    #[error("secret {0} can't be an environment variable: its value is not text")]
    SecretIsNotText(String),
    /// A mount's source that isn't there.
    #[error("failed to mount `{mount}`: `{source_path}`: not found")]
    NoSource {
        /// The mount's target.
        mount: String,
        /// What it should have shown.
        source_path: String,
    },
    /// A mount's target, or the working directory, that leads nowhere.
    #[error("`{path}`: {source}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: ViewError,
    },
    /// The step's changes can't be read.
    #[error("reading the step's changes: {0}")]
    Changes(#[source] LayerError),
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The build was stopped.
    #[error("canceled")]
    Canceled,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Io { what, source }
}

/// A mount's source, made ready before the key is known.
enum Prepared {
    /// A snapshot, and the path in it.
    Files(Snapshot, Vec<u8>),
    /// Nothing needs to be made ready.
    None,
}

/// A spec in the making, with what has to live until the step has ended.
struct Assembly {
    mounts: Vec<SandboxMount>,
    passed: Vec<OwnedFd>,
    env: Vec<String>,
    points: MountPoints,
    scratch: Vec<Scratch>,
    locks: Vec<crate::store::Lock>,
}

impl StepContext {
    pub(super) fn run(
        &self,
        run: &Run,
        parent: &Snapshot,
        inputs: &Inputs<'_>,
        id: VertexId,
    ) -> Result<StepResult, StepError> {
        let prepared = self.prepare_mounts(run, inputs)?;
        let key = run_key(run, parent, &prepared);
        let _lock = self.store().lock(&key)?;
        if let Some(result) = self.cached(&key, parent)? {
            return Ok(result);
        }
        self.cancel.check()?;
        let launcher = self
            .launcher
            .as_ref()
            .map_err(|reason| RunError::NoSandbox(reason.clone()))?;
        let view = self.view(parent)?;
        let user = Accounts::new(view.passwd(), view.group()).exec_user(&run.user)?;
        let mut assembly = self.assemble(run, &view, &user, &prepared)?;
        let upper = self.store().new_tree(self.materializer.form())?;
        prepare_upper(upper.path(), &view)?;
        let spec = self.spec(run, parent, &view, &user, &upper, &mut assembly)?;
        let outcome = self.start(launcher, spec, assembly.passed, id)?;
        succeed(run, outcome)?;
        self.commit(key, parent, &view, upper, &assembly.points)
    }

    /// Makes a snapshot of every bind mount's source. Files of the context are copied as COPY
    /// would, so that a step sees neither ignored files nor the user's own ids.
    fn prepare_mounts(&self, run: &Run, inputs: &Inputs<'_>) -> Result<Vec<Prepared>, StepError> {
        let mut prepared = Vec::with_capacity(run.mounts.len());
        for mount in &run.mounts {
            let MountKind::Bind { from, source, .. } = &mount.kind else {
                prepared.push(Prepared::None);
                continue;
            };
            let source_path = source.trim_start_matches('/').as_bytes().to_vec();
            prepared.push(match from {
                FileSystem::Scratch => Prepared::Files(super::empty_snapshot(), source_path),
                FileSystem::Vertex(index) => {
                    Prepared::Files(inputs.parent(Some(*index)), source_path)
                }
                FileSystem::Context => self.context_files(mount, source)?,
            });
        }
        Ok(prepared)
    }

    fn context_files(&self, mount: &Mount, source: &str) -> Result<Prepared, StepError> {
        let missing = || RunError::NoSource {
            mount: mount.target.clone(),
            source_path: source.to_owned(),
        };
        let tree = self.context.as_ref().ok_or_else(missing)?;
        let path = source.trim_start_matches('/').as_bytes();
        let node = tree
            .lookup(path, true)
            .map_err(copy::CopyError::Tree)?
            .ok_or_else(missing)?;
        let is_directory = node.entry.is_directory();
        let copy = Copy {
            from: FileSystem::Context,
            sources: vec![CopySource::Path(source.to_owned())],
            destination: if is_directory { "/" } else { "/file" }.to_owned(),
            chown: None,
            chmod: None,
            unpack: false,
            exclude: Vec::new(),
            directory_time: None,
        };
        let result = self.copy(&copy, &super::empty_snapshot(), Some(tree))?;
        let inside = if is_directory {
            Vec::new()
        } else {
            b"file".to_vec()
        };
        Ok(Prepared::Files(result.snapshot, inside))
    }

    fn assemble(
        &self,
        run: &Run,
        view: &View,
        user: &ExecUser,
        prepared: &[Prepared],
    ) -> Result<Assembly, StepError> {
        let mut assembly = Assembly {
            mounts: Vec::new(),
            passed: Vec::new(),
            env: environment(run, user),
            points: MountPoints::default(),
            scratch: Vec::new(),
            locks: Vec::new(),
        };
        for (target, kind) in STANDARD {
            assembly.point(view, target, kind)?;
        }
        assembly.point(view, run.cwd.as_bytes(), Kind::Directory)?;
        assembly.memory_file("/etc/resolv.conf", &resolv_conf()?, 0o644, (0, 0))?;
        let hosts =
            format!("127.0.0.1\tlocalhost {HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        assembly.memory_file("/etc/hosts", hosts.as_bytes(), 0o644, (0, 0))?;
        if let Some(script) = &run.script {
            let path = format!("{SCRIPTS}/{}", script.name);
            assembly.memory_file(&path, script.content.as_bytes(), 0o755, (0, 0))?;
        }
        for (mount, prepared) in run.mounts.iter().zip(prepared) {
            self.mount(mount, prepared, view, &mut assembly)?;
        }
        Ok(assembly)
    }

    fn mount(
        &self,
        mount: &Mount,
        prepared: &Prepared,
        view: &View,
        assembly: &mut Assembly,
    ) -> Result<(), StepError> {
        let target = mount.target.as_bytes();
        match &mount.kind {
            MountKind::Bind {
                source, read_write, ..
            } => {
                let Prepared::Files(snapshot, path) = prepared else {
                    return Ok(());
                };
                self.bind(mount, source, *read_write, snapshot, path, view, assembly)
            }
            MountKind::Cache { read_only, .. } => {
                let folder = self.cache_folder(&mount.kind, assembly)?;
                assembly.point(view, target, Kind::Directory)?;
                let source = MountSource::Path {
                    root: HostPath::from(folder),
                    path: Vec::new(),
                    recursive: false,
                };
                assembly.push(target, source, *read_only);
                Ok(())
            }
            MountKind::Tmpfs { size } => {
                assembly.point(view, target, Kind::Directory)?;
                let source = MountSource::Tmpfs {
                    size: *size,
                    mode: 0o1777,
                };
                assembly.push(target, source, false);
                Ok(())
            }
            MountKind::Secret {
                id,
                required,
                mode,
                uid,
                gid,
                env,
                file,
            } => {
                let Some(value) = self.secrets.get(id) else {
                    if *required {
                        return Err(RunError::NoSecret(id.clone()).into());
                    }
                    return Ok(());
                };
                if let Some(name) = env {
                    let text = std::str::from_utf8(value)
                        .map_err(|_| RunError::SecretIsNotText(id.clone()))?;
                    assembly.env.push(format!("{name}={text}"));
                }
                if *file {
                    assembly.point(view, target, Kind::File)?;
                    assembly.memory_file(&mount.target, value, *mode, (*uid, *gid))?;
                }
                Ok(())
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call, and a struct would only name them again"
    )]
    fn bind(
        &self,
        mount: &Mount,
        source: &str,
        read_write: bool,
        snapshot: &Snapshot,
        path: &[u8],
        view: &View,
        assembly: &mut Assembly,
    ) -> Result<(), StepError> {
        let shown = self.view(snapshot)?;
        let resolved = shown.resolve(path, true).map_err(|error| RunError::Path {
            path: source.to_owned(),
            source: error,
        })?;
        let is_directory = match &resolved.found {
            _ if resolved.path.is_empty() => true,
            Some(found) => found.entry.is_directory(),
            None => {
                return Err(RunError::NoSource {
                    mount: mount.target.clone(),
                    source_path: source.to_owned(),
                }
                .into());
            }
        };
        let kind = if is_directory {
            Kind::Directory
        } else {
            Kind::File
        };
        assembly.point(view, mount.target.as_bytes(), kind)?;
        let mut lower: Vec<HostPath> = self
            .materializer
            .trees(snapshot)?
            .into_iter()
            .rev()
            .map(HostPath::from)
            .collect();
        if lower.is_empty() {
            let empty = self.store().scratch()?;
            lower.push(HostPath::from(empty.path().to_owned()));
            assembly.scratch.push(empty);
        }
        let writable = if read_write {
            let folders = self.store().scratch()?;
            let writable = writable_in(folders.path())?;
            assembly.scratch.push(folders);
            Some(writable)
        } else {
            None
        };
        let source = MountSource::Layers {
            lower,
            writable,
            path: resolved.path.clone(),
        };
        assembly.push(mount.target.as_bytes(), source, !read_write);
        Ok(())
    }

    /// The folder of a cache mount, by the hash of its id, locked as its sharing wants.
    fn cache_folder(
        &self,
        kind: &MountKind,
        assembly: &mut Assembly,
    ) -> Result<PathBuf, StepError> {
        let MountKind::Cache {
            id,
            sharing,
            mode,
            uid,
            gid,
            ..
        } = kind
        else {
            return Err(RunError::Canceled.into());
        };
        let hash = |copy: u64| {
            CacheKeyBuilder::new("cache mount")
                .field(id.as_bytes())
                .number(copy)
                .finish()
        };
        let mut copy = 0;
        match sharing {
            CacheSharing::Shared => {}
            CacheSharing::Locked => assembly.locks.push(self.store().lock(&hash(copy))?),
            CacheSharing::Private => loop {
                if let Some(lock) = self.store().try_lock(&hash(copy))? {
                    assembly.locks.push(lock);
                    break;
                }
                copy += 1;
            },
        }
        let folder = self
            .store()
            .cache_mount(&hash(copy), self.materializer.form())?;
        let what = "making a cache mount";
        let is_empty = std::fs::read_dir(&folder)
            .map_err(failed(what))?
            .next()
            .is_none();
        if is_empty {
            std::os::unix::fs::chown(&folder, Some(*uid), Some(*gid)).map_err(failed(what))?;
            let permissions = std::fs::Permissions::from_mode(*mode);
            std::fs::set_permissions(&folder, permissions).map_err(failed(what))?;
        }
        Ok(folder)
    }

    fn spec(
        &self,
        run: &Run,
        parent: &Snapshot,
        view: &View,
        user: &ExecUser,
        upper: &PendingTree,
        assembly: &mut Assembly,
    ) -> Result<SandboxSpec, StepError> {
        let mut lower: Vec<HostPath> = Vec::new();
        if !assembly.points.is_empty() {
            let tree = self.store().scratch()?;
            let tar = assembly
                .points
                .tar(root_entry(view))
                .map_err(RunError::Changes)?;
            let directory = File::open(tree.path()).map_err(failed("opening mount points"))?;
            apply::extract(
                tar.as_slice(),
                directory.as_fd(),
                self.materializer.form(),
                view,
            )
            .map_err(RunError::Changes)?;
            lower.push(HostPath::from(tree.path().to_owned()));
            assembly.scratch.push(tree);
        }
        let trees = self.materializer.trees(parent)?;
        lower.extend(trees.into_iter().rev().map(HostPath::from));
        let work = self.store().scratch()?;
        let spec = SandboxSpec {
            lower,
            writable: Writable {
                upper: HostPath::from(upper.path().to_owned()),
                work: HostPath::from(work.path().to_owned()),
            },
            xattr_namespace: match self.materializer.form().xattr_namespace {
                crate::layer::form::XattrNamespace::Trusted => XattrNamespace::Trusted,
                crate::layer::form::XattrNamespace::User => XattrNamespace::User,
            },
            mounts: std::mem::take(&mut assembly.mounts),
            args: run.args.clone(),
            env: std::mem::take(&mut assembly.env),
            cwd: run.cwd.clone().into_bytes(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            hostname: HOSTNAME.to_owned(),
            network: match run.network {
                NetworkMode::Host => Network::Host,
                NetworkMode::None => Network::None,
            },
            security: Security::Sandbox,
        };
        assembly.scratch.push(work);
        Ok(spec)
    }

    fn start(
        &self,
        launcher: &crate::sandbox::Launcher,
        spec: SandboxSpec,
        passed: Vec<OwnedFd>,
        id: VertexId,
    ) -> Result<Outcome, StepError> {
        let (stdout, out_end) = pipe()?;
        let (stderr, err_end) = pipe()?;
        let running = Arc::new(
            launcher
                .run(
                    spec,
                    SandboxFiles {
                        stdin: None,
                        stdout: out_end,
                        stderr: err_end,
                        passed,
                    },
                )
                .map_err(RunError::Launcher)?,
        );
        let killer = Arc::clone(&running);
        let _on_cancel = self.cancel.on_cancel(move || killer.kill());
        let readers = [
            self.forward(stdout, LogStream::Stdout, id),
            self.forward(stderr, LogStream::Stderr, id),
        ];
        let outcome = running.wait().map_err(RunError::Launcher)?;
        for reader in readers {
            // A reader can't fail: it ends with its pipe.
            let _ = reader.join();
        }
        if self.cancel.is_canceled() {
            return Err(StepError::Canceled);
        }
        Ok(outcome)
    }

    fn forward(&self, from: OwnedFd, stream: LogStream, id: VertexId) -> JoinHandle<()> {
        let events = Arc::clone(&self.events);
        std::thread::spawn(move || {
            let mut from = File::from(from);
            let mut buffer = vec![0; 1 << 14];
            while let Ok(n) = from.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                let bytes = buffer[..n].to_vec();
                events.emit(Event::Log { id, stream, bytes });
            }
        })
    }

    fn commit(
        &self,
        key: CacheKey,
        parent: &Snapshot,
        view: &View,
        upper: PendingTree,
        points: &MountPoints,
    ) -> Result<StepResult, StepError> {
        let directory = File::open(upper.path()).map_err(failed("opening the step's changes"))?;
        let layers = &parent.layers;
        let lower = |found: &crate::layer::view::Found<'_>| -> io::Result<Box<dyn Read>> {
            let layer = layers.get(found.layer).ok_or(io::ErrorKind::NotFound)?;
            let content = self
                .materializer
                .content(*layer)
                .map_err(io::Error::other)?;
            let inode = view.inode(*found).unwrap_or(*found);
            open_content(&content, &inode)
        };
        let index = diff::index_tree(
            directory.as_fd(),
            self.materializer.form(),
            view,
            &|_, found| lower(found),
        )
        .map_err(RunError::Changes)?;
        let index = points.prune(index);
        let layer = self.store().create_layer(&NewLayer::default())?;
        self.store().put_index(layer, &index)?;
        upper.commit(layer)?;
        self.finished(key, parent, layer)
    }
}

fn open_content(
    content: &Content,
    found: &crate::layer::view::Found<'_>,
) -> io::Result<Box<dyn Read>> {
    let reader: Box<dyn Read> = content.open(found.entry)?;
    Ok(reader)
}

impl Assembly {
    fn point(&mut self, view: &View, target: &[u8], kind: Kind) -> Result<(), RunError> {
        let lies_in_dev = target.starts_with(b"/dev/") || target.starts_with(b"dev/");
        if lies_in_dev {
            return Ok(());
        }
        let added = self.points.add(view, target, kind);
        added.map(drop).map_err(|source| RunError::Path {
            path: String::from_utf8_lossy(target).into_owned(),
            source,
        })
    }

    fn push(&mut self, target: &[u8], source: MountSource, read_only: bool) {
        self.mounts.push(SandboxMount {
            target: target.to_vec(),
            source,
            read_only,
        });
    }

    /// Shows `content` as a read-only file that no disk ever holds.
    fn memory_file(
        &mut self,
        target: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), RunError> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let memory = rustix::fs::memfd_create("file", flags)
            .map_err(|error| failed("making a file in memory")(error.into()))?;
        let mut memory = File::from(memory);
        memory
            .write_all(content)
            .map_err(failed("making a file in memory"))?;
        io::Seek::rewind(&mut memory).map_err(failed("making a file in memory"))?;
        let source = MountSource::File {
            index: self.passed.len(),
            mode,
            uid: owner.0,
            gid: owner.1,
        };
        self.passed.push(memory.into());
        self.push(target.as_bytes(), source, true);
        Ok(())
    }
}

/// The key of everything that a step's result hangs on.
fn run_key(run: &Run, parent: &Snapshot, prepared: &[Prepared]) -> CacheKey {
    let mut key = CacheKeyBuilder::new("run");
    key.key(&parent.key).number(run.args.len() as u64);
    for arg in &run.args {
        key.field(arg.as_bytes());
    }
    key.number(run.env.len() as u64);
    for (name, value) in &run.env {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    key.field(run.user.as_bytes()).field(run.cwd.as_bytes());
    key.number(match run.network {
        NetworkMode::Host => 0,
        NetworkMode::None => 1,
    });
    if let Some(script) = &run.script {
        key.field(script.name.as_bytes())
            .field(script.content.as_bytes());
    }
    key.number(run.mounts.len() as u64);
    for (mount, prepared) in run.mounts.iter().zip(prepared) {
        key.field(mount.target.as_bytes());
        match (&mount.kind, prepared) {
            (MountKind::Bind { read_write, .. }, Prepared::Files(snapshot, path)) => {
                key.number(0)
                    .key(&snapshot.key)
                    .field(path)
                    .number(u64::from(*read_write));
            }
            (MountKind::Bind { .. }, Prepared::None) => {
                key.number(1);
            }
            (MountKind::Cache { id, .. }, _) => {
                key.number(2).field(id.as_bytes());
            }
            (MountKind::Tmpfs { size }, _) => {
                key.number(3).number(size.unwrap_or(0));
            }
            (MountKind::Secret { id, .. }, _) => {
                key.number(4).field(id.as_bytes());
            }
        }
    }
    key.finish()
}

fn environment(run: &Run, user: &ExecUser) -> Vec<String> {
    let mut env: Vec<String> = run
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let has = |name: &str| run.env.iter().any(|(n, _)| n == name);
    for (name, value) in &run.proxy {
        if !has(name) {
            env.push(format!("{name}={value}"));
        }
    }
    if !has("HOME") {
        env.push(format!("HOME={}", user.home));
    }
    env
}

/// The machine's name servers, as they are.
fn resolv_conf() -> Result<Vec<u8>, RunError> {
    match std::fs::read("/etc/resolv.conf") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(failed("reading /etc/resolv.conf")),
    }
}

/// The root directory of an overlay mount has the attributes of its upper directory.
fn prepare_upper(upper: &Path, view: &View) -> Result<(), RunError> {
    let root = root_entry(view);
    let what = "preparing the step's root directory";
    std::os::unix::fs::chown(upper, Some(root.uid), Some(root.gid)).map_err(failed(what))?;
    std::fs::set_permissions(upper, std::fs::Permissions::from_mode(root.mode))
        .map_err(failed(what))?;
    let time = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(u64::try_from(root.mtime).unwrap_or(0));
    let directory = File::open(upper).map_err(failed(what))?;
    directory.set_modified(time).map_err(failed(what))
}

fn writable_in(folder: &Path) -> Result<Writable, RunError> {
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    for path in [&upper, &work] {
        std::fs::create_dir(path).map_err(failed("making room for a mount's writes"))?;
    }
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o755))
        .map_err(failed("making room for a mount's writes"))?;
    Ok(Writable {
        upper: HostPath::from(upper),
        work: HostPath::from(work),
    })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), RunError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| failed("making a pipe")(error.into()))
}

fn succeed(run: &Run, outcome: Outcome) -> Result<(), RunError> {
    let command = || run.args.join(" ");
    match outcome {
        Outcome::Exited { code: 0 } => Ok(()),
        Outcome::Exited { code } => Err(RunError::Exit {
            command: command(),
            code,
        }),
        Outcome::Signaled { signal } => Err(RunError::Signal {
            command: command(),
            signal,
        }),
        Outcome::NotExecutable { code, message } => Err(RunError::NotStarted {
            command: command(),
            code,
            message,
        }),
        Outcome::SetupFailed(failure) => Err(failure.into()),
    }
}
