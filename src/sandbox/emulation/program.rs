//! Emulators among the programs of this machine: QEMU's for programs of another processor.
//!
//! A step's root file system has nothing of the machine's, so only a statically linked one can
//! serve. Nothing is started here.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::machine::Machine;

/// What the folders of PATH hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// An emulator that can serve.
    Found(PathBuf),
    /// One that needs libraries of this machine.
    Dynamic(PathBuf),
    /// None.
    Nothing,
}

/// Looks for the emulator of a machine: the first that is statically linked.
pub(super) fn search(machine: &Machine, folders: &[PathBuf]) -> Search {
    let names = [
        format!("qemu-{}-static", machine.qemu),
        format!("qemu-{}", machine.qemu),
    ];
    let mut dynamic = None;
    for folder in folders.iter().filter(|folder| folder.is_absolute()) {
        for name in &names {
            let path = folder.join(name);
            let executable = path
                .metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
            if !executable {
                continue;
            }
            match is_static(&path) {
                Some(true) => return Search::Found(path),
                Some(false) => dynamic = dynamic.or(Some(path)),
                None => {}
            }
        }
    }
    dynamic.map_or(Search::Nothing, Search::Dynamic)
}

/// Whether an ELF program needs no other file to be started; `None` for what is none.
fn is_static(path: &Path) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let file = File::open(path).ok()?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    let (wide, big_endian) = (header[4] == 2, header[5] == 2);
    let number = |bytes: &[u8]| -> u64 {
        let digits = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        match big_endian {
            true => bytes.iter().fold(0, digits),
            false => bytes.iter().rev().fold(0, digits),
        }
    };
    let (offset, size, count) = match wide {
        true => (&header[32..40], &header[54..56], &header[56..58]),
        false => (&header[28..32], &header[42..44], &header[44..46]),
    };
    let (offset, size, count) = (number(offset), number(size), number(count));
    for index in 0..count {
        let mut kind = [0; 4];
        let place = offset.checked_add(index * size)?;
        file.read_exact_at(&mut kind, place).ok()?;
        if number(&kind) == u64::from(INTERPRETER) {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;

    fn machine() -> &'static Machine {
        Machine::of(&Platform::new("linux", "arm64", None)).unwrap()
    }

    fn put(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_first_that_is_static_is_taken() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = [folders[0].path(), folders[1].path()];
        let paths = [first.to_owned(), second.to_owned()];
        let program = machine().program();
        let mut dynamic = program.clone();
        dynamic[64] = 3;
        assert_eq!(search(machine(), &paths), Search::Nothing);
        put(first, "qemu-aarch64", b"#!/bin/sh\n", 0o755);
        put(second, "qemu-aarch64-static", &program, 0o644);
        assert_eq!(search(machine(), &paths), Search::Nothing);
        let place = put(first, "qemu-aarch64-static", &dynamic, 0o755);
        assert_eq!(search(machine(), &paths), Search::Dynamic(place));
        let place = put(second, "qemu-aarch64", &program, 0o755);
        assert_eq!(search(machine(), &paths), Search::Found(place));
        assert_eq!(search(machine(), &["relative".into()]), Search::Nothing);
    }

    #[test]
    fn damaged_programs_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = machine().program();
        // more headers than there is file
        program[56..58].fill(0xff);
        put(folder.path(), "qemu-aarch64", &program, 0o755);
        program.truncate(20);
        put(folder.path(), "qemu-aarch64-static", &program, 0o755);
        let folders = [folder.path().to_owned()];
        assert_eq!(search(machine(), &folders), Search::Nothing);
    }
}
