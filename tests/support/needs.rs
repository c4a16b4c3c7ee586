//! What a test needs of the machine, and what happens where it isn't there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{Rbuild, User, repository, user};

/// Something that a fresh machine with just Rust and a C compiler may lack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A program on PATH.
    Program(&'static str),
    /// The base images that `tests/support/make-base-images.sh` makes, and `docker-registry` to
    /// serve them as a mirror of docker.io.
    BaseImages,
    /// Emulators of other processors and programs to try them with, which
    /// `tests/support/fetch-emulators.sh` fetches.
    Emulators,
    /// To run as root.
    Root,
    /// Debian's package mirrors.
    PackageMirror,
    /// A sandbox for RUN steps: not where, say, a container's own filter forbids namespaces.
    Sandbox,
}

/// Whether the test can run; where it can't, says why on standard error. With
/// `RBUILD_TEST_REQUIRE_ALL=1` a missing thing is a failure.
#[must_use]
pub(crate) fn needs(list: &[Need]) -> bool {
    let missing: Vec<String> = list.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&missing.join("; "));
    false
}

/// Says that the running test, or a part of it, is left out. It bypasses the test runner's
/// capture, so that a passing run still names what it did not try.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(
        std::env::var_os("RBUILD_TEST_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "nothing may be skipped here, but: {reason}"
    );
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {reason}");
}

/// Where the base images are.
pub(crate) fn base_images() -> PathBuf {
    std::env::var_os("RBUILD_TEST_IMAGES")
        .map_or_else(|| repository().join("target/test-images"), PathBuf::from)
}

/// Where emulators of other processors are, and programs to try them with.
pub(crate) fn emulators() -> PathBuf {
    std::env::var_os("RBUILD_TEST_EMULATORS")
        .map_or_else(|| repository().join("target/test-emulators"), PathBuf::from)
}

/// A program's path, looked up on PATH and in the folders of the superuser's programs.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

impl Need {
    /// Whether it is there.
    pub(crate) fn available(self) -> bool {
        self.missing().is_none()
    }

    fn missing(self) -> Option<String> {
        match self {
            Need::Program(name) => program(name)
                .is_none()
                .then(|| format!("`{name}` is not installed")),
            Need::BaseImages => {
                if program("docker-registry").is_none() {
                    return Some("`docker-registry` is not installed".into());
                }
                if !base_images().join("stamp").is_file() {
                    return Some(
                        "no base images: run `tests/support/make-base-images.sh` as root".into(),
                    );
                }
                None
            }
            Need::Emulators => (!emulators().join("stamp").is_file())
                .then(|| "no emulators: run `tests/support/fetch-emulators.sh`".into()),
            Need::Root => (!user::is_root()).then(|| "it runs as root only".into()),
            Need::Sandbox => no_sandbox(),
            Need::PackageMirror => {
                let there = Path::new("/etc/apt").is_dir() && package_mirror_answers();
                (!there).then(|| "no Debian package mirror can be reached".into())
            }
        }
    }
}

/// Why no RUN step can be run here, in rbuild's own words.
fn no_sandbox() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON
        .get_or_init(|| {
            let hello = repository().join("examples/hello");
            let finished = Rbuild::new(&User::Caller).build_at(hello).run();
            finished
                .stderr
                .lines()
                .find(|line| line.contains("this machine gives none"))
                .map(str::to_owned)
        })
        .clone()
}

/// Whether the first http mirror of the machine's apt sources answers, or a proxy is set.
fn package_mirror_answers() -> bool {
    use std::net::ToSocketAddrs;
    let proxied = std::env::vars().any(|(name, _)| name.eq_ignore_ascii_case("http_proxy"));
    proxied
        || ("deb.debian.org", 80)
            .to_socket_addrs()
            .ok()
            .into_iter()
            .flatten()
            .any(|address| {
                std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5))
                    .is_ok()
            })
}
