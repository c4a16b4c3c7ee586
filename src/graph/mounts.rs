//! `RUN --mount`: from options to a mount of the step, refusing what rbuild doesn't have.

use super::lowering::{Lowering, StageState};
use super::path::absolute;
use super::{FileSystem, Mount, MountKind, arguments};
use crate::dockerfile::diagnostic::{Diagnostic, Kind};
use crate::dockerfile::expansion;
use crate::dockerfile::instruction;
use crate::dockerfile::span::{Span, Spanned};
use crate::dockerfile::stages::Reference;

/// Expands one mount of a RUN in stage `index` that has `agents` ssh mounts already.
pub(super) fn lower(
    lowering: &mut Lowering<'_>,
    index: usize,
    state: &StageState,
    mount: &Spanned<instruction::Mount>,
    agents: usize,
) -> Result<Mount, Diagnostic> {
    let (span, text) = (mount.span, &mount.value.text);
    let from_span = mount.value.from_span(span);
    let written = &mount.value.kind;
    let mount = mount
        .value
        .expand(&|text| expansion::expand(text, &state.lookup(), state.escape))
        .map_err(|error| error.diagnostic(Kind::Error, text, span))?;
    let cwd = absolute("/", &state.config.config.working_dir);
    let target = mount.target.as_deref();
    let kind = match mount.kind {
        instruction::MountKind::Bind {
            source, read_write, ..
        } => MountKind::Bind {
            from: source_of(lowering, index, written, from_span)?,
            source: absolute("/", source.as_deref().unwrap_or_default()),
            read_write,
        },
        instruction::MountKind::Cache {
            id,
            sharing,
            read_only,
            mode,
            uid,
            gid,
            source,
            ..
        } => MountKind::Cache {
            from: match source_of(lowering, index, written, from_span)? {
                FileSystem::Context => None,
                from => Some((from, absolute("/", source.as_deref().unwrap_or_default()))),
            },
            id: arguments::cache_mount_id(
                &lowering.plan.options.build_args,
                id.unwrap_or_else(|| absolute(&cwd, target.unwrap_or_default())),
            ),
            sharing,
            read_only,
            mode: mode.unwrap_or(0o755),
            uid: uid.unwrap_or(0),
            gid: gid.unwrap_or(0),
        },
        instruction::MountKind::Tmpfs { size } => MountKind::Tmpfs { size },
        secret @ instruction::MountKind::Secret { .. } => {
            return self::secret(secret, target, &cwd, span);
        }
        instruction::MountKind::Ssh {
            id,
            required,
            mode,
            uid,
            gid,
        } => {
            let default = format!("/run/buildkit/ssh_agent.{agents}");
            return Ok(Mount {
                target: absolute(&cwd, target.unwrap_or(&default)),
                kind: MountKind::Ssh {
                    id: id
                        .filter(|id| !id.is_empty())
                        .unwrap_or_else(|| "default".to_owned()),
                    required,
                    mode: mode.unwrap_or(0o600),
                    uid: uid.unwrap_or(0),
                    gid: gid.unwrap_or(0),
                },
            });
        }
    };
    let target_is_said = target.is_some_and(|target| !target.is_empty());
    let target = absolute(&cwd, target.unwrap_or_default());
    if target == "/" {
        return Err(
            Diagnostic::error(span, "invalid mount target \"/\"").with_help(match target_is_said {
                true => "mount it on a folder below the root",
                false => "say where it is to be seen: `target=/path`",
            }),
        );
    }
    Ok(Mount { target, kind })
}

/// The file system that `from=` names, which is taken as written; the context without one.
fn source_of(
    lowering: &mut Lowering<'_>,
    index: usize,
    written: &instruction::MountKind,
    span: Span,
) -> Result<FileSystem, Diagnostic> {
    let (instruction::MountKind::Bind {
        from: Some(name), ..
    }
    | instruction::MountKind::Cache {
        from: Some(name), ..
    }) = written
    else {
        return Ok(FileSystem::Context);
    };
    let reference = Reference::Mount(Spanned::new(name.clone(), span));
    let from = lowering.plan.from(&reference, index)?;
    lowering.file_system(&from, span)
}

fn secret(
    kind: instruction::MountKind,
    target: Option<&str>,
    cwd: &str,
    span: Span,
) -> Result<Mount, Diagnostic> {
    let instruction::MountKind::Secret {
        id,
        required,
        mode,
        uid,
        gid,
        env,
    } = kind
    else {
        return Err(Diagnostic::error(span, "not a secret mount"));
    };
    let base_name = target.map(|target| target.rsplit('/').next().unwrap_or(target).to_owned());
    let id = id.or(base_name).ok_or_else(|| {
        Diagnostic::error(span, "one of source, target required").with_help("write `id=NAME`")
    })?;
    let file = env.is_none() || target.is_some();
    let target = target.map_or_else(|| format!("/run/secrets/{id}"), str::to_owned);
    Ok(Mount {
        target: absolute(cwd, &target),
        kind: MountKind::Secret {
            id,
            required,
            mode: mode.unwrap_or(0o400),
            uid: uid.unwrap_or(0),
            gid: gid.unwrap_or(0),
            env,
            file,
        },
    })
}
