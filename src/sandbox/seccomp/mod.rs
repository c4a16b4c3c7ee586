//! The system call filter of a step: Docker's default profile, compiled to BPF here.
//!
//! Ready-made compilers were not used because they force `no_new_privs` on (which would break
//! `sudo` in a step), give all refusals one error number, and know one architecture at a time.
//! The profile refuses with `EPERM`; `clone3` and calls newer than the profile get `ENOSYS`, so
//! that C libraries fall back instead of failing.
//!
//! A filter is a binary search over ranges of system call numbers, one tree per architecture
//! that the kernel may run. The kernel caches the calls that are allowed whatever their
//! arguments are.

mod allowed;
pub(super) mod supervised;

use std::collections::BTreeMap;

use allowed::{ALLOWED, N};
use supervised::{Ids, Supervision, Treatment};

/// One BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JUMP_IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const MASK: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ERROR: u32 = 0x0005_0000;
const RETURN_NOTIFY: u32 = 0x7fc0_0000;
const RETURN_KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`; of the first argument, the half that the calls looked at
/// here use (they take an `int` or flags in the low half).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}`.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// The execution domains that the profile knows: Linux and its 32-bit and UNAME26 variants, and
/// the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `AF_ALG` and `AF_VSOCK`: kernel crypto and the hypervisor.
const REFUSED_ADDRESS_FAMILIES: [u32; 2] = [38, 40];

/// A kind of program that the kernel may run: its audit number and its columns in [`ALLOWED`]
/// (x86-64 and x32 share one, told apart by a bit in the number).
struct Architecture {
    audit: u32,
    columns: &'static [usize],
    /// Numbers of clone, clone3, personality, socket, per column.
    examined: &'static [[u32; 4]],
}

#[cfg(target_arch = "x86_64")]
static ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        audit: 0xc000_003e,
        columns: &[0, 2],
        examined: &[
            [56, 435, 135, 41],
            [0x4000_0038, 0x4000_01b3, 0x4000_0087, 0x4000_0029],
        ],
    },
    Architecture {
        audit: 0x4000_0003,
        columns: &[1],
        examined: &[[120, 435, 136, 359]],
    },
];

#[cfg(target_arch = "aarch64")]
static ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        audit: 0xc000_00b7,
        columns: &[3],
        examined: &[[220, 435, 92, 198]],
    },
    Architecture {
        audit: 0x4000_0028,
        columns: &[4],
        examined: &[[120, 435, 136, 281]],
    },
];

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Refuse(libc::c_int),
    /// Allowed without flags for new namespaces.
    Clone,
    /// Allowed for known execution domains.
    Personality,
    /// Allowed but for some address families.
    Socket,
    /// Allowed but with every process as target.
    SignalNotAll,
    /// Answered with 0 and not carried out.
    Pretend,
    /// Left to the supervisor.
    Notify,
    /// Left to the supervisor unless the flags in the argument of this index allow an empty path.
    NotifyUnlessEmptyPath(u32),
    /// Left to the supervisor where the argument of this index is the mode of a device.
    NotifyDevice(u32),
    /// Left to the supervisor where one of two arguments is an id that it wants to be asked about.
    NotifyIds(Ids),
}

impl From<Treatment> for Action {
    fn from(treatment: Treatment) -> Self {
        match treatment {
            Treatment::Pretend => Self::Pretend,
            Treatment::SignalNotAll => Self::SignalNotAll,
            Treatment::Hide => Self::Refuse(libc::ENOSYS),
            Treatment::Ask => Self::Notify,
            Treatment::AskUnlessEmptyPath(argument) => Self::NotifyUnlessEmptyPath(argument),
            Treatment::AskForDevices(argument) => Self::NotifyDevice(argument),
            Treatment::AskForIds(ids) => Self::NotifyIds(ids),
        }
    }
}

/// Docker's default filter for Docker's default capabilities.
pub(super) fn default_filter() -> Vec<Instruction> {
    filter(None)
}

/// The same for a step that shares its processes with others: it may not send a signal to all.
pub(super) fn confined_filter() -> Vec<Instruction> {
    filter(Some(Supervision::None))
}

/// The same, with the calls left to a supervisor that name files which are to be shown. With
/// `stand_ins`, files of the step's may stand in for others.
pub(super) fn showing_filter(stand_ins: bool) -> Vec<Instruction> {
    filter(Some(Supervision::KernelFiles { stand_ins }))
}

/// The same, with some of the calls that it allows left to a supervisor.
pub(super) fn supervised_filter(supervision: Supervision) -> Vec<Instruction> {
    filter(Some(supervision))
}

/// A filter that allows everything, to find out whether one can be installed.
pub(super) fn open_filter() -> Vec<Instruction> {
    vec![ret(RETURN_ALLOW)]
}

fn filter(supervision: Option<Supervision>) -> Vec<Instruction> {
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in &ARCHITECTURES {
        let mut body = vec![load(NUMBER)];
        body.extend(search(&ranges(architecture, supervision)));
        program.push(branch(JUMP_IF_EQUAL, architecture.audit, 1, 0));
        program.push(jump(body.len()));
        program.extend(body);
    }
    program.push(ret(RETURN_KILL_PROCESS));
    program
}

/// The first number of each range, with what happens from there to the next one.
fn ranges(architecture: &Architecture, supervision: Option<Supervision>) -> Vec<(u32, Action)> {
    let mut ranges: Vec<(u32, Action)> = Vec::new();
    let mut push = |number: u32, action: Action| {
        if ranges.last().is_none_or(|(_, last)| *last != action) {
            ranges.push((number, action));
        }
    };
    for (&column, &[clone, clone3, personality, socket]) in
        architecture.columns.iter().zip(architecture.examined)
    {
        let mut calls: BTreeMap<u32, Action> = ALLOWED
            .iter()
            .map(|(name, numbers)| {
                let treatment = supervision.and_then(|supervision| supervision.of(name, column));
                (
                    numbers[column],
                    treatment.map_or(Action::Allow, Action::from),
                )
            })
            .filter(|(number, _)| *number != N)
            .collect();
        calls.insert(clone, Action::Clone);
        calls.insert(clone3, Action::Refuse(libc::ENOSYS));
        calls.insert(personality, Action::Personality);
        calls.insert(socket, Action::Socket);
        // x32 begins at its bit, every other table at 0.
        let mut next = calls.keys().next().map_or(0, |first| first & 0x4000_0000);
        for (number, action) in calls {
            if number > next {
                push(next, Action::Refuse(libc::EPERM));
            }
            push(number, action);
            next = number + 1;
        }
        push(next, Action::Refuse(libc::ENOSYS));
    }
    ranges
}

/// A binary search for the loaded number. Every path through it returns.
fn search(ranges: &[(u32, Action)]) -> Vec<Instruction> {
    match ranges {
        [] => vec![ret(RETURN_ERROR | libc::EPERM as u32)],
        [(_, action)] => act(*action),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let below = search(low);
            let mut code = match u8::try_from(below.len()) {
                Ok(length) => vec![branch(JUMP_IF_AT_LEAST, high[0].0, length, 0)],
                Err(_) => vec![branch(JUMP_IF_AT_LEAST, high[0].0, 0, 1), jump(below.len())],
            };
            code.extend(below);
            code.extend(search(high));
            code
        }
    }
}

fn act(action: Action) -> Vec<Instruction> {
    let refuse = ret(RETURN_ERROR | libc::EPERM as u32);
    let allow = ret(RETURN_ALLOW);
    match action {
        Action::Allow => vec![allow],
        Action::Refuse(errno) => vec![ret(RETURN_ERROR | errno as u32)],
        Action::Clone => vec![
            load(FIRST_ARGUMENT),
            branch(JUMP_IF_ANY_BIT, CLONE_NAMESPACES, 1, 0),
            allow,
            refuse,
        ],
        Action::Personality => one_of(&PERSONALITIES, allow, refuse),
        Action::Socket => one_of(&REFUSED_ADDRESS_FAMILIES, refuse, allow),
        // An `int`: the upper half of the argument is nothing to the kernel.
        Action::SignalNotAll => one_of(&[u32::MAX], refuse, allow),
        Action::Pretend => vec![ret(RETURN_ERROR)],
        Action::Notify => vec![ret(RETURN_NOTIFY)],
        Action::NotifyUnlessEmptyPath(argument) => vec![
            load(FIRST_ARGUMENT + 8 * argument),
            branch(JUMP_IF_ANY_BIT, libc::AT_EMPTY_PATH as u32, 0, 1),
            allow,
            ret(RETURN_NOTIFY),
        ],
        Action::NotifyDevice(argument) => vec![
            load(FIRST_ARGUMENT + 8 * argument),
            branch(MASK, libc::S_IFMT, 0, 0),
            branch(JUMP_IF_EQUAL, libc::S_IFCHR, 2, 0),
            branch(JUMP_IF_EQUAL, libc::S_IFBLK, 1, 0),
            allow,
            ret(RETURN_NOTIFY),
        ],
        Action::NotifyIds(ids) => ask_for_ids(ids),
    }
}

/// Ends with a question if one of the ids is to be asked about. They are `unsigned int`s: the upper
/// half of an argument is nothing to the kernel.
fn ask_for_ids(ids: Ids) -> Vec<Instruction> {
    let none = if ids.narrow { 0xffff } else { u32::MAX };
    // Each looks, and goes on behind itself or at the question behind the last and a word between.
    let look = |index: u32, first: u32, to_question: u8| {
        let mut code = vec![load(FIRST_ARGUMENT + 8 * (ids.argument + index))];
        if ids.narrow {
            code.push(branch(MASK, none, 0, 0));
        }
        code.push(branch(JUMP_IF_AT_LEAST, first, 0, 1));
        code.push(branch(JUMP_IF_EQUAL, none, 0, to_question));
        code
    };
    let group = look(1, ids.first.1, 1);
    let mut code = look(0, ids.first.0, group.len() as u8 + 1);
    code.extend(group);
    code.extend([ret(RETURN_ALLOW), ret(RETURN_NOTIFY)]);
    code
}

/// Ends with `matched` if the first argument is one of `values`, else with `other`.
fn one_of(values: &[u32], matched: Instruction, other: Instruction) -> Vec<Instruction> {
    let mut code = vec![load(FIRST_ARGUMENT)];
    for (index, value) in values.iter().enumerate() {
        code.push(branch(
            JUMP_IF_EQUAL,
            *value,
            (values.len() - index) as u8,
            0,
        ));
    }
    code.extend([other, matched]);
    code
}

fn load(offset: u32) -> Instruction {
    branch(LOAD, offset, 0, 0)
}

fn ret(action: u32) -> Instruction {
    branch(RETURN, action, 0, 0)
}

fn jump(distance: usize) -> Instruction {
    // Programs are limited to 4096 instructions.
    branch(JUMP, distance as u32, 0, 0)
}

fn branch(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], architecture: u32, number: u32, argument: u32) -> u32 {
        run_with(program, architecture, number, [argument, 0, 0])
    }

    fn run_with<const N: usize>(
        program: &[Instruction],
        architecture: u32,
        number: u32,
        arguments: [u32; N],
    ) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction {
                code,
                if_true,
                if_false,
                value,
            } = program[at];
            at += 1;
            let mut take = |condition: bool| {
                at += usize::from(if condition { if_true } else { if_false });
            };
            match code {
                LOAD => {
                    accumulator = match value {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        other if other >= FIRST_ARGUMENT && other % 8 == 0 => {
                            arguments[(other - FIRST_ARGUMENT) as usize / 8]
                        }
                        other => panic!("load at {other}"),
                    }
                }
                MASK => accumulator &= value,
                JUMP => at += value as usize,
                JUMP_IF_EQUAL => take(accumulator == value),
                JUMP_IF_AT_LEAST => take(accumulator >= value),
                JUMP_IF_ANY_BIT => take(accumulator & value != 0),
                RETURN => return value,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const PERM: u32 = RETURN_ERROR | 1;
    const NOSYS: u32 = RETURN_ERROR | 38;

    #[test]
    fn every_listed_call_is_allowed_and_every_gap_refused() {
        let program = default_filter();
        assert!(program.len() < 4096, "{}", program.len());
        for architecture in &ARCHITECTURES {
            for (&column, examined) in architecture.columns.iter().zip(architecture.examined) {
                let listed: Vec<u32> = ALLOWED
                    .iter()
                    .map(|(_, numbers)| numbers[column])
                    .filter(|number| *number != N)
                    .collect();
                let base = listed[0] & 0x4000_0000;
                for number in base..base + 600 {
                    if examined.contains(&number) {
                        continue;
                    }
                    let got = run(&program, architecture.audit, number, 0);
                    if listed.contains(&number) {
                        assert_eq!(got, RETURN_ALLOW, "{number}");
                    } else {
                        assert!(got == PERM || got == NOSYS, "{number}: {got:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_unknown_architecture_is_killed() {
        assert_eq!(run(&default_filter(), 0x1234, 0, 0), RETURN_KILL_PROCESS);
    }

    #[test]
    fn calls_newer_than_the_profile_seem_not_to_exist() {
        let program = default_filter();
        for architecture in &ARCHITECTURES {
            assert_eq!(run(&program, architecture.audit, 2000, 0), NOSYS);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_with_arguments_are_decided_by_them() {
        let program = default_filter();
        let cases: [(&str, u32, u32, u32); 16] = [
            ("clone of a thread", 56, 0x003d_0f00, RETURN_ALLOW),
            ("clone with a user namespace", 56, 0x1000_0011, PERM),
            ("clone with a mount namespace", 56, 0x0002_0011, PERM),
            ("clone3", 435, 0, NOSYS),
            ("personality query", 135, 0xffff_ffff, RETURN_ALLOW),
            ("personality 32 bit", 135, 8, RETURN_ALLOW),
            ("personality no randomisation", 135, 0x4_0000, PERM),
            ("socket of the internet", 41, 2, RETURN_ALLOW),
            ("socket of kernel crypto", 41, 38, PERM),
            ("socket of the hypervisor", 41, 40, PERM),
            ("socket of XDP", 41, 44, RETURN_ALLOW),
            ("mount", 165, 0, PERM),
            ("unshare", 272, 0, PERM),
            ("keyctl", 250, 0, PERM),
            ("chroot", 161, 0, RETURN_ALLOW),
            ("ptrace", 101, 0, RETURN_ALLOW),
        ];
        for (name, number, argument, expected) in cases {
            let got = run(&program, 0xc000_003e, number, argument);
            assert_eq!(got, expected, "{name}");
        }
        assert_eq!(run(&program, 0x4000_0003, 120, 0x1000_0011), PERM, "x86");
        assert_eq!(
            run(&program, 0xc000_003e, 0x4000_0000 | 56, 0x1000_0011),
            PERM,
            "x32"
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_supervisor_gets_what_it_answers_and_nothing_else() {
        let (x86_64, x86) = (0xc000_003e, 0x4000_0003);
        let root = supervised_filter(Supervision::Owners { is_root: true });
        let user = supervised_filter(Supervision::Owners { is_root: false });
        assert!(root.len() < 4096 && user.len() < 4096, "{}", root.len());
        let device = libc::S_IFCHR | 0o600;
        let cases: [(&str, u32, u32, [u32; 3], u32); 14] = [
            ("read", x86_64, 0, [0; 3], RETURN_ALLOW),
            ("openat", x86_64, 257, [0; 3], RETURN_ALLOW),
            ("fchownat", x86_64, 260, [0; 3], RETURN_NOTIFY),
            ("newfstatat", x86_64, 262, [0; 3], RETURN_NOTIFY),
            ("statx", x86_64, 332, [0; 3], RETURN_NOTIFY),
            ("setxattrat", x86_64, 463, [0; 3], NOSYS),
            (
                "mknod of a device",
                x86_64,
                133,
                [0, device, 0],
                RETURN_NOTIFY,
            ),
            (
                "mknod of a pipe",
                x86_64,
                133,
                [0, libc::S_IFIFO, 0],
                RETURN_ALLOW,
            ),
            (
                "mknodat of a device",
                x86_64,
                259,
                [0, 0, device],
                RETURN_NOTIFY,
            ),
            (
                "mknodat of a file",
                x86_64,
                259,
                [0, device, 0o644],
                RETURN_ALLOW,
            ),
            ("mount", x86_64, 165, [0; 3], PERM),
            ("chown32 on x86", x86, 212, [0; 3], RETURN_NOTIFY),
            ("the oldest stat on x86", x86, 106, [0; 3], RETURN_ALLOW),
            ("setuid of root", x86_64, 105, [0; 3], RETURN_ERROR),
        ];
        for (name, architecture, number, arguments, expected) in cases {
            let got = run_with(&root, architecture, number, arguments);
            assert_eq!(got, expected, "{name}");
        }
        // Who isn't root is told the truth about changing users.
        assert_eq!(run(&user, x86_64, 105, 0), RETURN_ALLOW);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn only_where_files_stand_in_for_others_every_way_to_open_one_is_asked_about() {
        let (without, with) = (showing_filter(false), showing_filter(true));
        for (name, number, expected, with_stand_ins) in [
            ("openat", 257, RETURN_NOTIFY, RETURN_NOTIFY),
            ("openat2", 437, RETURN_ALLOW, NOSYS),
            ("creat", 85, RETURN_ALLOW, RETURN_NOTIFY),
            ("renameat2", 316, RETURN_ALLOW, RETURN_NOTIFY),
            ("linkat", 265, RETURN_ALLOW, RETURN_NOTIFY),
            ("unlink", 87, RETURN_ALLOW, RETURN_NOTIFY),
            ("statx", 332, RETURN_NOTIFY, RETURN_NOTIFY),
        ] {
            assert_eq!(run(&without, 0xc000_003e, number, 0), expected, "{name}");
            let got = run(&with, 0xc000_003e, number, 0);
            assert_eq!(got, with_stand_ins, "{name}");
        }
        let of_descriptor = [0, 0, libc::AT_EMPTY_PATH as u32];
        let got = run_with(&with, 0xc000_003e, 332, of_descriptor);
        assert_eq!(got, RETURN_ALLOW, "statx of a descriptor");
        let got = run(&with, 0x4000_0003, 195, 0);
        assert_eq!(got, RETURN_NOTIFY, "stat64 on x86");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn who_goes_beyond_the_mapped_ids_is_asked_about_and_nobody_else() {
        use crate::sandbox::spec::HighestIds;
        let (x86_64, x86, x32) = (0xc000_003e, 0x4000_0003, 0x4000_0000);
        let beyond = |uid, gid| supervised_filter(Supervision::Beyond(HighestIds { uid, gid }));
        let (wide, small) = (beyond(65536, 65537), beyond(999, 65537));
        assert!(wide.len() < 4096, "{}", wide.len());
        let (ask, allow, none) = (RETURN_NOTIFY, RETURN_ALLOW, u32::MAX);
        let device = libc::S_IFBLK | 0o600;
        for (name, filter, architecture, number, arguments, expected) in [
            ("root", &wide, x86_64, 92, [9, 0, 0, 9], allow),
            (
                "the last but one",
                &wide,
                x86_64,
                92,
                [9, 65535, 65536, 9],
                allow,
            ),
            (
                "the user that stands in",
                &wide,
                x86_64,
                92,
                [9, 65536, 0, 9],
                ask,
            ),
            (
                "the group that stands in",
                &wide,
                x86_64,
                92,
                [9, 0, 65537, 9],
                ask,
            ),
            ("nobody", &wide, x86_64, 92, [9, none, none, 9], allow),
            (
                "a group beyond",
                &wide,
                x86_64,
                94,
                [9, none, none - 1, 9],
                ask,
            ),
            (
                "a user beyond",
                &wide,
                x86_64,
                93,
                [9, none - 1, none, 9],
                ask,
            ),
            ("fchownat", &wide, x86_64, 260, [none, 70000, 0, 0], allow),
            (
                "fchownat of a user",
                &wide,
                x86_64,
                260,
                [9, 9, 70000, 0],
                ask,
            ),
            (
                "fchownat of a group",
                &wide,
                x86_64,
                260,
                [9, 9, none, 70000],
                ask,
            ),
            ("x32", &wide, x86_64, x32 | 92, [9, 70000, 0, 9], ask),
            ("16 bits", &wide, x86, 182, [9, 65534, 65534, 9], allow),
            ("32 bits", &wide, x86, 212, [9, 65536, 0, 9], ask),
            (
                "16 bits, few ids",
                &small,
                x86,
                182,
                [9, 0x7_03e7, 0, 9],
                ask,
            ),
            (
                "16 bits, few ids, root",
                &small,
                x86,
                182,
                [9, 0x7_0000, 0, 9],
                allow,
            ),
            (
                "16 bits, nobody",
                &small,
                x86,
                182,
                [9, 0x7_ffff, 0xffff, 9],
                allow,
            ),
            (
                "mknod of a device",
                &wide,
                x86_64,
                133,
                [9, device, 9, 9],
                ask,
            ),
            (
                "mknodat of a device",
                &wide,
                x86_64,
                259,
                [9, 9, device, 9],
                ask,
            ),
            (
                "mknodat of a pipe",
                &wide,
                x86_64,
                259,
                [9, 9, libc::S_IFIFO, 9],
                allow,
            ),
            ("stat", &wide, x86_64, 4, [9; 4], allow),
            ("setxattr", &wide, x86_64, 188, [9; 4], allow),
            ("setuid", &wide, x86_64, 105, [70000; 4], allow),
            ("mount", &wide, x86_64, 165, [0; 4], PERM),
        ] {
            let got = run_with(filter, architecture, number, arguments);
            assert_eq!(got, expected, "{name}");
        }
    }
}
