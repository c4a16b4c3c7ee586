//! Older kernels and container engines' filters: what they lack is taken away call by call, and a
//! build with RUN, COPY --from and mounts goes through all the same, or says in one line what is
//! missing.
//!
//! `tests/support/refuse.c` takes it away: it runs rbuild under a filter that answers as a kernel
//! without the call, the flag or the option would.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{
    Finished, Need, Project, Rbuild, User, architecture, base_image_mirror, each_rung, needs,
    repository, run_with_timeout, skip,
};

const ENOSYS: i32 = libc::ENOSYS;
const EINVAL: i32 = libc::EINVAL;
const ENODEV: i32 = libc::ENODEV;
const EOPNOTSUPP: i32 = libc::EOPNOTSUPP;
const EPERM: i32 = libc::EPERM;

/// What a kernel lacks.
#[derive(Clone, Copy)]
enum Lack {
    /// A call, which fails with this error.
    Call(libc::c_long, i32),
    /// Flags of a call: the argument's number, and the bits.
    Flags(libc::c_long, u32, u32),
    /// A call, where an argument of it is this: the argument's number, and the value.
    Argument(libc::c_long, u32, u32),
    /// An option of file systems.
    Option(&'static str),
    /// An option, which is taken and makes the mount fail, as before Linux 6.5.
    LateOption(&'static str),
    /// A kind of file systems, of which none can be made.
    FileSystem(&'static str, i32),
}

use Lack::{Argument, Call, FileSystem, Flags, LateOption, Option as Key};

impl Lack {
    fn rule(self) -> String {
        match self {
            Call(number, errno) => format!("{number}:{errno}"),
            Flags(number, argument, bits) => format!("{number}:{EINVAL}:{argument}:{bits}"),
            Argument(number, argument, value) => format!("{number}:{EINVAL}:{argument}={value}"),
            FileSystem(name, errno) => format!("fs={name}:{errno}"),
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
/// SECCOMP_IOCTL_NOTIF_SET_FLAGS, by which a supervisor asks for SYNC_WAKE_UP.
const NOTIF_SET_FLAGS: u32 = 0x4008_2104;
const MOUNTING: &str =
    "use Linux 5.4 or newer, which has fsopen, fsconfig, fsmount, open_tree and move_mount";
const IN_USER_NAMESPACES: &[&str] = &["userns", "userns-single"];
const SUPERVISED: &[&str] = &["userns-single"];

fn table() -> Vec<(&'static str, Vec<Lack>, Expected)> {
    use libc::{
        SYS_clone3, SYS_close_range, SYS_copy_file_range, SYS_faccessat2, SYS_fsconfig,
        SYS_fsetxattr, SYS_fsmount, SYS_fsopen, SYS_ioctl, SYS_lsetxattr, SYS_memfd_create,
        SYS_mount_setattr, SYS_move_mount, SYS_open_tree, SYS_openat2, SYS_pidfd_getfd,
        SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pivot_root, SYS_process_vm_readv,
        SYS_process_vm_writev, SYS_renameat2, SYS_seccomp, SYS_setns, SYS_setxattr, SYS_statx,
        SYS_unshare,
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
        (
            "SYNC_WAKE_UP, Linux 6.6",
            vec![Argument(SYS_ioctl, 1, NOTIF_SET_FLAGS)],
            Works,
        ),
        (
            "user attributes",
            vec![
                Call(SYS_setxattr, EOPNOTSUPP),
                Call(SYS_lsetxattr, EOPNOTSUPP),
                Call(SYS_fsetxattr, EOPNOTSUPP),
            ],
            FailsOn(SUPERVISED, "the store's file system has no user attributes"),
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
                Argument(SYS_ioctl, 1, NOTIF_SET_FLAGS),
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
        let program = compile("refuse", folder.path(), &[])?;
        Some((folder, program))
    });
    compiled.as_ref().map(|(_, program)| program.as_path())
}

/// Compiles `tests/support/NAME.c` to a program in a folder.
fn compile(name: &str, folder: &Path, options: &[&str]) -> Option<PathBuf> {
    let program = folder.join(name);
    let compiled = Command::new("cc")
        .arg("-O1")
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(repository().join(format!("tests/support/{name}.c")))
        .status();
    compiled.ok()?.success().then_some(program)
}

/// rbuild, on a kernel that lacks something.
fn without(refuse: &Path, lacks: &[Lack], user: &User, rbuild: &Rbuild) -> Command {
    let plain = user.command(user.binary());
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
        .current_dir("/");
    command
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
            let is_told = |lack: &Lack| matches!(lack, Key(_) | LateOption(_) | FileSystem(..));
            if rung.is_supervised() && lacks.iter().any(is_told) {
                continue;
            }
            let rbuild = rung.rbuild();
            let mut command = without(refuse, &lacks, &rung.user, &rbuild);
            command
                .env("RBUILD_ISOLATION", rung.name)
                .args(["build", "--progress", "plain", "--registry-mirror"])
                .arg(base_image_mirror().unwrap())
                .args(["-o", "type=tar,dest=/dev/null"])
                .arg(project.path());
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

/// The smallest file that is taken for a statically linked program.
fn header_of_a_program() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(64, 0);
    header
}

/// An emulator is on PATH, and the kernel lets no user namespace have it.
#[test]
fn without_binfmt_misc_the_error_says_what_to_install() {
    if !needs(&[Need::Root, Need::BaseImages, Need::Program("cc")]) {
        return;
    }
    let Some(refuse) = refuse() else {
        return skip("`cc` compiles nothing here");
    };
    if architecture() != "amd64" || Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        return skip("programs of s390x run here without further ado");
    }
    let project = Project::with("FROM scratch\nCOPY file /\nRUN [\"/file\"]").file("file", "x");
    each_rung(|rung| {
        for (errno, text) in [
            (EPERM, "no `binfmt_misc` of their own before Linux 6.7"),
            (ENODEV, "this kernel has no `binfmt_misc`"),
            (EINVAL, "`binfmt_misc` is refused: Invalid argument"),
        ] {
            if rung.is_supervised() {
                // Of two that answer calls, the second is refused.
                continue;
            }
            let rbuild = rung.rbuild();
            let emulator = rbuild.home().join("qemu-s390x-static");
            std::fs::write(&emulator, header_of_a_program()).unwrap();
            std::fs::set_permissions(&emulator, Permissions::from_mode(0o755)).unwrap();
            let lacks = [FileSystem("binfmt_misc", errno)];
            let mut command = without(refuse, &lacks, &rung.user, &rbuild);
            command
                .env("RBUILD_ISOLATION", rung.name)
                .env("PATH", in_front_of_path(&rbuild.home()))
                .args(["build", "--platform", "linux/s390x"])
                .arg(project.path());
            run_with_timeout(command, None).fails().says(&[
                "error: programs for linux/s390x don't run on this machine: ",
                text,
                "to fix it: register emulators with the machine: install the package \
                 `qemu-user-static` there",
                "Dockerfile:3",
            ]);
        }
    });
}

fn in_front_of_path(folder: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap();
    let folders = std::env::split_paths(&path);
    std::env::join_paths(std::iter::once(folder.to_owned()).chain(folders)).unwrap()
}

/// What the machine has registered serves without a `binfmt_misc` of one's own: a user namespace
/// in which an emulator was registered before rbuild came stands in for the machine.
#[test]
fn without_binfmt_misc_the_machine_s_emulator_serves() {
    if !needs(&[Need::Root, Need::BaseImages, Need::Program("cc")]) || architecture() != "amd64" {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let emulator = compile("emulator", folder.path(), &["-static"]);
    let (Some(refuse), Some(emulator)) = (refuse(), emulator) else {
        return skip("`cc` makes no statically linked programs here");
    };
    let mut program = header_of_a_program();
    // A program at a fixed address, for s390x.
    program[4..7].copy_from_slice(&[2, 2, 1]);
    program[16..20].copy_from_slice(&[0, 2, 0, 22]);
    let project = Project::with("FROM scratch\nCOPY --chmod=755 file /\nRUN [\"/file\"]");
    let project = project.file("file", program);
    let rbuild = Rbuild::new(&User::Caller);
    let lacks = [FileSystem("binfmt_misc", EPERM)];
    let mut build = without(refuse, &lacks, &User::Caller, &rbuild);
    build
        .args(["build", "--progress", "plain", "--platform", "linux/s390x"])
        .arg(project.path());
    let script = format!(
        "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 99\n\
         printf '%s' ':machine:M:18:\\x00\\x16::{}:F' > /proc/sys/fs/binfmt_misc/register || exit 98\n\
         exec \"$@\"",
        emulator.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c"]);
    command.args([&script, "sh"]);
    command.arg(build.get_program()).args(build.get_args());
    let variables = build.get_envs();
    command.env_clear();
    command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    let finished = run_with_timeout(command, None);
    if finished.status.code() == Some(99) {
        return skip("user namespaces have no binfmt_misc here (Linux 6.7)");
    }
    assert_eq!(finished.ok().output(), ["emulated"]);
}

/// A program in a folder for PATH.
fn put(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
}

/// `newuidmap` and `newgidmap` that believe whatever they are told, as root: what they are told is
/// what is tested.
fn credulous_maps(folder: &Path) -> Option<()> {
    let program = compile("newidmap", folder, &[])?;
    for name in ["newuidmap", "newgidmap"] {
        let path = folder.join(name);
        std::fs::copy(&program, &path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o4755)).unwrap();
    }
    Some(())
}

/// Where a user's range of ids comes from: `/etc/subuid`, else `getsubids`, which comes first where
/// the machine asks a directory service.
#[test]
fn a_range_of_ids_comes_from_the_file_or_from_getsubids() {
    if !needs(&[
        Need::Root,
        Need::BaseImages,
        Need::Program("cc"),
        Need::Program("unshare"),
    ]) {
        return;
    }
    const FILES: &str = "subid: files";
    const SERVICE: &str = "subid: sss";
    let gives = "echo \"0: ${2:-$1} 7000000 70000\"";
    let project = Project::with("FROM busybox\nRUN echo $(tail -n 1 /proc/self/uid_map)");
    let project = &project;
    let fails = |finished: Finished, name: &str| {
        finished.fails().says(&[
            &format!("`/etc/subuid` lends no ids to `{name}`"),
            &format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"),
        ])
    };
    let build = |subuid: &str, settings: &str, getsubids: &str| {
        let rbuild = Rbuild::new(&User::stranger());
        let folder = tempfile::Builder::new()
            .prefix("rbuild-ids-")
            .tempdir()
            .unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let etc = [
            ("subuid", subuid),
            ("subgid", subuid),
            ("nsswitch.conf", settings),
        ];
        for (name, text) in etc {
            std::fs::write(folder.path().join(name), format!("{text}\n")).unwrap();
        }
        put(folder.path(), "id", "echo ghost");
        put(folder.path(), "getsubids", getsubids);
        credulous_maps(folder.path())?;
        let command = rbuild
            .build(project)
            .env("RBUILD_ISOLATION", "userns")
            .command();
        let mut outer = Command::new("unshare");
        let script = format!(
            "cd {}; for file in subuid subgid nsswitch.conf; do touch /etc/$file; \
             mount --bind $file /etc/$file || exit 99; done; cd /; exec \"$@\"",
            folder.path().display()
        );
        outer.args(["--mount", "--", "sh", "-c", &script, "sh"]);
        outer
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear();
        let variables = command.get_envs();
        outer.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        outer.env("PATH", in_front_of_path(folder.path()));
        outer.current_dir(command.get_current_dir().unwrap());
        Some(run_with_timeout(outer, None))
    };
    let in_file = "ghost:8000000:80000";
    for (subuid, settings, getsubids, expected) in [
        (in_file, FILES, gives, Some("1 8000000 80000")),
        (in_file, FILES, "exit 1", Some("1 8000000 80000")),
        ("54321:9000000:90000", FILES, gives, Some("1 9000000 90000")),
        ("other:8000000:80000", FILES, gives, Some("1 7000000 70000")),
        ("", FILES, gives, Some("1 7000000 70000")),
        ("", SERVICE, gives, Some("1 7000000 70000")),
        (in_file, SERVICE, gives, Some("1 7000000 70000")),
        (in_file, SERVICE, "exit 1", Some("1 8000000 80000")),
        ("", FILES, "exit 1", None),
        ("", FILES, "echo 0: somebody 1 2", None),
        ("", SERVICE, "echo no such thing; exit 0", None),
        // As where there is no such program.
        ("", FILES, "exec /nowhere/getsubids", None),
    ] {
        let Some(finished) = build(subuid, settings, getsubids) else {
            return skip("`cc` compiles nothing here");
        };
        match expected {
            Some(range) => assert_eq!(
                finished.ok().output(),
                [range],
                "{subuid} {settings} {getsubids}"
            ),
            None => drop(fails(finished, "ghost")),
        }
    }
}
