//! Who asks: a thread of a step's, and the rights by which the kernel decides for it.

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What lets a process see files that their modes hide.
const OVERRIDES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// Who asks.
pub(super) struct Asker {
    pub(super) thread: u32,
    pub(super) process: i32,
    pub(super) persona: Persona,
}

/// Who a thread is to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Persona {
    user: u32,
    group: u32,
    groups: Vec<u32>,
    capabilities: CapabilitySet,
}

/// Who a thread is now.
pub(super) fn of(thread: u32) -> Result<Asker, Errno> {
    parse(thread, &status(thread)?).ok_or(Errno::SRCH)
}

/// The parent of a process.
pub(super) fn parent(process: i32) -> Option<i32> {
    let status = status(process.cast_unsigned()).ok()?;
    line(&status, "PPid:").next()?.parse().ok()
}

/// What `/proc`, the working directory, tells of a thread.
pub(super) fn status(thread: u32) -> Result<String, Errno> {
    std::fs::read_to_string(format!("{thread}/status"))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::SRCH))
}

/// The words of one line of that.
pub(super) fn line<'a>(status: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().split_whitespace()
}

fn parse(thread: u32, status: &str) -> Option<Asker> {
    // The effective ids.
    let id = |name| line(status, name).nth(1)?.parse().ok();
    let set = |name| {
        let bits = u64::from_str_radix(line(status, name).next()?, 16).ok()?;
        Some(CapabilitySet::from_bits_retain(bits))
    };
    // Whoever has no more than a process may look into it, and its effective ones decide on files.
    let capabilities = (set("CapPrm:")? - OVERRIDES) | (set("CapEff:")? & OVERRIDES);
    Some(Asker {
        thread,
        process: line(status, "Tgid:").next()?.parse().ok()?,
        persona: Persona {
            user: id("Uid:")?,
            group: id("Gid:")?,
            groups: line(status, "Groups:")
                .map(|group| group.parse().ok())
                .collect::<Option<_>>()?,
            capabilities,
        },
    })
}

impl Persona {
    /// Makes the calling thread this one, with the way back to user 0.
    pub(super) fn take_on(&self) -> Result<(), Errno> {
        let root = (Uid::ROOT, Gid::ROOT);
        rustix::thread::set_thread_res_uid(root.0, root.0, root.0)?;
        let own = rustix::thread::capabilities(None)?;
        let with = |effective| {
            let sets = CapabilitySets { effective, ..own };
            rustix::thread::set_capabilities(None, sets)
        };
        with(own.permitted)?;
        rustix::thread::set_thread_res_gid(root.1, root.1, root.1)?;
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        match rustix::thread::set_thread_groups(&groups) {
            // In a user namespace of one id nobody changes them.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        let (uid, gid) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        rustix::thread::set_thread_res_gid(gid, gid, root.1)?;
        // Signals are judged by the real and the saved id: nobody of the step's may send it any.
        rustix::thread::set_thread_res_uid(root.0, uid, root.0)?;
        with(own.permitted & self.capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_who_it_acts_as() {
        let status = "Name:\tcat\nTgid:\t7\nPPid:\t3\nUid:\t0\t1000\t0\t1000\n\
            Gid:\t0\t50\t0\t50\nGroups:\t4 50 \nCapPrm:\t0000000000000003\n\
            CapEff:\t0000000000000001\n";
        let asker = parse(9, status).unwrap();
        assert_eq!((asker.thread, asker.process), (9, 7));
        let expected = Persona {
            user: 1000,
            group: 50,
            groups: vec![4, 50],
            capabilities: CapabilitySet::CHOWN,
        };
        assert_eq!(asker.persona, expected);
        assert!(parse(9, "Name:\tgone\n").is_none());
    }
}
