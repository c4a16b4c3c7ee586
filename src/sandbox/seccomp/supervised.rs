//! The system calls that a supervisor answers where the kernel can't keep owners: which they are,
//! and what each one's arguments mean.
//!
//! Data only; what is answered is decided in [`supervisor`](crate::sandbox::supervisor).

use std::collections::HashMap;

use super::ARCHITECTURES;
use super::allowed::{ALLOWED, N};
use crate::sandbox::spec::HighestIds;

/// Why a sandbox is supervised, and who its step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Supervision {
    /// One user id of the machine stands for all of the image's.
    Owners {
        /// Whether the step begins as user 0, who may become anybody.
        is_root: bool,
    },
    /// Every id up to those of the stand-ins is mapped; what is beyond and what is a device is noted.
    Beyond(HighestIds),
    /// Nobody answers: the step shares its processes with others, who are to be left alone.
    None,
    /// The same, and `/proc` and `/sys` are somebody's to show: nothing is mounted there.
    KernelFiles {
        /// Whether there are files for which others stand in.
        stand_ins: bool,
    },
}

/// What becomes of a call that the filter alone would allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It succeeds without being carried out.
    Pretend,
    /// It is refused where it sends a signal to every process.
    SignalNotAll,
    /// It seems not to exist.
    Hide,
    /// It is the supervisor's.
    Ask,
    /// It is the supervisor's where the flags in the argument of this index don't say that the path
    /// may be empty.
    AskUnlessEmptyPath(u32),
    /// It is the supervisor's where the argument of this index is the mode of a device.
    AskForDevices(u32),
    /// It is the supervisor's where one of two arguments is an id from its first one on, and not -1.
    AskForIds(Ids),
}

/// Two arguments that are a user and a group, -1 to leave them as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    /// The index of the user's argument, which the group's follows.
    pub(super) argument: u32,
    /// Whether ids have 16 bits.
    pub(super) narrow: bool,
    /// The first user and group that the supervisor is asked about.
    pub(super) first: (u32, u32),
}

/// How a call names its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Naming {
    /// The first argument is a path; links are followed.
    Path,
    /// The first argument is a path; a link is itself.
    Link,
    /// The first argument is a descriptor.
    Descriptor,
    /// The first two arguments are a directory's descriptor and a path.
    At,
}

/// How a call tells what a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum StatLayout {
    /// `struct stat` of the machine's own programs.
    Native,
    /// `struct stat64` of 32-bit x86.
    X86,
}

/// A call that the supervisor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Call {
    /// chown and its kin; with `narrow`, ids have 16 bits.
    Chown { naming: Naming, narrow: bool },
    /// mknod and mknodat, of a device.
    Mknod { naming: Naming },
    /// stat and its kin.
    Stat { naming: Naming, layout: StatLayout },
    /// statx.
    Statx,
    /// setxattr and its kin.
    SetXattr { naming: Naming },
    /// removexattr and its kin.
    RemoveXattr { naming: Naming },
    /// listxattr and its kin.
    ListXattr { naming: Naming },
    /// getgroups; with `narrow`, ids have 16 bits.
    GetGroups { narrow: bool },
    /// rename, link and their kin, of which the supervisor has to know; with `at`, there is a
    /// directory's descriptor before each path.
    Rename { at: bool },
    /// symlink and symlinkat, likewise; the first argument is the link's target.
    Symlink { naming: Naming },
    /// chroot, likewise.
    Chroot,
}

/// Columns of [`ALLOWED`] whose programs have 16-bit ids in their oldest calls, and another `stat`.
const X86: usize = 1;
const ARM: usize = 4;

/// Changes of user and group.
const IDENTITY: [&str; 18] = [
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setuid",
    "setuid32",
];

impl Supervision {
    /// What becomes of the call of this name, for programs of this column.
    pub(super) fn of(self, name: &str, column: usize) -> Option<Treatment> {
        let is_root = match self {
            Self::Owners { is_root } => is_root,
            Self::None | Self::KernelFiles { .. } if name == "kill" => {
                return Some(Treatment::SignalNotAll);
            }
            Self::None => return None,
            Self::Beyond(first) => return first.treatment(call(name, column)?),
            // Programs do without it.
            Self::KernelFiles { stand_ins: true } if name == "openat2" => {
                return Some(Treatment::Hide);
            }
            Self::KernelFiles { stand_ins } => {
                let call = file_call(name, column)?;
                return (stand_ins || !call.is_for_stand_ins()).then_some(match name {
                    // Of a descriptor: what that is, is known.
                    "newfstatat" | "fstatat64" => Treatment::AskUnlessEmptyPath(3),
                    "statx" => Treatment::AskUnlessEmptyPath(2),
                    _ => Treatment::Ask,
                });
            }
        };
        if IDENTITY.contains(&name) {
            return is_root.then_some(Treatment::Pretend);
        }
        // Younger calls for attributes: programs do without them.
        if name.ends_with("xattrat") && name != "getxattrat" {
            return Some(Treatment::Hide);
        }
        call(name, column)?;
        Some(match name {
            "mknod" => Treatment::AskForDevices(1),
            "mknodat" => Treatment::AskForDevices(2),
            _ => Treatment::Ask,
        })
    }
}

impl HighestIds {
    /// What becomes of a call where nobody but these stand in. They are asked about, too: so who a
    /// file belongs to tells whether what was noted of it still holds.
    fn treatment(self, call: Call) -> Option<Treatment> {
        match call {
            // No id of 16 bits is beyond.
            Call::Chown { narrow: true, .. } if self.uid.min(self.gid) > 0xffff => None,
            Call::Chown { naming, narrow } => Some(Treatment::AskForIds(Ids {
                argument: if naming == Naming::At { 2 } else { 1 },
                narrow,
                first: (self.uid, self.gid),
            })),
            Call::Mknod { naming } => Some(Treatment::AskForDevices(match naming {
                Naming::At => 2,
                _ => 1,
            })),
            _ => None,
        }
    }
}

/// The call of this name, as programs of this column make it; `None` if it is no supervisor's.
fn call(name: &str, column: usize) -> Option<Call> {
    let is_32_bit = column == X86 || column == ARM;
    let naming = match name {
        "fchownat" | "mknodat" | "newfstatat" | "fstatat64" | "symlinkat" => Naming::At,
        _ => match name.as_bytes().first() {
            Some(b'l') if name != "listxattr" => Naming::Link,
            Some(b'f') => Naming::Descriptor,
            _ => Naming::Path,
        },
    };
    Some(match name {
        "chown" | "lchown" | "fchown" => Call::Chown {
            naming,
            narrow: is_32_bit,
        },
        "chown32" | "lchown32" | "fchown32" | "fchownat" => Call::Chown {
            naming,
            narrow: false,
        },
        "mknod" | "mknodat" => Call::Mknod { naming },
        "stat" | "lstat" | "fstat" | "newfstatat" if !is_32_bit => Call::Stat {
            naming,
            layout: StatLayout::Native,
        },
        "stat64" | "lstat64" | "fstat64" | "fstatat64" if column == X86 => Call::Stat {
            naming,
            layout: StatLayout::X86,
        },
        "statx" => Call::Statx,
        "setxattr" | "lsetxattr" | "fsetxattr" => Call::SetXattr { naming },
        "removexattr" | "lremovexattr" | "fremovexattr" => Call::RemoveXattr { naming },
        "listxattr" | "llistxattr" | "flistxattr" => Call::ListXattr { naming },
        "getgroups" => Call::GetGroups { narrow: is_32_bit },
        "getgroups32" => Call::GetGroups { narrow: false },
        "rename" | "link" => Call::Rename { at: false },
        "renameat" | "renameat2" | "linkat" => Call::Rename { at: true },
        "symlink" | "symlinkat" => Call::Symlink { naming },
        "chroot" => Call::Chroot,
        _ => return None,
    })
}

/// A call that names a file which may have to be shown, as its arguments say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum FileCall {
    /// open, openat.
    Open { naming: Naming },
    /// creat.
    Create,
    /// readlink, readlinkat.
    ReadLink { naming: Naming },
    /// access, faccessat.
    Access { naming: Naming },
    /// stat and its kin.
    Stat { naming: Naming, layout: StatLayout },
    /// statx.
    Statx,
    /// link, linkat.
    Link { naming: Naming },
    /// rename and its kin.
    Rename { naming: Naming },
    /// unlink, unlinkat.
    Unlink { naming: Naming },
}

impl FileCall {
    /// Whether it matters only where a file stands in for another.
    pub(in crate::sandbox) fn is_for_stand_ins(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Link { .. } | Self::Rename { .. } | Self::Unlink { .. }
        )
    }

    /// How it names its file.
    pub(in crate::sandbox) fn naming(self) -> Naming {
        match self {
            Self::Open { naming }
            | Self::ReadLink { naming }
            | Self::Access { naming }
            | Self::Link { naming }
            | Self::Rename { naming }
            | Self::Unlink { naming }
            | Self::Stat { naming, .. } => naming,
            Self::Statx => Naming::At,
            Self::Create => Naming::Path,
        }
    }
}

/// The call of this name, as programs of this column make it; `None` if it names no file to show.
fn file_call(name: &str, column: usize) -> Option<FileCall> {
    let naming = if name.ends_with("at") && !["stat", "lstat", "creat"].contains(&name)
        || ["faccessat2", "fstatat64", "renameat2"].contains(&name)
    {
        Naming::At
    } else if name.starts_with("lstat") {
        Naming::Link
    } else {
        Naming::Path
    };
    let is_32_bit = column == X86 || column == ARM;
    Some(match name {
        "open" | "openat" => FileCall::Open { naming },
        "readlink" | "readlinkat" => FileCall::ReadLink { naming },
        "creat" => FileCall::Create,
        "access" | "faccessat" | "faccessat2" => FileCall::Access { naming },
        "stat" | "lstat" | "newfstatat" if !is_32_bit => FileCall::Stat {
            naming,
            layout: StatLayout::Native,
        },
        "stat64" | "lstat64" | "fstatat64" if column == X86 => FileCall::Stat {
            naming,
            layout: StatLayout::X86,
        },
        "statx" => FileCall::Statx,
        "link" | "linkat" => FileCall::Link { naming },
        "rename" | "renameat" | "renameat2" => FileCall::Rename { naming },
        "unlink" | "unlinkat" => FileCall::Unlink { naming },
        _ => return None,
    })
}

/// Every call that may name a file to show, by architecture (`AUDIT_ARCH_…`) and number.
pub(in crate::sandbox) fn file_calls() -> HashMap<(u32, u32), FileCall> {
    by_number(file_call)
}

/// Every supervised call by architecture (`AUDIT_ARCH_…`) and number.
pub(in crate::sandbox) fn calls() -> HashMap<(u32, u32), Call> {
    by_number(call)
}

/// What `of` makes of the calls' names, for programs of every column.
fn by_number<T>(of: fn(&str, usize) -> Option<T>) -> HashMap<(u32, u32), T> {
    let mut calls = HashMap::new();
    for architecture in &ARCHITECTURES {
        for &column in architecture.columns {
            let known = ALLOWED
                .iter()
                .filter(|(_, numbers)| numbers[column] != N)
                .filter_map(|(name, numbers)| Some((numbers[column], of(name, column)?)));
            calls.extend(known.map(|(number, call)| ((architecture.audit, number), call)));
        }
    }
    calls
}
