//! A user namespace with a `binfmt_misc` of its own (Linux 6.7): what is registered there counts
//! for the processes in it, and for nobody else on the machine.
//!
//! The kernel looks for the registration in the user namespace of whoever starts a program. So the
//! steps that need it enter this one, which has every id of rbuild's own as itself, and others
//! keep seeing what the machine has registered. Nothing is mounted anywhere: the file system lives
//! as long as the descriptor, the namespace as long as somebody is in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::WaitOptions;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};

use crate::sandbox::channel::{Channel, Received, retry};
use crate::sandbox::id_map::IdMaps;
use crate::sandbox::syscall::{self, Fork};
use crate::sandbox::{launcher, mount};

/// The namespace and its file system.
pub(super) struct Instance {
    user_namespace: OwnedFd,
    registry: OwnedFd,
}

/// What could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Missing {
    /// A process, a connection.
    Process(i32),
    /// The user namespace.
    UserNamespace(i32),
    /// Its ids.
    Ids(i32),
    /// Its `binfmt_misc`.
    Registry(i32),
}

impl Instance {
    /// Makes one, with the help of a process that enters the namespace and ends.
    pub(super) fn make() -> Result<Self, Missing> {
        let process = |errno: Errno| Missing::Process(errno.raw_os_error());
        let ids = |error: std::io::Error| Missing::Ids(error.raw_os_error().unwrap_or(0));
        let maps = IdMaps::identity().map_err(ids)?;
        let (near, far) = Channel::pair().map_err(process)?;
        let child = match syscall::fork().map_err(process)? {
            Fork::Child => {
                drop(near);
                enter(&far);
                syscall::exit(0)
            }
            Fork::Parent(pid) => pid,
        };
        drop(far);
        let made = (|| {
            receive(&near)?.message?;
            maps.write(child).map_err(ids)?;
            near.send(&(), &[]).map_err(process)?;
            let Received {
                message,
                descriptors,
            } = receive(&near)?;
            message?;
            let mut descriptors = descriptors.into_iter();
            match (descriptors.next(), descriptors.next()) {
                (Some(user_namespace), Some(registry)) => Ok(Self {
                    user_namespace,
                    registry,
                }),
                _ => Err(process(Errno::BADF)),
            }
        })();
        // Without a word from us it ends.
        near.shutdown();
        let _ = retry(|| rustix::process::waitpid(Some(child), WaitOptions::empty()));
        made
    }

    /// Has the kernel know a kind of programs, by a line in `binfmt_misc`'s own language.
    pub(super) fn register(&self, line: &str) -> Result<(), Errno> {
        self.write("register", line)
    }

    /// Takes a registration back.
    pub(super) fn unregister(&self, name: &str) -> Result<(), Errno> {
        self.write(name, "-1")
    }

    fn write(&self, file: &str, line: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.registry, file, flags, Mode::empty())?;
        retry(|| rustix::io::write(&file, line.as_bytes())).map(drop)
    }

    /// The namespace, to be entered.
    pub(super) fn user_namespace(&self) -> BorrowedFd<'_> {
        self.user_namespace.as_fd()
    }
}

type Answer = Result<(), Missing>;

fn receive(channel: &Channel) -> Result<Received<Answer>, Missing> {
    match channel.receive() {
        Ok(Some(received)) => Ok(received),
        Ok(None) => Err(Missing::Process(Errno::CHILD.raw_os_error())),
        Err(errno) => Err(Missing::Process(errno.raw_os_error())),
    }
}

/// The process that enters the namespace.
fn enter(channel: &Channel) {
    let entered: Answer = launcher::become_helper(&[&channel.as_fd()])
        .map_err(|errno| Missing::Process(errno.raw_os_error()))
        .and_then(|()| {
            syscall::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
                .map_err(|errno| Missing::UserNamespace(errno.raw_os_error()))
        });
    if channel.send(&entered, &[]).is_err() || entered.is_err() {
        return;
    }
    // Until the ids are mapped, nothing may be mounted.
    let Ok(Some(_)) = channel.receive::<()>() else {
        return;
    };
    // Whoever is gone by now needs no answer.
    let _ = match make_registry() {
        Ok((namespace, registry)) => {
            channel.send::<Answer>(&Ok(()), &[namespace.as_fd(), registry.as_fd()])
        }
        Err(missing) => channel.send::<Answer>(&Err(missing), &[]),
    };
}

fn make_registry() -> Result<(OwnedFd, OwnedFd), Missing> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open("/proc/self/ns/user", flags, Mode::empty())
        .map_err(|errno| Missing::UserNamespace(errno.raw_os_error()))?;
    let registry = mount::new_filesystem("binfmt_misc", &[], MountAttrFlags::empty())
        .map_err(|error| Missing::Registry(error.errno.raw_os_error()))?;
    Ok((namespace, registry))
}

/// Has this process, which has one thread, enter the namespace.
pub(in crate::sandbox) fn join(user_namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(user_namespace, Some(LinkNameSpaceType::User))
}
