//! EXPOSE: ports and ranges of ports, as Docker reads them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Turns one argument of EXPOSE (`80`, `53/udp`, `8000-8002`, `127.0.0.1:80:8080/tcp`) into
/// `port/protocol` entries of the image config. Host parts are accepted and have no effect, as
/// in Docker.
///
/// # Errors
/// A message that names what is wrong with the argument.
pub(super) fn ports(argument: &str) -> Result<Vec<String>, String> {
    let (address, host, container) = parts(argument);
    let (container, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    if container.is_empty() {
        return Err(format!("invalid port: {argument:?}: no port specified"));
    }
    let protocol = match protocol.to_ascii_lowercase() {
        none if none.is_empty() => "tcp".to_owned(),
        known if matches!(known.as_str(), "tcp" | "udp" | "sctp") => known,
        _ => {
            return Err(format!(
                "invalid port: {argument:?}: invalid proto: {protocol}"
            ));
        }
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'));
    if !address.is_empty() && bare.unwrap_or(address).parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let range_of_container =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let host_range = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        let (ours, theirs) = (range_of_container.len(), host_range.len());
        if ours != theirs && ours != 1 {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    Ok(range_of_container
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// Address, port of the host and port of the container; what isn't given is empty.
fn parts(argument: &str) -> (&str, &str, &str) {
    let Some((before, container)) = argument.rsplit_once(':') else {
        return ("", "", argument);
    };
    match before.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", before, container),
    }
}

/// A port or a range of ports.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| text.parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let ok = |argument: &str| ports(argument).unwrap().join(" ");
        assert_eq!(ok("80"), "80/tcp");
        assert_eq!(ok("53/UDP"), "53/udp");
        assert_eq!(ok("8000-8002"), "8000/tcp 8001/tcp 8002/tcp");
        assert_eq!(ok("127.0.0.1:80:8080/sctp"), "8080/sctp");
        assert_eq!(ok("[::1]:8000-8001:90-91"), "90/tcp 91/tcp");
        assert_eq!(ok("8000-8009:90"), "90/tcp");
        for bad in [
            "",
            "x",
            "80/icmp",
            "90-80",
            "70000",
            "-",
            "x:80",
            "nowhere:80:80",
            "1:80-81",
        ] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
