//! Flags of `docker run`.

use super::{Flag, NO_CONTENT_TRUST, always, any_bool, is_false, is_true, no_limit};

fn no_restart(value: &str) -> bool {
    matches!(value, "" | "no")
}

fn is_private(value: &str) -> bool {
    matches!(value, "" | "private")
}

const NO_LIMITS: &str = "rbuild doesn't limit this; a tool like `systemd-run --scope` can";
const HOST_NETWORK: &str = "programs use the machine's own network";
const FOREGROUND: &str = "rbuild has no daemon: a program runs as long as `rbuild run` does";
const CAPABILITIES: &str = "programs run with Docker's default privileges";
const NO_LABELS: &str = "nothing outlives the run that could carry a label";
const NO_LOGS: &str = "what the program says goes to standard output and error";
const NO_HEALTH: &str = "health checks are never carried out";
const NO_DEVICES: &str = "programs see Docker's default devices and no others";
const NAMESPACES: &str = "a program has namespaces of its own, but for the network";
const NO_VOLUMES: &str = "there are no volumes; `-v` shows a folder of the machine";

pub(super) static FLAGS: &[Flag] = &[
    // What they ask for is so.
    Flag::switch("rm", is_true, "nothing of a run is ever kept"),
    Flag::switch(
        "init",
        any_bool,
        "a process that takes leave of orphans is always there",
    ),
    Flag::switch(
        "no-healthcheck",
        any_bool,
        "health checks are never carried out",
    ),
    Flag::switch("sig-proxy", is_true, "signals always reach the program"),
    Flag::switch("disable-content-trust", is_true, NO_CONTENT_TRUST),
    Flag::switch(
        "oom-kill-disable",
        is_false,
        "the kernel decides what to do when memory runs out",
    ),
    Flag::value("expose", always, ""),
    Flag::value("restart", no_restart, FOREGROUND),
    Flag::value("ipc", is_private, NAMESPACES),
    Flag::value("cgroupns", is_private, NAMESPACES),
    // Without a daemon there is nobody to do it.
    Flag::switch("detach", is_false, FOREGROUND).short('d'),
    Flag::refused(
        "name",
        "nothing outlives the run that could be called by a name",
    ),
    Flag::refused("cidfile", "nothing outlives the run that could have an id"),
    Flag::refused("detach-keys", FOREGROUND),
    Flag::refused(
        "attach",
        "standard output and error are always attached; `-i` attaches standard input",
    )
    .short('a'),
    Flag::refused("label", "nothing outlives the run that could carry a label").short('l'),
    Flag::refused("label-file", NO_LABELS),
    Flag::refused("annotation", NO_LABELS),
    Flag::refused("log-driver", NO_LOGS),
    Flag::refused("log-opt", NO_LOGS),
    Flag::refused("health-cmd", NO_HEALTH),
    Flag::refused("health-interval", NO_HEALTH),
    Flag::refused("health-retries", NO_HEALTH),
    Flag::refused("health-start-interval", NO_HEALTH),
    Flag::refused("health-start-period", NO_HEALTH),
    Flag::refused("health-timeout", NO_HEALTH),
    Flag::refused(
        "stop-signal",
        "the program gets the very signal that rbuild gets",
    ),
    // Privileges.
    Flag::switch("privileged", is_false, CAPABILITIES),
    Flag::refused("cap-add", CAPABILITIES),
    Flag::refused("cap-drop", CAPABILITIES),
    Flag::refused("security-opt", CAPABILITIES),
    Flag::refused("device", NO_DEVICES),
    Flag::refused("device-cgroup-rule", NO_DEVICES),
    Flag::refused("gpus", NO_DEVICES),
    Flag::refused(
        "group-add",
        "the groups are those that the image gives the user",
    ),
    Flag::refused("runtime", "rbuild is its own runtime"),
    Flag::refused("sysctl", "the kernel's settings are the machine's"),
    Flag::refused("pid", NAMESPACES),
    Flag::refused("userns", NAMESPACES),
    Flag::refused("uts", NAMESPACES),
    Flag::refused(
        "storage-opt",
        "what a program writes is limited by the disk only",
    ),
    Flag::refused("volume-driver", NO_VOLUMES),
    Flag::refused("volumes-from", NO_VOLUMES),
    // Network.
    Flag::refused("dns", "the machine's name servers are used"),
    Flag::refused("dns-option", "the machine's name servers are used"),
    Flag::refused("dns-search", "the machine's name servers are used"),
    Flag::refused("domainname", "`--hostname` takes a full name"),
    Flag::refused("ip", HOST_NETWORK),
    Flag::refused("ip6", HOST_NETWORK),
    Flag::refused("link", HOST_NETWORK),
    Flag::refused("link-local-ip", HOST_NETWORK),
    Flag::refused("mac-address", HOST_NETWORK),
    Flag::refused("network-alias", HOST_NETWORK),
    // Limits.
    Flag::refused("memory-swappiness", NO_LIMITS),
    Flag::value("kernel-memory", no_limit, NO_LIMITS),
    Flag::value("blkio-weight", no_limit, NO_LIMITS),
    Flag::refused("blkio-weight-device", NO_LIMITS),
    Flag::value("cpu-rt-period", no_limit, NO_LIMITS),
    Flag::value("cpu-rt-runtime", no_limit, NO_LIMITS),
    Flag::refused("device-read-bps", NO_LIMITS),
    Flag::refused("device-read-iops", NO_LIMITS),
    Flag::refused("device-write-bps", NO_LIMITS),
    Flag::refused("device-write-iops", NO_LIMITS),
    Flag::value("oom-score-adj", no_limit, NO_LIMITS),
];
