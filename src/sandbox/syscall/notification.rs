//! System calls of a filtered process that are left to somebody else to answer: the kernel's
//! interface of seccomp user notifications (seccomp_unotify(2)), and the memory of the asking
//! process.
//!
//! Nothing is decided here. What an address of another process points to is copied and never
//! believed: that process may change it at any time.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::check;
use crate::sandbox::seccomp::Instruction;

/// Where the filtered processes' questions arrive.
#[derive(Debug)]
pub(in crate::sandbox) struct Listener(OwnedFd);

/// A process asks: it waits in the kernel until it is answered, or killed.
#[derive(Clone, Copy, Debug)]
pub(in crate::sandbox) struct Question {
    /// Names it in the answer.
    id: u64,
    /// The asking thread, in the reader's process id namespace.
    pub(in crate::sandbox) thread: u32,
    /// The kind of program that it runs (`AUDIT_ARCH_…`).
    pub(in crate::sandbox) architecture: u32,
    /// The system call's number.
    pub(in crate::sandbox) number: u32,
    /// Its arguments.
    pub(in crate::sandbox) arguments: [u64; 6],
}

/// What an asking process is told.
#[derive(Debug)]
pub(in crate::sandbox) enum Answer {
    /// The call returned this.
    Value(i64),
    /// The call returned a copy of this descriptor. Before Linux 5.14 it fails with `ENOENT`.
    Descriptor {
        descriptor: OwnedFd,
        close_on_exec: bool,
    },
    /// The call failed.
    Error(Errno),
    /// The kernel is to carry the call out after all. Never a decision about rights: the process
    /// may have changed what its arguments point to.
    Continue,
}

// From <linux/seccomp.h>; the numbers of ioctl hold the sizes of the structures.
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ID_VALID: libc::c_ulong = 0x4008_2102;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const SYNC_WAKE_UP: u64 = 1;
const FILTER_FLAG_SPEC_ALLOW: libc::c_ulong = 1 << 2;
const FILTER_FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const USER_NOTIF_FLAG_CONTINUE: u32 = 1;
const ADDFD_FLAG_SEND: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct RawQuestion {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
}

#[repr(C)]
struct RawDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

#[repr(C)]
struct RawAnswer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Installs a system call filter on this process, and gives the place where the calls arrive that
/// it leaves to another process. Needs `CAP_SYS_ADMIN` in the user namespace, as
/// [`install_filter`](super::install_filter) does.
///
/// # Errors
/// `EBUSY` where some filter above has such a place already; `EINVAL` before Linux 5.0.
pub(in crate::sandbox) fn install_listening_filter(
    program: &[Instruction],
) -> Result<Listener, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // Without WAIT_KILLABLE_RECV (before Linux 5.19) a signal may interrupt a call that is being
    // answered, which is then asked again.
    for flags in [
        FILTER_FLAG_SPEC_ALLOW | FILTER_FLAG_WAIT_KILLABLE_RECV,
        FILTER_FLAG_SPEC_ALLOW,
    ] {
        // SAFETY: `Instruction` has the layout of `struct sock_filter`; the kernel only reads the
        // program and keeps its own copy. The result, if not an error, is a new descriptor.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags | FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        });
        match result {
            Err(Errno::INVAL) if flags & FILTER_FLAG_WAIT_KILLABLE_RECV != 0 => {}
            other => {
                // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
                return other.map(|fd| Listener(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }));
            }
        }
    }
    Err(Errno::INVAL)
}

impl From<OwnedFd> for Listener {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.0
    }
}

impl Listener {
    /// Asks the kernel to hand the processor over directly between asking and answering process
    /// (Linux 6.6), which halves what a question costs.
    pub(in crate::sandbox) fn wake_directly(&self) {
        // SAFETY: takes a number, no pointer. An error means that the kernel can't.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
    }

    /// Waits for a question.
    ///
    /// # Errors
    /// `ENOENT` for one that was taken back meanwhile; anything else when nobody is left to ask.
    pub(in crate::sandbox) fn receive(&self) -> Result<Question, Errno> {
        let mut raw = RawQuestion::default();
        // SAFETY: the structure is zeroed, as the kernel wants it, has the size that the request's
        // number names, and outlives the call.
        check(libc::c_long::from(unsafe {
            libc::ioctl(self.0.as_raw_fd(), NOTIF_RECV as _, &raw mut raw)
        }))?;
        Ok(Question {
            id: raw.id,
            thread: raw.pid,
            architecture: raw.architecture,
            number: raw.number.cast_unsigned(),
            arguments: raw.arguments,
        })
    }

    /// Answers a question. Whoever asked may be gone.
    pub(in crate::sandbox) fn answer(&self, question: &Question, answer: Answer) {
        let (value, error, flags) = match answer {
            Answer::Descriptor {
                descriptor,
                close_on_exec,
            } => return self.hand_over(question, &descriptor, close_on_exec),
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(errno) => (0, -errno.raw_os_error(), 0),
            Answer::Continue => (0, 0, USER_NOTIF_FLAG_CONTINUE),
        };
        let raw = RawAnswer {
            id: question.id,
            value,
            error,
            flags,
        };
        // SAFETY: the kernel reads a structure of the size that the request's number names.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SEND as _, &raw const raw) };
    }

    fn hand_over(&self, question: &Question, descriptor: &OwnedFd, close_on_exec: bool) {
        let raw = RawDescriptor {
            id: question.id,
            flags: ADDFD_FLAG_SEND,
            source: descriptor.as_raw_fd().cast_unsigned(),
            new: 0,
            new_flags: if close_on_exec {
                libc::O_CLOEXEC.cast_unsigned()
            } else {
                0
            },
        };
        // SAFETY: the kernel reads a structure of the size that the request's number names, and
        // makes a copy of the descriptor, which stays open here.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_ADDFD as _, &raw const raw) };
        if result < 0 {
            self.answer(question, Answer::Error(Errno::NOENT));
        }
    }

    /// Whether the asking thread still waits: so its number hasn't become another's meanwhile.
    pub(in crate::sandbox) fn is_waiting(&self, question: &Question) -> bool {
        // SAFETY: the kernel reads one number.
        unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                NOTIF_ID_VALID as _,
                &raw const question.id,
            ) == 0
        }
    }
}

/// Copies from the memory of a thread's process: as much of `buffer` as there is without a gap at
/// the next page. Gives how much.
///
/// # Errors
/// When nothing is there, or this process may not look.
pub(in crate::sandbox) fn read_memory(
    thread: u32,
    address: u64,
    buffer: &mut [u8],
) -> Result<usize, Errno> {
    const PAGE: usize = 4096;
    let start = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    // The part on the first page, and the rest: a gap behind the first leaves that one.
    let first = (PAGE - start % PAGE).min(buffer.len());
    let remote = [
        libc::iovec {
            iov_base: std::ptr::without_provenance_mut(start),
            iov_len: first,
        },
        libc::iovec {
            iov_base: std::ptr::without_provenance_mut(start.wrapping_add(first)),
            iov_len: buffer.len() - first,
        },
    ];
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: `local` is `buffer`, writable for its length; the addresses in `remote` are the other
    // process's and only the kernel looks at them.
    check(unsafe {
        libc::process_vm_readv(
            thread.cast_signed(),
            &raw const local,
            1,
            remote.as_ptr(),
            if first < buffer.len() { 2 } else { 1 },
            0,
        ) as libc::c_long
    })
    .map(|count| count as usize)
}

/// Copies into the memory of a thread's process.
///
/// # Errors
/// When it can't be written to, all of it.
pub(in crate::sandbox) fn write_memory(
    thread: u32,
    address: u64,
    bytes: &[u8],
) -> Result<(), Errno> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(
            usize::try_from(address).map_err(|_| Errno::FAULT)?,
        ),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel reads from `bytes`; the address in `remote` is the other process's and only
    // the kernel looks at it.
    let written = check(unsafe {
        libc::process_vm_writev(
            thread.cast_signed(),
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        ) as libc::c_long
    })?;
    match written as usize == bytes.len() {
        true => Ok(()),
        false => Err(Errno::FAULT),
    }
}

/// Tries both ways with this process's own memory.
///
/// # Errors
/// When the calls are refused.
pub(in crate::sandbox) fn try_memory() -> Result<(), Errno> {
    let own = rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned();
    let mut here = [0_u8; 1];
    let address = here.as_mut_ptr().expose_provenance() as u64;
    let mut byte = [0];
    read_memory(own, address, &mut byte)?;
    write_memory(own, address, &byte)
}

/// Length of the kernel's `struct statx`.
pub(in crate::sandbox) const STATX_LENGTH: usize = 256;

/// What statx(2) says of a path, as the kernel writes it.
///
/// # Errors
/// The call's.
pub(in crate::sandbox) fn statx(
    path: &CStr,
    flags: u32,
    mask: u32,
) -> Result<[u8; STATX_LENGTH], Errno> {
    let mut buffer = [0; STATX_LENGTH];
    // SAFETY: the path is a C string, and the buffer has the size of the structure, whose alignment
    // the kernel doesn't ask for.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            mask,
            buffer.as_mut_ptr(),
        )
    })?;
    Ok(buffer)
}
