//! Platforms: the operating system and processor that an image is for.
//!
//! Names are normalised as containerd does (`x86_64` → `amd64`, `aarch64` → `arm64`), so that
//! `--platform`, image indexes and the `TARGET*` build arguments agree. Pure values.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An `os/architecture[/variant]` triple (OCI image spec, `image-index.md`, "platform").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, as in GOOS: `linux`.
    pub os: String,
    /// Processor architecture, as in GOARCH: `amd64`, `arm64`.
    pub architecture: String,
    /// Variant of the architecture: `v7` of `arm`. `None` where the architecture has just one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a string is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid platform `{0}`: expected os/architecture[/variant], such as linux/arm64 or linux/arm/v7"
)]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// A normalised platform from its parts.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalise(architecture, variant.unwrap_or(""));
        Self {
            os,
            architecture,
            variant: (!variant.is_empty()).then_some(variant),
        }
    }

    /// The platform this program runs on.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Whether an image for `offered` runs where `self` is wanted: same system and
    /// architecture, and the same variant where the architecture has several.
    pub fn accepts(&self, offered: &Self) -> bool {
        self.rank(offered).is_some()
    }

    /// How well `offered` fits: `None` not at all, else lower is better. `arm/v7` takes `v6`
    /// and `v5` images too, worse ones later.
    pub fn rank(&self, offered: &Self) -> Option<u8> {
        let (wanted, offered) = (
            Self::new(&self.os, &self.architecture, self.variant.as_deref()),
            Self::new(
                &offered.os,
                &offered.architecture,
                offered.variant.as_deref(),
            ),
        );
        if wanted.os != offered.os || wanted.architecture != offered.architecture {
            return None;
        }
        if wanted.variant == offered.variant {
            return Some(0);
        }
        let level = |platform: &Self| {
            let variant = platform.variant.as_deref().unwrap_or("v1");
            variant.strip_prefix('v')?.parse::<u8>().ok()
        };
        match wanted.architecture.as_str() {
            "arm" | "amd64" => level(&wanted)?.checked_sub(level(&offered)?),
            _ => None,
        }
    }
}

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le", v) => ("ppc64le", v),
        (a, v) => (a, v),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Systems and processors that images are made for.
const KNOWN: [&str; 15] = [
    "linux/amd64",
    "linux/arm64",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/386",
    "linux/ppc64le",
    "linux/s390x",
    "linux/riscv64",
    "linux/loong64",
    "linux/mips64le",
    "windows/amd64",
    "windows/arm64",
    "darwin/arm64",
    "linux",
    "local",
];

/// The platform that somebody probably meant who wrote one that there isn't, or one without its
/// system.
pub fn nearest(written: &str) -> Option<&'static str> {
    let written = written.to_ascii_lowercase();
    let rest = |known: &&&str| known.strip_prefix("linux/") == Some(&*normal(&written));
    if let Some(known) = KNOWN.iter().find(rest) {
        return Some(known);
    }
    let distances = KNOWN
        .iter()
        .map(|known| (strsim::osa_distance(&written, known), *known));
    let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
    // each letter of a short name counts for more
    (1..=2)
        .contains(&distance)
        .then_some(known)
        .filter(|_| written.len() > 2 * distance)
}

fn normal(architecture: &str) -> String {
    normalise(architecture, "").0
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let valid = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(InvalidPlatform(text.to_owned()));
        }
        match parts[..] {
            ["local"] => Ok(Self::host()),
            ["linux"] => Ok(Self::host()),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(InvalidPlatform(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, expected) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected);
        }
        for text in ["", "/", "linux/", "linux/a b", "a/b/c/d"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_platform_that_was_meant() {
        for (written, meant) in [
            ("linux/amd46", Some("linux/amd64")),
            ("linx/amd64", Some("linux/amd64")),
            ("amd64", Some("linux/amd64")),
            ("x86_64", Some("linux/amd64")),
            ("aarch64", Some("linux/arm64")),
            ("linx", Some("linux")),
            ("linux/amd64", None),
            ("freebsd", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written), meant, "{written}");
        }
    }

    #[test]
    fn the_nearest_variant_wins() {
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        let rank = |offered: &str| v7.rank(&offered.parse().unwrap());
        assert_eq!(rank("linux/arm/v7"), Some(0));
        assert_eq!(rank("linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v8"), None);
        assert_eq!(rank("linux/arm64"), None);
    }
}
