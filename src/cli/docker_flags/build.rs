//! Flags of `docker build` and `docker buildx build`.

use super::{
    Flag, NO_BUILDERS, NO_CONTENT_TRUST, TRUE_OR_FALSE, any_bool, default_builder, is_false,
    is_true,
};

fn no_attestation(value: &str) -> bool {
    is_false(value) || disabled_attestation(value)
}

fn disabled_attestation(value: &str) -> bool {
    value.split(',').any(|field| {
        let value = field.trim().strip_prefix("disabled=");
        value.is_some_and(is_true)
    })
}

const NO_ATTESTATIONS: &str = "rbuild writes no attestations yet; drop the flag, or say `=false`";
const NO_POLICIES: &str = "rbuild evaluates no policies";

pub(super) static FLAGS: &[Flag] = &[
    // What they ask for is so.
    Flag::switch(
        "rm",
        is_true,
        "there are no intermediate containers that could be kept",
    ),
    // There is nothing to remove, by force or otherwise.
    Flag::switch("force-rm", any_bool, TRUE_OR_FALSE),
    // The context isn't sent anywhere.
    Flag::switch("compress", any_bool, TRUE_OR_FALSE),
    Flag::switch("disable-content-trust", is_true, NO_CONTENT_TRUST),
    Flag::switch("provenance", no_attestation, NO_ATTESTATIONS),
    Flag::switch("sbom", no_attestation, NO_ATTESTATIONS),
    Flag::value("attest", disabled_attestation, NO_ATTESTATIONS),
    Flag::value("builder", default_builder, NO_BUILDERS),
    Flag::switch(
        "squash",
        is_false,
        "a multi-stage build keeps layers small, too",
    ),
    // What they ask for is absent.
    Flag::refused(
        "cache-from",
        "the cache of rbuild's own store is always used: drop the flag",
    ),
    Flag::refused(
        "cache-to",
        "the cache of rbuild's own store is always written: drop the flag",
    ),
    Flag::refused(
        "device",
        "RUN steps see Docker's default devices and no others",
    ),
    Flag::refused("policy", NO_POLICIES),
    Flag::refused(
        "security-opt",
        "RUN steps have Docker's default seccomp profile and capabilities",
    ),
    Flag::refused("stream", "the context is read in place: drop the flag"),
    Flag::refused(
        "volume",
        "`RUN --mount=type=bind` and `type=cache` bring folders into a step",
    ),
    Flag::refused("source-policy-file", NO_POLICIES),
];
