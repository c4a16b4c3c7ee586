//! The mode bits that a process takes away from what it makes.

/// The umask that a process's `status` file in `/proc` tells, where it tells one. To ask the kernel
/// is to change it for a moment, which other threads would notice.
pub fn umask(status: &str) -> Option<u32> {
    let status = std::fs::read_to_string(status).ok()?;
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(value.trim(), 8).ok()
}
