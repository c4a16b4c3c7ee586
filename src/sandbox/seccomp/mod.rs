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
mod tests;
