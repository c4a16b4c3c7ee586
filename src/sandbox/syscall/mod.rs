//! System calls that no safe wrapper offers. Each function here is safe to call from a
//! single-threaded process; what calls them ([`super::process`], the launcher, init, probes) is
//! single-threaded by construction, and [`super::process::enter`] checks it.
//!
//! Nothing else belongs here: no policy, no paths, no decisions.
#![allow(unsafe_code)]

pub(super) mod notification;

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::seccomp::Instruction;

/// Which side of a fork this is.
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// The last error of a C library call.
fn last_error() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// Turns C's `-1` into an error.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(last_error())
    } else {
        Ok(result)
    }
}

/// Makes a copy of this process.
pub(super) fn fork() -> Result<Fork, Errno> {
    // SAFETY: the process has one thread, so the child may go on to run any code: no lock can
    // be held by a thread that doesn't exist in it.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(match Pid::from_raw(pid as i32) {
        None => Fork::Child,
        Some(pid) => Fork::Parent(pid),
    })
}

/// Makes a copy of this process in new namespaces (`CLONE_NEW…`). The parent gets a pidfd too.
pub(super) fn clone_into(namespaces: u64) -> Result<Option<(Pid, OwnedFd)>, Errno> {
    let mut pidfd: RawFd = -1;
    let flags = namespaces | libc::CLONE_PIDFD as u64;
    // SAFETY: `clone_args` is plain data for which all zeroes is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and without a stack, clone3 acts as fork: the child goes on with
    // a copy of this memory. `arguments` and `pidfd` outlive the call. One thread, as in `fork`.
    let mut result = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    });
    if matches!(result, Err(Errno::NOSYS | Errno::PERM)) {
        // Container engines' filters hide clone3, because its flags can't be inspected.
        // SAFETY: as above; the pidfd is written where the parent's tid would go, the third
        // argument on every architecture that the crate is built for.
        result = check(unsafe {
            libc::syscall(
                libc::SYS_clone,
                flags | libc::SIGCHLD as u64,
                ptr::null_mut::<libc::c_void>(),
                &raw mut pidfd,
                ptr::null_mut::<libc::c_void>(),
                ptr::null_mut::<libc::c_void>(),
            )
        });
    }
    Ok(Pid::from_raw(result? as i32).map(|pid| {
        // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
        (pid, unsafe { OwnedFd::from_raw_fd(pidfd) })
    }))
}

/// Ends this process at once: no destructor, no buffer of the parent's is flushed.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Leaves namespaces for new ones. Never used with flags that unshare descriptors.
pub(super) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: unsafe only because of descriptor tables, which stay as they are.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Sets attributes (`MOUNT_ATTR_…`) on a mount, and with `recursive` on those below it.
pub(super) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
) -> Result<(), Errno> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the structure has the layout of `struct mount_attr` and
    // the size given, and both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Closes the descriptors from `first` to `last`, both included.
pub(super) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: only called in children that never return into frames which own descriptors in
    // the range, so that nothing is used or closed again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Closes one descriptor by its number; the fallback for [`close_range`].
pub(super) fn close(descriptor: RawFd) {
    // SAFETY: as for `close_range`.
    unsafe { libc::close(descriptor) };
}

/// Marks the descriptors from `first` on as close-on-exec.
pub(super) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: changes a flag of descriptors, invalidates none.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Marks one descriptor as close-on-exec by its number; the fallback for
/// [`close_on_exec_from`].
pub(super) fn set_close_on_exec(descriptor: RawFd) {
    // SAFETY: changes a flag of a descriptor, invalidates none.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Gives every signal its default action and unblocks all.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid action; the call fails for KILL, STOP and the C library's
        // own signals, which is what we want.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `set` is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// A descriptor that becomes readable when a child of this process changes state.
pub(super) fn child_events() -> Result<OwnedFd, Errno> {
    // SAFETY: `set` is initialised by sigemptyset before it is read, and the descriptor, if not
    // -1, is new and ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        let descriptor = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(libc::c_long::from(descriptor))?;
        Ok(OwnedFd::from_raw_fd(descriptor))
    }
}

/// Installs a system call filter on this process. Needs `CAP_SYS_ADMIN` in the user namespace,
/// since it leaves `no_new_privs` off.
pub(super) fn install_filter(program: &[Instruction]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // The first try spares processes the slow-down of speculation control on older kernels.
    for flags in [libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0] {
        // SAFETY: `Instruction` has the layout of `struct sock_filter`; the kernel only reads
        // the program and keeps its own copy.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        });
        match result {
            Err(Errno::INVAL) if flags != 0 => {}
            other => return other.map(drop),
        }
    }
    Err(Errno::INVAL)
}

/// The same without that capability where there is none: set-uid programs then give nobody rights.
pub(super) fn install_confining_filter(program: &[Instruction]) -> Result<(), Errno> {
    match install_filter(program) {
        Err(Errno::ACCESS) => {
            rustix::thread::set_no_new_privs(true)?;
            install_filter(program)
        }
        other => other,
    }
}

/// Brings up the loopback device of this network namespace.
pub(super) fn bring_loopback_up() -> Result<(), Errno> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: `ifreq` is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq` whose name is NUL-terminated and whose flags are set.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    }))
    .map(drop)
}

/// Takes a descriptor that this process was started with.
///
/// # Errors
/// When none of that number is open.
pub(super) fn take_inherited(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: asks for a flag, changes nothing.
    check(libc::c_long::from(unsafe {
        libc::fcntl(number, libc::F_GETFD)
    }))?;
    // SAFETY: it is open, and nothing in this process, which has just begun, owns it: the standard
    // streams aside, which nobody asks for, the runtime opens nothing before `main`.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Becomes another program. Returns only if that fails.
pub(super) fn exec(path: &CStr, args: &[CString], env: &[CString]) -> Result<Infallible, Errno> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in NULL and point to C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(last_error())
}

/// Makes the program that `command` starts end when the thread that starts it ends.
pub(super) fn end_with_parent(command: &mut Command) {
    // SAFETY: the closure makes system calls only, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
                .map_err(Into::into)
        });
    }
}

/// Leaves files open in the program that `command` starts, under their numbers.
pub(super) fn pass_on(command: &mut Command, files: &[BorrowedFd<'_>]) {
    let files: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: the closure makes system calls only, allocates nothing and takes no lock. A number
    // that is nobody's any more is refused by the kernel.
    unsafe {
        command.pre_exec(move || {
            for file in &files {
                if libc::fcntl(*file, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Replaces the command line that everybody can read of this process by `name`. Where the kernel
/// doesn't tell where it lies, nothing happens.
pub(super) fn replace_command_line(name: &[u8]) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return;
    };
    // The second field is a name in parentheses, which may hold anything; `arg_start` and
    // `arg_end` are the 48th and the 49th (proc_pid_stat(5)).
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut addresses = fields.split_whitespace().skip(45).map(str::parse::<usize>);
    let (Some(Ok(start)), Some(Ok(end))) = (addresses.next(), addresses.next()) else {
        return;
    };
    let length = end.saturating_sub(start);
    // Without CAP_SYS_PTRACE over itself a process is told zeroes.
    if start == 0 || length == 0 {
        return;
    }
    let shown = name.len().min(length - 1);
    // SAFETY: between `arg_start` and `arg_end` lie the strings that execve put on this process's
    // stack, which is writable and stays where it is. Of them only `std::env::args` has pointers,
    // which this process, just forked and with one thread, never asks again. What is written ends
    // in NUL bytes.
    unsafe {
        let arguments = ptr::with_exposed_provenance_mut::<u8>(start);
        ptr::write_bytes(arguments, 0, length);
        ptr::copy_nonoverlapping(name.as_ptr(), arguments, shown);
    }
}
