//! `--chmod`: permission bits as a number, or symbolic as the program chmod takes them.
//!
//! Symbolic modes are read as chmod(1) of the BSDs reads them, which is the manual that BuildKit's
//! reference names: `X` looks at the bits that a file came with, `s` says nothing to others, `t`
//! nothing to others alone.

/// What `--chmod` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chmod {
    /// These bits.
    Octal(u32),
    /// Changes to the bits that are there, in order.
    Symbolic(Vec<Change>),
}

/// One change of a symbolic mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// These bits are set.
    Set(u32),
    /// These are cleared.
    Clear(u32),
    /// These are set of a directory, and of what somebody could execute before all changes.
    SetIfExecutable(u32),
    /// The permissions of one class are set, cleared or copied for the classes of `who`.
    Copy {
        /// How far to the left the bits of the class are.
        from: u32,
        /// Bits of the classes that get them.
        who: u32,
        /// `+`, `-` or `=`.
        operator: u8,
    },
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o0007;
const ALL: u32 = USER | GROUP | OTHERS;
const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;

impl Chmod {
    /// Reads the flag's value.
    ///
    /// # Errors
    /// BuildKit's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let octal = u32::from_str_radix(text, 8).ok();
        let octal = octal.filter(|mode| *mode <= 0o7777 && !text.starts_with('+'));
        let symbolic = || {
            let is_number = text.starts_with(|c: char| c.is_ascii_digit());
            (!is_number).then(|| changes(text)).flatten()
        };
        octal
            .map(Self::Octal)
            .or_else(|| symbolic().map(Self::Symbolic))
            .ok_or_else(|| {
                format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
            })
    }

    /// The bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(changes) => {
                let is_executable = is_directory || mode & EXECUTE != 0;
                changes.iter().fold(mode, |now, change| match *change {
                    Change::Set(bits) => now | bits,
                    Change::Clear(bits) => now & !bits,
                    Change::SetIfExecutable(bits) if is_executable => now | bits,
                    Change::SetIfExecutable(_) => now,
                    Change::Copy {
                        from,
                        who,
                        operator,
                    } => {
                        let bits = (((now >> from) & 0o7) * 0o111) & who;
                        match operator {
                            b'+' => now | bits,
                            b'-' => now & !bits,
                            _ => (now & !(0o777 & who)) | bits,
                        }
                    }
                })
            }
        }
    }

    /// The bits of a directory that is made on the way.
    pub fn of_new_directory(&self, default: u32) -> u32 {
        match self {
            Self::Octal(bits) => bits & 0o777,
            Self::Symbolic(_) => default,
        }
    }
}

/// Reads clauses such as `u+x` and `go=u-w`, with commas between them.
fn changes(text: &str) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    for clause in text.split(',') {
        let start = clause.find(['+', '-', '='])?;
        let who = clause
            .get(..start)?
            .bytes()
            .try_fold(0, |who, class| Some(who | class_bits(class)?))?;
        let mut rest = clause.get(start..)?;
        while let Some(operator) = rest.bytes().next() {
            let behind = rest.get(1..)?;
            let end = behind.find(['+', '-', '=']).unwrap_or(behind.len());
            let (permissions, next) = behind.split_at(end);
            one_operator(who, operator, permissions, &mut changes)?;
            rest = next;
        }
    }
    Some(changes)
}

fn class_bits(class: u8) -> Option<u32> {
    match class {
        b'u' => Some(USER),
        b'g' => Some(GROUP),
        b'o' => Some(OTHERS),
        b'a' => Some(ALL),
        _ => None,
    }
}

/// The changes of one operator and the permissions behind it.
fn one_operator(
    written: u32,
    operator: u8,
    permissions: &str,
    changes: &mut Vec<Change>,
) -> Option<()> {
    let mut who = if written == 0 { ALL } else { written };
    let beyond_others = who & !OTHERS != 0;
    let (mut bits, mut if_executable, mut copied) = (0, 0, Vec::new());
    for permission in permissions.bytes() {
        match permission {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= EXECUTE,
            b'X' if operator != b'-' => if_executable = EXECUTE,
            b'X' => bits |= EXECUTE,
            b's' => bits |= SET_ID,
            b't' if beyond_others => {
                who |= STICKY;
                bits |= STICKY;
            }
            b't' => {}
            b'u' => copied.push(6),
            b'g' => copied.push(3),
            b'o' => copied.push(0),
            _ => return None,
        }
    }
    match operator {
        b'-' => changes.push(Change::Clear(who & bits)),
        b'=' if copied.is_empty() || bits != 0 => {
            changes.extend([Change::Clear(who), Change::Set(who & bits)]);
        }
        _ => changes.push(Change::Set(who & bits)),
    }
    changes.push(Change::SetIfExecutable(who & if_executable));
    changes.extend(copied.into_iter().map(|from| Change::Copy {
        from,
        who,
        operator,
    }));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_chmod_reads_them() {
        for (text, mode, is_directory, expected) in [
            ("755", 0o644, false, 0o755),
            ("4755", 0o644, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("u+x,go-r", 0o644, false, 0o700),
            ("a=rX", 0o644, false, 0o444),
            ("a=rX", 0o700, true, 0o555),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o710, false, 0o755),
            ("=rw,+X", 0o750, false, 0o777),
            ("=rw,+X", 0o640, false, 0o666),
            ("+x", 0o644, false, 0o755),
            ("-X", 0o755, false, 0o644),
            ("go=", 0o777, false, 0o700),
            ("u=rwx-x", 0o000, false, 0o600),
            ("g=u", 0o750, false, 0o770),
            ("go=u-w", 0o700, false, 0o755),
            ("o-u", 0o757, false, 0o750),
            ("g+s", 0o755, true, 0o2755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("u+t", 0o755, true, 0o1755),
            ("o+t", 0o755, true, 0o755),
            ("a=rx", 0o6755, false, 0o555),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(mode, is_directory), expected, "{text}");
        }
        for bad in [
            "",
            "9",
            "10000",
            "u",
            "u+q",
            "z+x",
            "8x",
            "+x,",
            "everybody",
        ] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }
}
