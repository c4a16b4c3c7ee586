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
