//! Built-in and global build arguments: what FROM lines may use, and what a bare `ARG NAME` in
//! a stage takes its value from.

use std::collections::BTreeMap;

use super::environment::Environment;
use super::plan::Options;
use crate::dockerfile::Dockerfile;
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::expansion;
use crate::platform::Platform;

/// Build arguments that are the caller's affair: given to steps where declared, but never an
/// environment variable of the stage's words, the config or a cache key by themselves.
pub const PROXY: [&str; 5] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

/// Whether `name` is one of the predefined proxy arguments, in either case.
pub(super) fn is_proxy(name: &str) -> bool {
    PROXY.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
}

/// Build arguments that tell platforms, and the target.
pub const PLATFORM: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// Whether `name` is one of the arguments that tell platforms.
pub(super) fn is_platform(name: &str) -> bool {
    PLATFORM.contains(&name)
}

/// The proxy arguments that the build was given, as environment variables in both spellings.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, value) in build_args.iter().filter(|(name, _)| is_proxy(name)) {
        for spelling in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
            if !out.iter().any(|(n, _)| *n == spelling) {
                out.push((spelling, value.clone()));
            }
        }
    }
    out
}

/// The build argument that names what steps see as their machine.
const HOSTNAME: &str = "BUILDKIT_SANDBOX_HOSTNAME";
/// The build argument that keeps the cache mounts of one project apart from others'.
const CACHE_MOUNT_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// The host name that the caller wants for steps.
pub(super) fn hostname(build_args: &BTreeMap<String, String>) -> Option<String> {
    let name = build_args.get(HOSTNAME)?;
    (!name.is_empty()).then(|| name.clone())
}

/// The id of a cache mount, which in a namespace is another than the same one elsewhere.
pub(super) fn cache_mount_id(build_args: &BTreeMap<String, String>, id: String) -> String {
    match build_args.get(CACHE_MOUNT_NAMESPACE) {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
        _ => id,
    }
}

/// The arguments in force before the first FROM: the platform's, then those of ARG lines there.
///
/// # Errors
/// When a default can't be expanded.
pub(super) fn global(
    dockerfile: &Dockerfile,
    options: &Options,
) -> Result<Environment, Diagnostic> {
    let mut environment = Environment::default();
    platform_arguments(&mut environment, "BUILD", &options.build_platform);
    platform_arguments(&mut environment, "TARGET", &options.platform);
    let stage = options.target.clone().or_else(|| {
        let last = dockerfile.stages.last()?;
        last.from.value.name.as_ref().map(|name| name.value.clone())
    });
    environment.set("TARGETSTAGE", stage.as_deref().unwrap_or("default"));
    for name in environment
        .pairs()
        .iter()
        .map(|(n, _)| n.clone())
        .collect::<Vec<_>>()
    {
        if let Some(value) = options.build_args.get(&name) {
            environment.set(&name, value);
        }
    }
    for declarations in &dockerfile.global_args {
        for declaration in &declarations.value {
            let name = &declaration.name.value;
            if let Some(value) = options.build_args.get(name) {
                environment.set(name, value);
            } else if let Some(default) = &declaration.default {
                let lookup = |name: &str| environment.get(name).map(str::to_owned);
                let value = expansion::expand(&default.value, &lookup, dockerfile.escape)
                    .map_err(|error| Diagnostic::error(default.span, error.to_string()))?;
                environment.set(name, &value);
            }
        }
    }
    Ok(environment)
}

fn platform_arguments(environment: &mut Environment, prefix: &str, platform: &Platform) {
    environment.set(&format!("{prefix}PLATFORM"), &platform.to_string());
    environment.set(&format!("{prefix}OS"), &platform.os);
    environment.set(&format!("{prefix}OSVERSION"), "");
    environment.set(&format!("{prefix}ARCH"), &platform.architecture);
    environment.set(
        &format!("{prefix}VARIANT"),
        platform.variant.as_deref().unwrap_or(""),
    );
}
