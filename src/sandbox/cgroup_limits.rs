//! What a step's cgroup may use of the machine, and the files of cgroup version 2 that say so.

/// The limits of one cgroup; what is `None` isn't limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Memory that is left alone while others have more than theirs, in bytes.
    pub memory_reservation: Option<u64>,
    /// Swap beside the memory.
    pub swap: Option<Swap>,
    /// Time of processors, in microseconds for each period.
    pub cpu_quota: Option<u64>,
    /// The period, in microseconds; the kernel's is 100,000.
    pub cpu_period: Option<u64>,
    /// The share of busy processors, as Docker counts: from 2, 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Which processors, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Which nodes of memory.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// How much swap there is beside the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Nobody asked: as much as there is memory, where the kernel counts swap at all.
    Usual(u64),
    /// So many bytes.
    Bytes(u64),
    /// All there is.
    Unlimited,
}

/// One file of a cgroup and what is written to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The controller that the file belongs to.
    pub(super) controller: &'static str,
    /// The file.
    pub(super) file: &'static str,
    /// Its content.
    pub(super) value: String,
    /// Whether the limit was asked for: else a kernel without that file may lack it.
    pub(super) is_asked_for: bool,
}

impl CgroupLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The files, in the order in which they are written.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut add = |file: &'static str, value: String, is_asked_for| {
            settings.push(Setting {
                controller: file.split('.').next().unwrap_or_default(),
                file,
                value,
                is_asked_for,
            });
        };
        if let Some(bytes) = self.memory {
            add("memory.max", bytes.to_string(), true);
        }
        if let Some(bytes) = self.memory_reservation {
            add("memory.low", bytes.to_string(), true);
        }
        match self.swap {
            None => {}
            Some(Swap::Usual(bytes)) => add("memory.swap.max", bytes.to_string(), false),
            Some(Swap::Bytes(bytes)) => add("memory.swap.max", bytes.to_string(), true),
            Some(Swap::Unlimited) => add("memory.swap.max", "max".to_owned(), true),
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            let quota = self.cpu_quota.map(|quota| quota.to_string());
            let quota = quota.unwrap_or_else(|| "max".to_owned());
            let period = self.cpu_period.unwrap_or(100_000);
            add("cpu.max", format!("{quota} {period}"), true);
        }
        if let Some(shares) = self.cpu_shares {
            add("cpu.weight", weight(shares).to_string(), true);
        }
        if let Some(list) = &self.cpuset_cpus {
            add("cpuset.cpus", list.clone(), true);
        }
        if let Some(list) = &self.cpuset_mems {
            add("cpuset.mems", list.clone(), true);
        }
        if let Some(number) = self.pids {
            add("pids.max", number.to_string(), true);
        }
        settings
    }

    /// The controllers that the settings need, each once.
    pub(super) fn controllers(&self) -> Vec<&'static str> {
        let settings = self.settings().into_iter();
        let mut controllers: Vec<_> = settings.map(|setting| setting.controller).collect();
        controllers.sort_unstable();
        controllers.dedup();
        controllers
    }
}

/// The weight from 1 to 10,000 that stands for shares from 2 to 262,144, as runtimes convert it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(limits: &CgroupLimits) -> Vec<(&'static str, String)> {
        let settings = limits.settings().into_iter();
        settings.map(|one| (one.file, one.value)).collect()
    }

    #[test]
    fn limits_are_files_of_version_2() {
        let limits = CgroupLimits {
            memory: Some(1 << 30),
            memory_reservation: Some(1 << 29),
            swap: Some(Swap::Unlimited),
            cpu_quota: Some(150_000),
            cpu_period: None,
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            pids: Some(100),
        };
        let expected = [
            ("memory.max", "1073741824"),
            ("memory.low", "536870912"),
            ("memory.swap.max", "max"),
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "39"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("pids.max", "100"),
        ];
        assert_eq!(
            written(&limits),
            expected.map(|(file, value)| (file, value.to_owned()))
        );
        assert_eq!(limits.controllers(), ["cpu", "cpuset", "memory", "pids"]);
        assert!(CgroupLimits::default().is_empty());
        assert_eq!(written(&CgroupLimits::default()), []);
    }

    #[test]
    fn a_period_without_a_quota_limits_nothing() {
        let limits = CgroupLimits {
            cpu_period: Some(50_000),
            ..CgroupLimits::default()
        };
        assert_eq!(written(&limits), [("cpu.max", "max 50000".to_owned())]);
    }

    #[test]
    fn shares_have_their_weight() {
        for (shares, expected) in [
            (0, 1),
            (2, 1),
            (1024, 39),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected);
        }
    }
}
