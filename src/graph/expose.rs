//! EXPOSE: ports and ranges of ports, as Docker reads them.

/// Turns one argument of EXPOSE (`80`, `53/udp`, `8000-8002`, `127.0.0.1:80:8080/tcp`) into
/// `port/protocol` entries of the image config. Host parts are accepted and have no effect, as
/// in Docker.
///
/// # Errors
/// A message that names what is wrong with the argument.
pub(super) fn ports(argument: &str) -> Result<Vec<String>, String> {
    let (spec, protocol) = match argument.split_once('/') {
        Some((spec, protocol)) => (spec, protocol.to_ascii_lowercase()),
        None => (argument, "tcp".to_owned()),
    };
    let protocol = if protocol.is_empty() {
        "tcp".to_owned()
    } else {
        protocol
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let container = spec.rsplit(':').next().unwrap_or(spec);
    if container.is_empty() {
        return Err(format!("no port specified: `{argument}`"));
    }
    let number = |text: &str| {
        text.parse::<u16>()
            .map_err(|_| format!("invalid containerPort: {text}"))
    };
    let (first, last) = match container.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(container)?, number(container)?),
    };
    if last < first {
        return Err(format!("invalid range format: {container}"));
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
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
        for bad in ["", "x", "80/icmp", "90-80", "70000", "-"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
