//! `--chmod`: permission bits as a number, or symbolic as the program chmod takes them.

/// What `--chmod` asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chmod {
    /// These bits.
    Octal(u32),
    /// Changes to the bits that are there, in order.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode: `go-w`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clause {
    /// Bits of those it is about: user, group, others.
    who: u32,
    operator: u8,
    /// Permissions for everybody; `who` says whose are meant.
    permissions: u32,
    /// `X`: execution where it is a directory or somebody may execute already.
    conditional_execute: bool,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o1007;

impl Chmod {
    /// Reads the flag's value.
    ///
    /// # Errors
    /// BuildKit's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(mode) = u32::from_str_radix(text, 8)
            && mode <= 0o7777
        {
            return Ok(Self::Octal(mode));
        }
        let clauses: Option<Vec<Clause>> = if text.starts_with(|c: char| c.is_ascii_digit()) {
            None
        } else {
            text.split(',')
                .map(clauses)
                .collect::<Option<Vec<_>>>()
                .map(|all| all.concat())
        };
        clauses.map(Self::Symbolic).ok_or_else(|| {
            format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        })
    }

    /// The bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| {
                let mut permissions = clause.permissions;
                if clause.conditional_execute && (is_directory || mode & 0o111 != 0) {
                    permissions |= 0o111;
                }
                let bits = permissions & clause.who;
                match clause.operator {
                    b'+' => mode | bits,
                    b'-' => mode & !bits,
                    _ => mode & !clause.who | bits,
                }
            }),
        }
    }

    /// The bits of a directory that is made on the way.
    pub fn of_new_directory(&self, default: u32) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(_) => default,
        }
    }
}

/// `u+x`, or several operators for the same: `u+x-w`.
fn clauses(text: &str) -> Option<Vec<Clause>> {
    let start = text.find(['+', '-', '='])?;
    let mut who = 0;
    for c in text[..start].bytes() {
        who |= match c {
            b'u' => USER,
            b'g' => GROUP,
            b'o' => OTHERS,
            b'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut clauses: Vec<Clause> = Vec::new();
    for c in text[start..].bytes() {
        if matches!(c, b'+' | b'-' | b'=') {
            clauses.push(Clause {
                who,
                operator: c,
                permissions: 0,
                conditional_execute: false,
            });
            continue;
        }
        let clause = clauses.last_mut()?;
        match c {
            b'r' => clause.permissions |= 0o444,
            b'w' => clause.permissions |= 0o222,
            b'x' => clause.permissions |= 0o111,
            b'X' => clause.conditional_execute = true,
            b's' => clause.permissions |= 0o6000,
            b't' => clause.permissions |= 0o1000,
            _ => return None,
        }
    }
    Some(clauses)
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
            ("+x", 0o644, false, 0o755),
            ("go=", 0o777, false, 0o700),
            ("u=rwx-x", 0o000, false, 0o600),
            ("g+s", 0o755, true, 0o2755),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(mode, is_directory), expected, "{text}");
        }
        for bad in ["", "9", "10000", "u", "u+q", "z+x", "8x"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }
}
