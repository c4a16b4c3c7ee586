//! What a step sees besides the image: its mounts, name servers, secrets, and the places for them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{RunError, failed};
use super::{SCRIPTS, STANDARD, environment, hostname};
use crate::digest::CacheKeyBuilder;
use crate::dockerfile::instruction::CacheSharing;
use crate::graph::{Copy, FileSystem, InlineFile, Mount, MountKind, NetworkMode, Run, RunSettings};
use crate::layer::apply;
use crate::layer::form::Form;
use crate::layer::view::View;
use crate::sandbox::{
    HostPath, MountSource, Network, OutsideHelper, PrivateNetwork, SandboxMount, StepCgroup,
    Writable,
};
use crate::snapshot::{FileTree, Snapshot, SnapshotTree, StorageDriver};
use crate::step::agent::AgentSocket;
use crate::step::mount_points::{Kind, MountPoints};
use crate::step::owner::ExecUser;
use crate::step::{Inputs, StepContext, StepError, copy, empty_snapshot, noted_owners};
use crate::store::{Lock, Scratch};

/// A mount's source, made ready before the key is known.
pub(super) enum Prepared {
    /// A snapshot, and the path in it.
    Files(Snapshot, Vec<u8>),
    /// Nothing needs to be made ready.
    None,
}

/// A spec in the making, with what has to live until the step has ended.
#[derive(Debug, Default)]
pub(in crate::step) struct Assembly {
    pub(in crate::step) mounts: Vec<SandboxMount>,
    pub(in crate::step) passed: Vec<OwnedFd>,
    pub(in crate::step) env: Vec<String>,
    pub(in crate::step) points: MountPoints,
    pub(in crate::step) scratch: Vec<Scratch>,
    pub(in crate::step) locks: Vec<Lock>,
    pub(in crate::step) agents: Vec<AgentSocket>,
    /// Caches that the step has, where each can be in one place only.
    caches: BTreeSet<String>,
    /// The network that it sees, and what is behind it where that is a private one.
    pub(in crate::step) network: Network,
    private_network: Option<PrivateNetwork>,
    /// Which of `passed` is the file to enter the step's cgroup by.
    pub(in crate::step) cgroup: Option<usize>,
}

impl StepContext {
    /// Makes a snapshot of every bind mount's source. Files of a context are copied as COPY
    /// would, so that a step sees neither ignored files nor the user's own ids.
    pub(super) fn prepare_mounts(
        &self,
        run: &Run,
        inputs: &Inputs<'_>,
        fresh: bool,
    ) -> Result<Vec<Prepared>, StepError> {
        let mut prepared = Vec::with_capacity(run.mounts.len());
        for mount in &run.mounts {
            let (from, source) = match &mount.kind {
                MountKind::Bind { from, source, .. } => (*from, source),
                MountKind::Cache {
                    from: Some((from, source)),
                    ..
                } => (*from, source),
                _ => {
                    prepared.push(Prepared::None);
                    continue;
                }
            };
            let source_path = source.trim_start_matches('/').as_bytes().to_vec();
            prepared.push(match from {
                FileSystem::Scratch => Prepared::Files(empty_snapshot(), source_path),
                FileSystem::Vertex(index) => {
                    Prepared::Files(inputs.parent(Some(index)), source_path)
                }
                FileSystem::Context | FileSystem::Folder(_) => {
                    self.context_files(from, mount, source, fresh)?
                }
            });
        }
        Ok(prepared)
    }

    fn context_files(
        &self,
        from: FileSystem,
        mount: &Mount,
        source: &str,
        fresh: bool,
    ) -> Result<Prepared, StepError> {
        let missing = || RunError::NoSource {
            mount: mount.target.clone(),
            source_path: source.to_owned(),
        };
        let tree = self.folder(from)?.ok_or_else(missing)?;
        let path = source.trim_start_matches('/').as_bytes();
        let node = tree
            .lookup(path, true)
            .map_err(copy::CopyError::Tree)?
            .ok_or_else(missing)?;
        let is_directory = node.entry.is_directory();
        let destination = if is_directory { "/" } else { "/file" };
        let copy = Copy::literal(from, source.to_owned(), destination);
        let result = self.copy(&copy, &empty_snapshot(), Some(&tree), fresh, &|| {})?;
        let inside = if is_directory {
            Vec::new()
        } else {
            b"file".to_vec()
        };
        Ok(Prepared::Files(result.snapshot, inside))
    }

    pub(super) fn assemble(
        &self,
        run: &Run,
        view: &View,
        user: &ExecUser,
        prepared: &[Prepared],
    ) -> Result<Assembly, StepError> {
        let mut assembly = Assembly {
            env: environment(&run.env, &run.proxy, &user.home),
            ..Assembly::default()
        };
        assembly.enter_network(run.network, &self.outside)?;
        for (target, kind) in STANDARD {
            assembly.point(view, target, kind)?;
        }
        assembly.point(view, run.cwd.as_bytes(), Kind::Directory)?;
        assembly.tell_programs(self.materializer.form(), view)?;
        assembly.memory_file("/etc/resolv.conf", &assembly.resolv_conf()?, 0o644, (0, 0))?;
        let hosts = hosts(hostname(run), &run.settings.hosts);
        assembly.memory_file("/etc/hosts", hosts.as_bytes(), 0o644, (0, 0))?;
        if let Some(script) = &run.script {
            self.show_script(script, &mut assembly)?;
        }
        for (mount, prepared) in run.mounts.iter().zip(prepared) {
            self.mount(mount, prepared, view, &mut assembly)?;
        }
        Ok(assembly)
    }

    /// Shows a heredoc as a program, in a folder of its own.
    fn show_script(&self, script: &InlineFile, assembly: &mut Assembly) -> Result<(), StepError> {
        let what = "preparing inline document";
        let scratch = self.store().scratch()?;
        let folder = scratch.path().join("pipes");
        std::fs::create_dir(&folder).map_err(failed(what))?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&folder, mode.clone()).map_err(failed(what))?;
        // A delimiter is one word; one with a slash in it names no file.
        let file = folder.join(&script.name);
        std::fs::write(&file, &script.content).map_err(failed(what))?;
        std::fs::set_permissions(&file, mode).map_err(failed(what))?;
        let source = MountSource::Path {
            root: HostPath::from(folder),
            path: Vec::new(),
            recursive: false,
        };
        assembly.push(SCRIPTS.as_bytes(), source, true);
        assembly.scratch.push(scratch);
        Ok(())
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
                let folder = self.cache_folder(&mount.kind, prepared, assembly)?;
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
                    executable: true,
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
            MountKind::Ssh { .. } => self.show_agent(mount, view, assembly),
        }
    }

    /// Shows a socket behind which this build's agent of that id answers.
    fn show_agent(
        &self,
        mount: &Mount,
        view: &View,
        assembly: &mut Assembly,
    ) -> Result<(), StepError> {
        let MountKind::Ssh {
            id,
            required,
            mode,
            uid,
            gid,
        } = &mount.kind
        else {
            return Ok(());
        };
        let Some(agent) = self.agents.get(id) else {
            return match required {
                true => Err(RunError::NoAgent(id.clone()).into()),
                false => Ok(()),
            };
        };
        let folder = self.store().scratch()?;
        let socket = AgentSocket::listen(folder.path(), agent, *mode, (*uid, *gid))
            .map_err(failed("making the socket of an SSH agent"))?;
        assembly.point(view, mount.target.as_bytes(), Kind::File)?;
        let source = MountSource::Path {
            root: HostPath::from(socket.path().to_owned()),
            path: Vec::new(),
            recursive: false,
        };
        assembly.push(mount.target.as_bytes(), source, false);
        assembly.agents.push(socket);
        assembly.scratch.push(folder);
        Ok(())
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
        if self.materializer.driver() == StorageDriver::Copy {
            let copy = self.store().scratch()?;
            let (materializer, path) = (&self.materializer, &resolved.path);
            materializer.copy_out(snapshot, &shown, path, copy.path())?;
            let source = MountSource::Path {
                root: HostPath::from(copy.path().to_owned()),
                path: match is_directory {
                    true => Vec::new(),
                    false => b"file".to_vec(),
                },
                recursive: false,
            };
            assembly.push(mount.target.as_bytes(), source, !read_write);
            assembly.scratch.push(copy);
            return Ok(());
        }
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

    /// Gives a new cache folder its first content.
    fn fill(&self, folder: &Path, snapshot: &Snapshot, path: &[u8]) -> Result<(), StepError> {
        let source = String::from_utf8_lossy(path).into_owned();
        let copy = Copy::literal(FileSystem::Scratch, source, "/");
        let tree: Arc<dyn FileTree> =
            Arc::new(SnapshotTree::new(Arc::clone(&self.materializer), snapshot)?);
        let copied = self.copy(&copy, &empty_snapshot(), Some(&tree), false, &|| {})?;
        let what = "filling a cache mount";
        let root = File::open(folder).map_err(failed(what))?;
        for layer in &copied.snapshot.layers {
            let tar = self.materializer.plain_tar(*layer)?;
            apply::extract(
                BufReader::new(tar),
                root.as_fd(),
                self.materializer.form(),
                &View::default(),
            )
            .map_err(RunError::Changes)?;
        }
        Ok(())
    }

    /// The folder of a cache mount, locked as its sharing wants. What a new one begins with tells
    /// caches of one id apart, as in BuildKit: mode, owner, first content.
    fn cache_folder(
        &self,
        kind: &MountKind,
        prepared: &Prepared,
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
            let mut key = CacheKeyBuilder::new("cache mount");
            key.field(id.as_bytes()).number(copy);
            for number in [*mode, *uid, *gid] {
                key.number(u64::from(number));
            }
            if let Prepared::Files(snapshot, path) = prepared {
                key.key(&snapshot.key).field(path);
            }
            key.finish()
        };
        let mut copy = 0;
        let can_mount = match &self.launcher {
            Ok(launcher) => launcher.can_mount(),
            Err(_) => true,
        };
        if !can_mount
            && *sharing != CacheSharing::Private
            && !assembly.caches.insert(hash(copy).hex())
        {
            return Err(RunError::CacheTwice(id.clone()).into());
        }
        match sharing {
            CacheSharing::Shared if can_mount => {}
            // One folder can be in one place only.
            CacheSharing::Shared | CacheSharing::Locked => {
                assembly.locks.push(self.lock(&hash(copy))?)
            }
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
            if let Prepared::Files(snapshot, path) = prepared {
                self.fill(&folder, snapshot, path)?;
            }
            apply::set_folder_owner(&folder, self.materializer.form(), (*uid, *gid))
                .map_err(RunError::Changes)?;
            let permissions = std::fs::Permissions::from_mode(*mode);
            std::fs::set_permissions(&folder, permissions).map_err(failed(what))?;
        }
        Ok(folder)
    }
}

impl Assembly {
    /// Has a network ready.
    pub(in crate::step) fn enter_network(
        &mut self,
        mode: NetworkMode,
        outside: &OutsideHelper,
    ) -> Result<(), RunError> {
        self.network = match mode {
            NetworkMode::Host => Network::Host,
            NetworkMode::None => Network::None,
            NetworkMode::Private => {
                let network = PrivateNetwork::start(outside)?;
                let namespace = network.namespace().map_err(failed("opening a network"))?;
                let index = self.passed.len();
                self.passed.push(namespace);
                self.private_network = Some(network);
                Network::Private(index)
            }
        };
        Ok(())
    }

    /// The machine's name servers: as they are, or whoever answers for them.
    pub(in crate::step) fn resolv_conf(&self) -> Result<Vec<u8>, RunError> {
        let content = resolv_conf()?;
        let Some(network) = &self.private_network else {
            return Ok(content);
        };
        let text = String::from_utf8_lossy(&content);
        let is_server = |line: &&str| line.trim_start().starts_with("nameserver");
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !is_server(line))
            .map(str::to_owned)
            .collect();
        lines.push(format!("nameserver {}\n", network.name_server()));
        Ok(lines.join("\n").into_bytes())
    }

    /// Makes the step's own cgroup where one is wanted. It goes with the value that is given.
    pub(in crate::step) fn enter_cgroup(
        &mut self,
        settings: &RunSettings,
    ) -> Result<Option<StepCgroup>, RunError> {
        let parent = settings.cgroup_parent.as_deref();
        if parent.is_none() && settings.limits.is_empty() {
            return Ok(None);
        }
        let cgroup =
            StepCgroup::create(parent, &settings.limits).map_err(|source| match parent {
                Some(_) => RunError::CgroupParent(source),
                None => RunError::Limits(source),
            })?;
        let processes = cgroup.processes().map_err(failed("opening a cgroup"))?;
        self.cgroup = Some(self.passed.len());
        self.passed.push(processes);
        Ok(Some(cgroup))
    }

    pub(in crate::step) fn point(
        &mut self,
        view: &View,
        target: &[u8],
        kind: Kind,
    ) -> Result<(), RunError> {
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

    /// See [`noted_owners::tell_programs`].
    pub(in crate::step) fn tell_programs(
        &mut self,
        form: &Form,
        view: &View,
    ) -> Result<(), RunError> {
        noted_owners::tell_programs(form, view, &mut self.points).map_err(|source| RunError::Path {
            path: "/etc/apt/apt.conf.d".to_owned(),
            source,
        })
    }

    pub(in crate::step) fn push(&mut self, target: &[u8], source: MountSource, read_only: bool) {
        self.mounts.push(SandboxMount {
            target: target.to_vec(),
            source,
            read_only,
        });
    }

    /// Shows `content` as a read-only file that no disk ever holds.
    pub(in crate::step) fn memory_file(
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

/// What `/etc/hosts` says to a program on a machine of this name, with the user's own lines.
pub(in crate::step) fn hosts(hostname: &str, others: &[(String, IpAddr)]) -> String {
    let mut hosts =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in others {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    hosts
}

/// The machine's name servers, as they are.
fn resolv_conf() -> Result<Vec<u8>, RunError> {
    match std::fs::read("/etc/resolv.conf") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(failed("reading /etc/resolv.conf")),
    }
}

pub(in crate::step) fn writable_in(folder: &Path) -> Result<Writable, RunError> {
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
