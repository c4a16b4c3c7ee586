//! The mounts of a step: their sources made ready, and each put where the step sees it.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::assembly::{Assembly, hosts};
use super::error::{RunError, failed};
use super::{SCRIPTS, STANDARD, environment, hostname};
use crate::digest::CacheKeyBuilder;
use crate::dockerfile::instruction::CacheSharing;
use crate::graph::{Copy, FileSystem, InlineFile, Mount, MountKind, Run};
use crate::layer::apply;
use crate::layer::view::View;
use crate::sandbox::{HostPath, MountSource, Writable};
use crate::snapshot::{FileTree, Snapshot, SnapshotTree, StorageDriver};
use crate::step::agent::AgentSocket;
use crate::step::mount_points::Kind;
use crate::step::owner::ExecUser;
use crate::step::{Inputs, StepContext, StepError, copy, empty_snapshot};

/// A mount's source, made ready before the key is known.
pub(super) enum Prepared {
    /// A snapshot, and the path in it.
    Files(Snapshot, Vec<u8>),
    /// Nothing needs to be made ready.
    None,
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
        let mut assembly = Assembly::default();
        assembly.env = environment(&run.env, &run.proxy, &user.home);
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
                    assembly.secret_file(&mount.target, value, *mode, (*uid, *gid))?;
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
