//! Older kernels and container engines' filters: what they lack is taken away call by call, and a
//! build with RUN, COPY --from and mounts goes through all the same, or says in one line what is
//! missing.
//!
//! `tests/support/refuse.c` takes it away: it runs rbuild under a filter that answers as a kernel
//! without the call, the flag or the option would.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{
    Need, Project, base_image_mirror, each_rung, needs, repository, run_with_timeout, skip,
};

const ENOSYS: i32 = libc::ENOSYS;
const EINVAL: i32 = libc::EINVAL;
const EPERM: i32 = libc::EPERM;

/// What a kernel lacks.
#[derive(Clone, Copy)]
enum Lack {
    /// A call, which fails with this error.
    Call(libc::c_long, i32),
    /// Flags of a call: the argument's number, and the bits.
    Flags(libc::c_long, u32, u32),
    /// An option of file systems.
    Option(&'static str),
    /// An option, which is taken and makes the mount fail, as before Linux 6.5.
    LateOption(&'static str),
}

use Lack::{Call, Flags, LateOption, Option as Key};

impl Lack {
    fn rule(self) -> String {
        match self {
            Call(number, errno) => format!("{number}:{errno}"),
            Flags(number, argument, bits) => format!("{number}:{EINVAL}:{argument}:{bits}"),
            Key(name) => format!("key={name}:{EINVAL}"),
            LateOption(name) => format!("late={name}:{EINVAL}"),
        }
    }
}

/// What must come of a build.
#[derive(Clone, Copy)]
enum Expected {
    /// It goes through on every rung.
    Works,
    /// It fails on every rung, and the error says this.
    Fails(&'static str),
    /// It fails on rungs with these names and goes through on the others.
    FailsOn(&'static [&'static str], &'static str),
}

use Expected::{Fails, FailsOn, Works};

const WAIT_KILLABLE_RECV: u32 = 1 << 5;
const MOUNTING: &str =
    "use Linux 5.4 or newer, which has fsopen, fsconfig, fsmount, open_tree and move_mount";
const IN_USER_NAMESPACES: &[&str] = &["userns", "userns-single"];
const SUPERVISED: &[&str] = &["userns-single"];

fn table() -> Vec<(&'static str, Vec<Lack>, Expected)> {
    use libc::{
        SYS_clone3, SYS_close_range, SYS_copy_file_range, SYS_faccessat2, SYS_fsconfig,
        SYS_fsmount, SYS_fsopen, SYS_memfd_create, SYS_mount_setattr, SYS_move_mount,
        SYS_open_tree, SYS_openat2, SYS_pidfd_getfd, SYS_pidfd_open, SYS_pidfd_send_signal,
        SYS_pivot_root, SYS_process_vm_readv, SYS_process_vm_writev, SYS_renameat2, SYS_seccomp,
        SYS_setns, SYS_statx, SYS_unshare,
    };
    vec![
        ("nothing", vec![], Works),
        ("openat2, Linux 5.6", vec![Call(SYS_openat2, ENOSYS)], Works),
        (
            "openat2, by a filter",
            vec![Call(SYS_openat2, EPERM)],
            Works,
        ),
        ("clone3, Linux 5.3", vec![Call(SYS_clone3, ENOSYS)], Works),
        (
            "close_range, Linux 5.9",
            vec![Call(SYS_close_range, ENOSYS)],
            Works,
        ),
        (
            "close_range, by a filter",
            vec![Call(SYS_close_range, EPERM)],
            Works,
        ),
        (
            "CLOSE_RANGE_CLOEXEC, Linux 5.11",
            vec![Flags(SYS_close_range, 2, 4)],
            Works,
        ),
        (
            "mount_setattr, Linux 5.12",
            vec![Call(SYS_mount_setattr, ENOSYS)],
            Works,
        ),
        (
            "mount_setattr, by a filter",
            vec![Call(SYS_mount_setattr, EPERM)],
            Works,
        ),
        (
            "pidfd_open, Linux 5.3",
            vec![Call(SYS_pidfd_open, ENOSYS)],
            Works,
        ),
        (
            "PIDFD_THREAD, Linux 6.9",
            vec![Flags(SYS_pidfd_open, 1, u32::MAX)],
            Works,
        ),
        (
            "pidfd_send_signal, Linux 5.1",
            vec![Call(SYS_pidfd_send_signal, ENOSYS)],
            Works,
        ),
        (
            "pidfd_getfd, Linux 5.6",
            vec![Call(SYS_pidfd_getfd, ENOSYS)],
            Works,
        ),
        (
            "faccessat2, Linux 5.8",
            vec![Call(SYS_faccessat2, ENOSYS)],
            Works,
        ),
        ("renameat2", vec![Call(SYS_renameat2, ENOSYS)], Works),
        (
            "copy_file_range",
            vec![Call(SYS_copy_file_range, ENOSYS)],
            Works,
        ),
        (
            "WAIT_KILLABLE_RECV, Linux 5.19",
            vec![Flags(SYS_seccomp, 1, WAIT_KILLABLE_RECV)],
            Works,
        ),
        ("lowerdir+, Linux 6.7", vec![Key("lowerdir+")], Works),
        (
            "lowerdir+, before Linux 6.5",
            vec![LateOption("lowerdir+")],
            Works,
        ),
        (
            "volatile, Linux 5.10",
            vec![LateOption("lowerdir+"), LateOption("volatile")],
            Works,
        ),
        ("noswap, Linux 6.4", vec![Key("noswap")], Works),
        (
            "userxattr, Linux 5.11",
            vec![Key("userxattr")],
            FailsOn(IN_USER_NAMESPACES, "use Linux 5.11 or newer"),
        ),
        (
            "Linux 5.11",
            vec![
                Call(SYS_mount_setattr, ENOSYS),
                Flags(SYS_seccomp, 1, WAIT_KILLABLE_RECV),
                Flags(SYS_pidfd_open, 1, u32::MAX),
            ],
            Works,
        ),
        (
            "Linux 5.4, or a filter of its time",
            vec![
                Call(SYS_openat2, ENOSYS),
                Call(SYS_close_range, ENOSYS),
                Call(SYS_mount_setattr, ENOSYS),
                Call(SYS_pidfd_getfd, ENOSYS),
                Call(SYS_faccessat2, ENOSYS),
                Flags(SYS_seccomp, 1, WAIT_KILLABLE_RECV),
            ],
            Works,
        ),
        ("fsopen", vec![Call(SYS_fsopen, ENOSYS)], Fails(MOUNTING)),
        (
            "fsconfig",
            vec![Call(SYS_fsconfig, ENOSYS)],
            Fails(MOUNTING),
        ),
        ("fsmount", vec![Call(SYS_fsmount, ENOSYS)], Fails(MOUNTING)),
        (
            "move_mount",
            vec![Call(SYS_move_mount, ENOSYS)],
            Fails(MOUNTING),
        ),
        (
            "open_tree",
            vec![Call(SYS_open_tree, ENOSYS)],
            Fails("`open_tree`"),
        ),
        (
            "open_tree, by a filter",
            vec![Call(SYS_open_tree, EPERM)],
            Fails("`open_tree`"),
        ),
        (
            "memfd_create",
            vec![Call(SYS_memfd_create, ENOSYS)],
            Fails("file in memory"),
        ),
        (
            "unshare",
            vec![Call(SYS_unshare, ENOSYS)],
            Fails("`unshare`"),
        ),
        (
            "setns",
            vec![Call(SYS_setns, ENOSYS)],
            FailsOn(IN_USER_NAMESPACES, "enter a user namespace"),
        ),
        (
            "seccomp",
            vec![Call(SYS_seccomp, ENOSYS)],
            Fails("Function not implemented"),
        ),
        (
            "pivot_root",
            vec![Call(SYS_pivot_root, ENOSYS)],
            Fails("pivot"),
        ),
        (
            "statx",
            vec![Call(SYS_statx, ENOSYS)],
            FailsOn(SUPERVISED, "`statx`"),
        ),
        (
            "process_vm_readv",
            vec![Call(SYS_process_vm_readv, ENOSYS)],
            FailsOn(SUPERVISED, "`process_vm_readv`"),
        ),
        (
            "process_vm_writev",
            vec![Call(SYS_process_vm_writev, ENOSYS)],
            FailsOn(SUPERVISED, "`process_vm_writev`"),
        ),
    ]
}

/// The program that takes things away, where a C compiler is.
fn refuse() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let compiled = PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("refuse");
        let compiled = Command::new("cc")
            .args(["-O1", "-o"])
            .arg(&program)
            .arg(repository().join("tests/support/refuse.c"))
            .status();
        compiled.ok()?.success().then_some((folder, program))
    });
    compiled.as_ref().map(|(_, program)| program.as_path())
}

#[test]
fn what_a_kernel_lacks_is_done_without_or_named() {
    // Without root the filter turns `no_new_privs` on, and with it newuidmap off.
    if !needs(&[Need::Root, Need::BaseImages, Need::Program("cc")]) {
        return;
    }
    let Some(refuse) = refuse() else {
        return skip("`cc` compiles nothing here");
    };
    let project = Project::with(
        "
        FROM busybox AS made
        RUN echo made > /file && chown 5:6 /file
        FROM busybox
        COPY --from=made /file /copied
        RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t \
            --mount=type=bind,from=made,source=/file,target=/bound \
            cat /bound; echo x > /cache/y; stat -c %u:%g /copied; ln -s copied /link; rm /etc/group
        COPY --chown=7:8 file /last
        ",
    )
    .file("file", "from the context\n");
    each_rung(|rung| {
        for (name, lacks, expected) in table() {
            // A supervisor of the step can't be below another one, which tells the options.
            let is_told = |lack: &Lack| matches!(lack, Key(_) | LateOption(_));
            if rung.is_supervised() && lacks.iter().any(is_told) {
                continue;
            }
            let rbuild = rung.rbuild();
            let plain = rung.user.command(rung.user.binary());
            let mut command = Command::new(refuse);
            command
                .args(lacks.iter().map(|lack| lack.rule()))
                .arg("--")
                .arg(plain.get_program())
                .args(plain.get_args())
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap())
                .env("HOME", rbuild.home())
                .env("RBUILD_ROOT", rbuild.store())
                .env("RBUILD_ISOLATION", rung.name)
                .args(["build", "--progress", "plain", "--registry-mirror"])
                .arg(base_image_mirror().unwrap())
                .args(["-o", "type=tar,dest=/dev/null"])
                .arg(project.path())
                .current_dir("/");
            let finished = run_with_timeout(command, None);
            let missing = match expected {
                Works => None,
                Fails(text) => Some(text),
                FailsOn(rungs, text) => rungs.contains(&rung.name).then_some(text),
            };
            let place = format!("without {name}, on {rung:?}:\n{}", finished.stderr);
            assert!(!finished.stderr.contains("panicked"), "{place}");
            match missing {
                None => {
                    assert!(finished.status.success(), "{place}");
                    assert_eq!(finished.output(), ["made", "5:6"], "{place}");
                }
                Some(text) => {
                    assert!(!finished.status.success(), "{place}");
                    let line = finished
                        .stderr
                        .lines()
                        .find(|line| line.starts_with("error: "));
                    assert!(
                        line.is_some_and(|line| line.contains(text)),
                        "{text:?} {place}"
                    );
                }
            }
        }
    });
}
