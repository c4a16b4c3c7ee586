//! Processors whose programs can be emulated: how the kernel knows their programs, what their
//! emulator is called, and the smallest program for each. Pure.

use crate::platform::Platform;

/// A processor.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Its name in platforms.
    pub(super) architecture: &'static str,
    /// Its name in QEMU's programs: `qemu-NAME`.
    pub(super) qemu: &'static str,
    /// ELF's number for it, `e_machine`.
    number: u16,
    /// Whether its programs have addresses of 64 bits.
    wide: bool,
    /// Whether its most significant byte comes first.
    big_endian: bool,
    /// `e_flags` that its programs need to be taken for current ones.
    flags: u32,
    /// Code that ends the process with [`EXIT_CODE`].
    code: &'static [u8],
}

/// What the smallest program ends with.
pub(super) const EXIT_CODE: i32 = 42;

/// Those that images are made for.
pub(super) static MACHINES: [Machine; 9] = [
    Machine {
        architecture: "amd64",
        qemu: "x86_64",
        number: 62,
        wide: true,
        big_endian: false,
        flags: 0,
        // mov edi, 42; mov eax, 60; syscall
        code: &[0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05],
    },
    Machine {
        architecture: "arm64",
        qemu: "aarch64",
        number: 183,
        wide: true,
        big_endian: false,
        flags: 0,
        // mov x0, 42; mov x8, 93; svc 0
        code: &[0x40, 5, 0x80, 0xd2, 0xa8, 0xb, 0x80, 0xd2, 1, 0, 0, 0xd4],
    },
    Machine {
        architecture: "arm",
        qemu: "arm",
        number: 40,
        wide: false,
        big_endian: false,
        flags: 0x0500_0000,
        // mov r0, 42; mov r7, 1; svc 0
        code: &[0x2a, 0, 0xa0, 0xe3, 1, 0x70, 0xa0, 0xe3, 0, 0, 0, 0xef],
    },
    Machine {
        architecture: "386",
        qemu: "i386",
        number: 3,
        wide: false,
        big_endian: false,
        flags: 0,
        // mov ebx, 42; mov eax, 1; int 0x80
        code: &[0xbb, 42, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xcd, 0x80],
    },
    Machine {
        architecture: "riscv64",
        qemu: "riscv64",
        number: 243,
        wide: true,
        big_endian: false,
        flags: 5,
        // li a0, 42; li a7, 93; ecall
        code: &[0x13, 5, 0xa0, 2, 0x93, 8, 0xd0, 5, 0x73, 0, 0, 0],
    },
    Machine {
        architecture: "ppc64le",
        qemu: "ppc64le",
        number: 21,
        wide: true,
        big_endian: false,
        flags: 2,
        // li r3, 42; li r0, 1; sc
        code: &[0x2a, 0, 0x60, 0x38, 1, 0, 0, 0x38, 2, 0, 0, 0x44],
    },
    Machine {
        architecture: "s390x",
        qemu: "s390x",
        number: 22,
        wide: true,
        big_endian: true,
        flags: 0,
        // lghi %r2, 42; svc 1
        code: &[0xa7, 0x29, 0, 42, 0x0a, 1],
    },
    Machine {
        architecture: "loong64",
        qemu: "loongarch64",
        number: 258,
        wide: true,
        big_endian: false,
        flags: 0x43,
        // addi.d a0, zero, 42; addi.d a7, zero, 93; syscall 0
        code: &[4, 0xa8, 0xc0, 2, 0x0b, 0x74, 0xc1, 2, 0, 0, 0x2b, 0],
    },
    Machine {
        architecture: "mips64le",
        qemu: "mips64el",
        number: 8,
        wide: true,
        big_endian: false,
        flags: 0x8000_0000,
        // li a0, 42; li v0, 5058; syscall
        code: &[0x2a, 0, 4, 0x24, 0xc2, 0x13, 2, 0x24, 0x0c, 0, 0, 0],
    },
];

/// The smallest program is loaded there: a multiple of the largest pages that a kernel has.
const BASE: u32 = 0x40_0000;

impl Machine {
    /// The processor of a platform.
    pub(super) fn of(platform: &Platform) -> Option<&'static Self> {
        if platform.os != "linux" {
            return None;
        }
        MACHINES
            .iter()
            .find(|machine| machine.architecture == platform.architecture)
    }

    /// Whether processors of the `host`'s architecture may run its programs themselves.
    pub(super) fn is_native_on(&self, host: &str) -> bool {
        self.architecture == host
            || matches!(
                (host, self.architecture),
                ("amd64", "386") | ("arm64", "arm")
            )
    }

    /// The name of its registration.
    pub(super) fn name(&self) -> String {
        format!("rbuild-{}", self.qemu)
    }

    /// The line that has the kernel start `interpreter` for programs of this processor: `None`
    /// where the path can't be written in one.
    ///
    /// The emulator is opened now and for good (`F`), gets the program open (`O`) and its first
    /// argument as it was (`P`), where it knows what to do with that; a set-user-ID program makes
    /// the user, not its emulator (`C`).
    pub(super) fn registration(&self, interpreter: &str, keeps_argument: bool) -> Option<String> {
        let delimiter = [':', '|', ',', ';', '!']
            .into_iter()
            .find(|delimiter| !interpreter.contains(*delimiter))?;
        let (magic, mask) = self.magic();
        let escaped = |bytes: &[u8]| -> String {
            bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
        };
        let name = self.name();
        let (magic, mask) = (escaped(&magic), escaped(&mask));
        let flags = if keeps_argument { "POCF" } else { "OCF" };
        let fields = ["", &name, "M", "", &magic, &mask, interpreter, flags];
        let line = fields.join(&delimiter.to_string());
        (!interpreter.contains('\n') && line.len() < LONGEST_REGISTRATION).then_some(line)
    }

    /// The first bytes of its programs, and which bits of them count: neither the system that they
    /// are marked for nor whether they can be loaded anywhere.
    fn magic(&self) -> ([u8; 20], [u8; 20]) {
        let mut magic = [0; 20];
        let mut mask = [0; 20];
        magic[..16].copy_from_slice(&self.identification());
        mask[..7].fill(0xff);
        let (kind, number) = (self.half(2), self.half(self.number));
        magic[16..18].copy_from_slice(&kind);
        // 2 is a program at a fixed address, 3 one that can be loaded anywhere.
        mask[16..18].copy_from_slice(&self.half(0xfffe));
        magic[18..].copy_from_slice(&number);
        mask[18..].fill(0xff);
        (magic, mask)
    }

    fn identification(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[4] = 1 + u8::from(self.wide);
        bytes[5] = 1 + u8::from(self.big_endian);
        bytes[6] = 1;
        bytes
    }

    fn half(&self, value: u16) -> [u8; 2] {
        match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    fn word(&self, value: u32) -> [u8; 4] {
        match self.big_endian {
            true => value.to_be_bytes(),
            false => value.to_le_bytes(),
        }
    }

    /// An address or size, as wide as the machine has them.
    fn address(&self, value: u32) -> Vec<u8> {
        let (zeroes, value) = ([0; 4], self.word(value));
        match (self.wide, self.big_endian) {
            (false, _) => value.to_vec(),
            (true, true) => [zeroes, value].concat(),
            (true, false) => [value, zeroes].concat(),
        }
    }

    /// The smallest program: it ends with [`EXIT_CODE`].
    pub(super) fn program(&self) -> Vec<u8> {
        let (header, segment): (u16, u16) = if self.wide { (64, 56) } else { (52, 32) };
        let start = u32::from(header + segment);
        let size = start + u32::try_from(self.code.len()).unwrap_or_default();
        let (kind, flags) = (self.word(1), self.word(5));
        let mut file = self.identification().to_vec();
        file.extend([self.half(2), self.half(self.number)].concat());
        file.extend(self.word(1));
        for address in [BASE + start, u32::from(header), 0] {
            file.extend(self.address(address));
        }
        file.extend(self.word(self.flags));
        for value in [header, segment, 1, 0, 0, 0] {
            file.extend(self.half(value));
        }
        // One segment with everything, readable and executable.
        file.extend(kind);
        if self.wide {
            file.extend(flags);
        }
        for address in [0, BASE, BASE, size, size] {
            file.extend(self.address(address));
        }
        if !self.wide {
            file.extend(flags);
        }
        file.extend(self.address(0x1_0000));
        file.extend(self.code);
        file
    }
}

/// The kernel takes lines of up to 1920 bytes.
const LONGEST_REGISTRATION: usize = 1900;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(architecture: &str) -> &'static Machine {
        Machine::of(&Platform::new("linux", architecture, None)).unwrap()
    }

    #[test]
    fn a_registration_is_what_qemu_s_own_script_writes_but_for_the_padding() {
        assert_eq!(
            machine("arm64").registration("/usr/bin/qemu-aarch64-static", true),
            Some(
                ":rbuild-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\
                 \\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00\
                 \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xfe\\xff\\xff\\xff:/usr/bin/qemu-aarch64-static:POCF"
                    .to_owned()
            )
        );
        let big = machine("s390x").registration("/a:b", false).unwrap();
        assert!(big.starts_with("|rbuild-s390x|M||"), "{big}");
        assert!(big.contains("\\x00\\x02\\x00\\x16|"), "{big}");
        assert!(big.ends_with("\\xff\\xfe\\xff\\xff|/a:b|OCF"), "{big}");
    }

    #[test]
    fn a_path_that_no_line_can_hold_is_refused() {
        for path in ["/a\nb".to_owned(), "/:|,;!".to_owned(), "/a".repeat(1000)] {
            assert_eq!(machine("arm").registration(&path, true), None, "{path}");
        }
    }

    #[test]
    fn the_smallest_program_is_one_that_this_machine_starts() {
        use std::os::unix::fs::OpenOptionsExt as _;
        let host = Platform::host();
        let Some(machine) = Machine::of(&host) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &machine.program()))
            .unwrap();
        // another thread's child may hold it open for writing for a moment
        let status = std::iter::repeat_with(|| std::process::Command::new(&path).status())
            .find(|status| !matches!(status, Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy))
            .unwrap();
        assert_eq!(status.unwrap().code(), Some(EXIT_CODE));
    }

    #[test]
    fn only_linux_programs_have_a_machine() {
        for name in ["windows/amd64", "linux/sparc64", "darwin/arm64"] {
            assert_eq!(Machine::of(&name.parse().unwrap()), None, "{name}");
        }
    }
}
