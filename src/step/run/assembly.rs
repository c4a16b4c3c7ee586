//! What a step sees besides the image, put together: mounts and the places for them, files in memory,
//! its network and its cgroup.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use super::error::{RunError, failed};
use crate::graph::{NetworkMode, RunSettings};
use crate::layer::form::Form;
use crate::layer::view::View;
use crate::sandbox::{
    MountSource, Network, OutsideHelper, PrivateNetwork, SandboxMount, StandIn, StepCgroup,
};
use crate::step::agent::AgentSocket;
use crate::step::mount_points::{Kind, MountPoints};
use crate::step::noted_owners;
use crate::store::{Lock, Scratch};

/// A spec in the making, with what has to live until the step has ended.
#[derive(Debug, Default)]
pub(in crate::step) struct Assembly {
    pub(in crate::step) mounts: Vec<SandboxMount>,
    pub(in crate::step) passed: Vec<OwnedFd>,
    /// Secrets where nothing can be mounted.
    pub(in crate::step) stand_ins: Vec<StandIn>,
    pub(in crate::step) env: Vec<String>,
    pub(in crate::step) points: MountPoints,
    pub(in crate::step) scratch: Vec<Scratch>,
    pub(in crate::step) locks: Vec<Lock>,
    pub(in crate::step) agents: Vec<AgentSocket>,
    /// Caches that the step has, where each can be in one place only.
    pub(super) caches: BTreeSet<String>,
    /// The network that it sees, and what is behind it where that is a private one.
    pub(in crate::step) network: Network,
    private_network: Option<PrivateNetwork>,
    /// Which of `passed` is the file to enter the step's cgroup by.
    pub(in crate::step) cgroup: Option<usize>,
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

    /// Shows `content` as a read-only file in memory.
    pub(in crate::step) fn memory_file(
        &mut self,
        target: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), RunError> {
        self.file(target, content, mode, owner, false)
    }

    /// The same, and no disk ever holds it.
    pub(super) fn secret_file(
        &mut self,
        target: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), RunError> {
        self.file(target, content, mode, owner, true)
    }

    fn file(
        &mut self,
        target: &str,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
        is_secret: bool,
    ) -> Result<(), RunError> {
        let memory = in_memory(content).map_err(failed("making a file in memory"))?;
        let source = MountSource::File {
            is_secret,
            index: self.passed.len(),
            mode,
            uid: owner.0,
            gid: owner.1,
        };
        self.passed.push(memory);
        self.push(target.as_bytes(), source, true);
        Ok(())
    }
}

/// A file in memory that nobody changes any more.
fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create("file", flags)?);
    memory.write_all(content)?;
    memory.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory.into())
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
