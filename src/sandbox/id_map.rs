//! Which user and group ids a user namespace gets: what is allowed, and writing it.
//!
//! A range of ids comes from `/etc/subuid` and `/etc/subgid` through the set-uid programs
//! `newuidmap` and `newgidmap`, or, for a process that may change users anyway (user 0 in a
//! container), from the ids that it has itself.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;

/// One line of a map: first id inside, first id outside, how many.
pub type IdRange = (u32, u32, u32);

/// Why no map could be made: what is missing, and what to do.
#[derive(Debug)]
pub(super) struct MapError {
    pub(super) reason: String,
    pub(super) fix: Option<String>,
}

/// The maps of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdMaps {
    pub(super) users: Vec<IdRange>,
    pub(super) groups: Vec<IdRange>,
}

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Users,
    Groups,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Users => "/etc/subuid",
            Self::Groups => "/etc/subgid",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Users => "newuidmap",
            Self::Groups => "newgidmap",
        }
    }

    fn map_file(self) -> &'static str {
        match self {
            Self::Users => "uid_map",
            Self::Groups => "gid_map",
        }
    }
}

impl IdMaps {
    /// The maps in force for this process.
    pub(super) fn current() -> std::io::Result<Self> {
        let read = |kind: Kind| -> std::io::Result<Vec<IdRange>> {
            Ok(parse_map(&std::fs::read_to_string(format!(
                "/proc/self/{}",
                kind.map_file()
            ))?))
        };
        Ok(Self {
            users: read(Kind::Users)?,
            groups: read(Kind::Groups)?,
        })
    }

    /// Every id of this process's own user namespace, as itself.
    pub(super) fn identity() -> std::io::Result<Self> {
        let same = |ranges: Vec<IdRange>| {
            ranges
                .into_iter()
                .map(|(inside, _, count)| (inside, inside, count))
                .collect()
        };
        let current = Self::current()?;
        Ok(Self {
            users: same(current.users),
            groups: same(current.groups),
        })
    }

    /// This user as 0, alone.
    pub(super) fn single() -> Self {
        Self {
            users: vec![(0, rustix::process::geteuid().as_raw(), 1)],
            groups: vec![(0, rustix::process::getegid().as_raw(), 1)],
        }
    }

    /// This user as 0, and the ids lent to it from 1 on.
    pub(super) fn lent() -> Result<Self, MapError> {
        let uid = rustix::process::geteuid().as_raw();
        let name = user_name(uid);
        let ranges = |kind: Kind, own: u32| -> Result<Vec<IdRange>, MapError> {
            let lent = lent_ranges(kind, uid, name.as_deref());
            if lent.is_empty() {
                let who = name.clone().unwrap_or_else(|| uid.to_string());
                return Err(MapError {
                    reason: format!("`{}` lends no ids to `{who}`", kind.file()),
                    fix: Some(format!(
                        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who}"
                    )),
                });
            }
            Ok(stack(own, &lent))
        };
        Ok(Self {
            users: ranges(Kind::Users, uid)?,
            groups: ranges(Kind::Groups, rustix::process::getegid().as_raw())?,
        })
    }

    /// Whether there is more than one user.
    pub(super) fn has_many(&self) -> bool {
        self.users.iter().map(|range| range.2).ne([1])
    }

    /// The highest group that has an id here.
    pub(super) fn highest_group(&self) -> u32 {
        let last = |&(first, _, count): &IdRange| first.saturating_add(count.saturating_sub(1));
        self.groups.iter().map(last).max().unwrap_or(0)
    }

    /// Whether a user has an id here.
    pub(super) fn has_user(&self, uid: u32) -> bool {
        is_in(&self.users, uid)
    }

    /// Whether a group has an id here.
    pub(super) fn has_group(&self, gid: u32) -> bool {
        is_in(&self.groups, gid)
    }

    /// Gives the maps to the new user namespace of process `pid`, with our own rights.
    pub(super) fn write(&self, pid: Pid) -> std::io::Result<()> {
        for (kind, ranges) in [(Kind::Users, &self.users), (Kind::Groups, &self.groups)] {
            let path = format!("/proc/{}/{}", pid.as_raw_nonzero(), kind.map_file());
            std::fs::write(path, format_map(ranges))?;
        }
        Ok(())
    }

    /// Gives the maps to the new user namespace of this process, as anyone may for one id.
    pub(super) fn write_own(&self) -> std::io::Result<()> {
        // Whoever can't prove rights over groups must give up changing them first.
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format_map(&self.users))?;
        std::fs::write("/proc/self/gid_map", format_map(&self.groups))
    }

    /// Has the set-uid programs give the maps to the new user namespace of process `pid`.
    pub(super) fn write_by_programs(&self, pid: Pid) -> Result<(), MapError> {
        for (kind, ranges) in [(Kind::Users, &self.users), (Kind::Groups, &self.groups)] {
            run_map_program(kind, ranges, pid)?;
        }
        Ok(())
    }
}

fn is_in(ranges: &[IdRange], id: u32) -> bool {
    ranges
        .iter()
        .any(|(inside, _, count)| id.checked_sub(*inside).is_some_and(|n| n < *count))
}

fn run_map_program(kind: Kind, ranges: &[IdRange], pid: Pid) -> Result<(), MapError> {
    let program = kind.program();
    let output = Command::new(program)
        .arg(pid.as_raw_nonzero().to_string())
        .args(ranges.iter().flat_map(|(inside, outside, count)| {
            [inside.to_string(), outside.to_string(), count.to_string()]
        }))
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(MapError {
            reason: format!(
                "`{program}` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            fix: Some(if gains_no_rights() {
                "`no_new_privs` is set for rbuild, so set-uid programs gain nothing: start it without (Kubernetes: `allowPrivilegeEscalation: true`; Docker: without `--security-opt no-new-privileges`; systemd: `NoNewPrivileges=no`)".to_owned()
            } else {
                format!(
                    "make sure that `{program}` is set-uid root, or has the capability cap_set{}id",
                    if kind == Kind::Users { 'u' } else { 'g' }
                )
            }),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(MapError {
            reason: format!("the program `{program}` is not installed"),
            fix: Some(
                "install the package `uidmap` (Debian, Ubuntu), `shadow-utils` (Fedora), `shadow-uidmap` (Alpine) or `shadow` (Arch)"
                    .to_owned(),
            ),
        }),
        Err(error) => Err(MapError {
            reason: format!("can't run `{program}`: {error}"),
            fix: None,
        }),
    }
}

/// Whether what this process starts gains no rights by set-uid bits or file capabilities.
fn gains_no_rights() -> bool {
    rustix::thread::no_new_privs().unwrap_or(false)
}

/// One's own id as 0, and the lent ones one after the other from 1 on.
fn stack(own: u32, lent: &[(u32, u32)]) -> Vec<IdRange> {
    let mut ranges = vec![(0, own, 1)];
    let mut next: u32 = 1;
    for &(first, count) in lent {
        let count = count.min(u32::MAX - next);
        // The kernel refuses a map in which an id outside occurs twice.
        let overlaps = ranges.iter().any(|&(_, outside, taken)| {
            u64::from(first) < u64::from(outside) + u64::from(taken)
                && u64::from(outside) < u64::from(first) + u64::from(count)
        });
        if count == 0 || overlaps {
            continue;
        }
        ranges.push((next, first, count));
        next += count;
    }
    ranges
}

/// The ranges lent to a user: from the file or, where the file names none, from the program
/// `getsubids`, which asks a directory service too. Where the machine is set up to ask that, it
/// comes first: the programs that give the map believe nothing else then.
fn lent_ranges(kind: Kind, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let from_file = || {
        let text = std::fs::read_to_string(kind.file()).unwrap_or_default();
        parse_lent(&text, uid, name)
    };
    let from_program = || {
        name.map(|name| ask_getsubids(kind, name))
            .unwrap_or_default()
    };
    let settings = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let (first, second): (&dyn Fn() -> Vec<_>, &dyn Fn() -> Vec<_>) =
        match asks_a_service(&settings) {
            true => (&from_program, &from_file),
            false => (&from_file, &from_program),
        };
    Some(first())
        .filter(|ranges| !ranges.is_empty())
        .unwrap_or_else(second)
}

/// Whether the settings of the name service say that subordinate ids come from more than files.
fn asks_a_service(settings: &str) -> bool {
    settings
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().strip_prefix("subid:"))
        .any(|sources| sources.split_whitespace().any(|source| source != "files"))
}

fn ask_getsubids(kind: Kind, name: &str) -> Vec<(u32, u32)> {
    let mut command = Command::new("getsubids");
    if kind == Kind::Groups {
        command.arg("-g");
    }
    match command.arg(name).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            parse_getsubids(&String::from_utf8_lossy(&output.stdout), name)
        }
        _ => Vec::new(),
    }
}

/// Lines `name-or-uid:first:count`.
fn parse_lent(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let uid = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            if who != uid && Some(who) != name {
                return None;
            }
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect()
}

/// Lines `0: name first count`.
fn parse_getsubids(text: &str, name: &str) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(": ")?;
            let mut fields = rest.split_ascii_whitespace();
            if fields.next()? != name {
                return None;
            }
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect()
}

fn parse_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().map(str::parse);
            match (fields.next(), fields.next(), fields.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) => {
                    Some((inside, outside, count))
                }
                _ => None,
            }
        })
        .collect()
}

fn format_map(ranges: &[IdRange]) -> String {
    ranges
        .iter()
        .map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"))
        .collect()
}

/// The name of a user: from `/etc/passwd`, else as a directory service tells the program `id`.
fn user_name(uid: u32) -> Option<String> {
    let text = std::fs::read(Path::new("/etc/passwd")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let listed = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    listed.or_else(|| {
        let output = Command::new("id").arg("-un").stdin(Stdio::null()).output();
        let output = output.ok().filter(|output| output.status.success())?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_uid() {
        let text = "root:100000:65536\nalice:200000:65536\n# note\n1000:300000:10\nalice:bad:1\nalice2:1:1\n";
        assert_eq!(
            parse_lent(text, 1000, Some("alice")),
            [(200_000, 65536), (300_000, 10)]
        );
        assert_eq!(parse_lent(text, 1001, None), []);
    }

    #[test]
    fn a_directory_service_is_asked_where_the_settings_name_one() {
        for (settings, expected) in [
            ("", false),
            ("passwd: files sss\n", false),
            ("subid: files\n", false),
            ("# subid: sss\n", false),
            ("passwd: files\n subid:  sss # central\n", true),
        ] {
            assert_eq!(asks_a_service(settings), expected, "{settings}");
        }
    }

    #[test]
    fn getsubids_output_is_understood() {
        let text = "0: alice 200000 65536\n1: alice 400000 10\n";
        assert_eq!(
            parse_getsubids(text, "alice"),
            [(200_000, 65536), (400_000, 10)]
        );
    }

    #[test]
    fn lent_ids_follow_ones_own_without_gaps_or_repetition() {
        assert_eq!(
            stack(
                1000,
                &[(200_000, 65536), (210_000, 5), (500, 10), (990, 20)]
            ),
            [(0, 1000, 1), (1, 200_000, 65536), (65537, 500, 10)]
        );
    }

    #[test]
    fn a_map_survives_being_written_and_read() {
        let map = vec![(0, 1000, 1), (1, 100_000, 65536)];
        assert_eq!(parse_map(&format_map(&map)), map);
        assert_eq!(
            parse_map("         0          0 4294967295\n"),
            [(0, 0, u32::MAX)]
        );
    }
}
