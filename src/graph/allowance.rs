//! What a Dockerfile may ask for only if the caller allows it (`--allow`), as in BuildKit.

use super::{Graph, NetworkMode, Operation};
use crate::dockerfile::diagnostic::Diagnostic;

/// What is allowed beyond what every Dockerfile may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// `network.host`: `RUN --network=host` where the build's network is another.
    pub host_network: bool,
    /// `security.insecure`: `RUN --security=insecure`.
    pub insecure: bool,
}

impl Allowance {
    /// What steps ask for without leave, in a build whose network is `network`.
    pub fn violations(self, graph: &Graph, network: NetworkMode) -> Vec<Diagnostic> {
        let mut violations = Vec::new();
        for vertex in &graph.vertices {
            let Operation::Run(run) = &vertex.operation else {
                continue;
            };
            let leaves = run.network == NetworkMode::Host && network != NetworkMode::Host;
            for (asks, is_allowed, name) in [
                (leaves, self.host_network, "network.host"),
                (run.insecure, self.insecure, "security.insecure"),
            ] {
                if !asks || is_allowed {
                    continue;
                }
                let meta = &vertex.meta;
                let one = Diagnostic::error(meta.span, format!("{name} is not allowed")).with_help(
                    format!("`--allow {name}` allows it, if you trust this Dockerfile"),
                );
                violations.push(match &meta.trigger {
                    Some(trigger) => trigger.explain(one, meta.span),
                    None => one,
                });
            }
        }
        violations
    }
}
