//! The report: lines for people, JSON for programs. Pure: facts in, text out.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::facts::{Facts, Place};
use crate::cli::CHROOT_LOSES;
use crate::cli::ui::format;
use crate::cli::ui::style::Style;
use crate::cli::ui::terminal::neutralise_text;
use crate::sandbox::isolation::{Attempt, Works};
use crate::sandbox::{IdRange, Means, PlatformReport, Refusal, Rung};
use crate::snapshot::StorageDriver;

/// What makes steps start sooner where overlay can't write to the store's folder.
fn upper_fix(store: &Place) -> String {
    let volumes: Vec<String> = store
        .volumes
        .iter()
        .take(3)
        .map(|path| format!("`{}`", path.display()))
        .collect();
    match volumes.as_slice() {
        [] => "set RBUILD_ROOT to a folder on another file system, such as a volume of the \
               container: ext4, xfs, btrfs or, from Linux 6.6 on, tmpfs"
            .to_owned(),
        volumes => format!(
            "set RBUILD_ROOT to a folder on another file system: on {}, say",
            volumes.join(" or ")
        ),
    }
}

/// The report for people.
pub(super) fn text(facts: &Facts, style: Style) -> String {
    let mut out = String::new();
    let verdict = match (facts.chosen, facts.forced) {
        (Some(rung), None) => style.done(format!("RUN steps work, with the isolation `{rung}`")),
        (Some(rung), Some(_)) => style.done(format!(
            "RUN steps work, with the isolation `{rung}` that was asked for"
        )),
        (None, Some(Rung::None)) => {
            style.error("RUN steps don't work: the isolation `none` was asked for")
        }
        (None, Some(rung)) => style.error(format!(
            "RUN steps don't work with the isolation `{rung}` that was asked for"
        )),
        (None, None) => style.error("RUN steps don't work here; everything else does"),
    };
    let _ = writeln!(out, "{verdict}\n\nIsolation");
    for attempt in &facts.attempts {
        let chosen = facts.chosen == Some(attempt.rung);
        rung(&mut out, attempt, chosen, style);
    }
    let store = &facts.store;
    let _ = writeln!(out, "\nStore");
    let missing = match store.exists {
        true => "",
        false => " (not made yet)",
    };
    line(
        &mut out,
        "folder",
        "",
        &format!("{}{missing}", store.path.display()),
    );
    let space = format!(
        "{}, {} free of {}",
        store.file_system,
        format::bytes(store.free),
        format::bytes(store.total)
    );
    line(&mut out, "file system", "", &space);
    match facts.upper() {
        Some(Ok(())) => line(&mut out, "overlay", &style.done("works"), " there"),
        Some(Err(_)) if facts.rung() == Some(Rung::Chroot) => {
            line(
                &mut out,
                "overlay",
                "",
                "not with the isolation `chroot`, which mounts nothing",
            );
        }
        Some(Err(reason)) => {
            line(&mut out, "overlay", &style.error("refused: "), reason);
            line(&mut out, "", &style.hint("fix: "), &upper_fix(store));
        }
        None => line(
            &mut out,
            "overlay",
            "",
            "not tried: no isolation to try it with",
        ),
    }
    let driver = match facts.driver() {
        StorageDriver::Overlay => "an overlay mount of the image's layers",
        StorageDriver::Copy => "a folder with a copy of the image's files, made once for a stage",
    };
    line(&mut out, "steps work on", "", driver);
    if let Some(note) = &store.note {
        line(&mut out, "note", "", note);
    }
    if !facts.platforms.is_empty() {
        let _ = writeln!(out, "\nPlatforms of RUN steps");
        platforms(&mut out, &facts.platforms, style);
    }
    let _ = writeln!(out, "\nMachine");
    line(&mut out, "kernel", "", &format!("Linux {}", facts.kernel));
    line(&mut out, "user", "", &facts.uid.to_string());
    out
}

/// A name and a value, in two columns; `lead` is ours, the value may be anybody's.
fn line(out: &mut String, name: &str, lead: &str, value: &str) {
    let value: Vec<String> = value.lines().map(neutralise_text).collect();
    let _ = writeln!(out, "  {name:<15} {lead}{}", value.join(" "));
}

fn rung(out: &mut String, attempt: &Attempt, chosen: bool, style: Style) {
    let name = attempt.rung.name();
    match &attempt.result {
        Ok(works) => {
            let used = if chosen { ", and is used" } else { "" };
            line(
                out,
                name,
                &style.done("works"),
                &format!("{used}: {}", ids(works)),
            );
            if attempt.rung == Rung::Chroot {
                line(out, "", &style.faint("note: "), CHROOT_LOSES);
            }
        }
        Err(Refusal {
            tried,
            reason,
            cause,
            fix,
            ..
        }) => {
            line(out, name, &style.error("refused: "), reason);
            if let Some(cause) = cause {
                line(out, "", &style.faint("by: "), cause);
            }
            line(out, "", &style.faint("tried: "), tried);
            if let Some(fix) = fix {
                line(out, "", &style.hint("fix: "), fix);
            }
        }
    }
}

/// Those that run, each with its means; the others with what they lack, said once.
fn platforms(out: &mut String, reports: &[PlatformReport], style: Style) {
    let mut fixes: Vec<&str> = Vec::new();
    for report in reports {
        match &report.means {
            Ok(means) => line(
                out,
                &report.platform,
                &style.done("works"),
                &format!(": {}", by(means)),
            ),
            Err(unavailable) => {
                let reason = &unavailable.reason;
                line(out, &report.platform, &style.error("doesn't: "), reason);
                let Some(fix) = &unavailable.fix else {
                    continue;
                };
                // One package has them all; after it comes the name of the program.
                let general = fix.split_once(", or put ").map_or(&**fix, |(fix, _)| fix);
                if !fixes.contains(&general) {
                    fixes.push(general);
                }
            }
        }
    }
    for fix in fixes {
        line(out, "", &style.hint("fix: "), fix);
    }
}

fn by(means: &Means) -> String {
    match means {
        Means::Processor => "this machine's processor runs its programs".to_owned(),
        Means::Machine => "an emulator is registered with the machine".to_owned(),
        Means::Emulator { path } => {
            let path = path.as_path().display();
            format!("steps have `{path}` registered for them, and nobody else")
        }
    }
}

fn json_platform(report: &PlatformReport) -> Value {
    match &report.means {
        Ok(means) => json!({
            "name": report.platform,
            "works": true,
            "means": match means {
                Means::Processor => "processor",
                Means::Machine => "machine",
                Means::Emulator { .. } => "emulator",
            },
            "emulator": match means {
                Means::Emulator { path } => Some(path.as_path().to_string_lossy()),
                Means::Processor | Means::Machine => None,
            },
        }),
        Err(unavailable) => json!({
            "name": report.platform,
            "works": false,
            "reason": unavailable.reason,
            "fix": unavailable.fix,
        }),
    }
}

/// How many ids a sandbox has, and which those are out here.
fn ids(works: &Works) -> String {
    let same = works
        .users
        .iter()
        .all(|(inside, outside, _)| inside == outside);
    let (users, groups) = (count(&works.users), count(&works.groups));
    if users == 1 {
        return "one id only: the files of an image must all belong to root".to_owned();
    }
    if same {
        return format!("every user of an image is the machine's of that number ({users} ids)");
    }
    let ranges = works
        .users
        .iter()
        .map(|(inside, outside, count)| match count {
            1 => format!("{inside} is {outside}"),
            _ => format!(
                "{inside}-{} are {outside}-{}",
                u64::from(*inside) + u64::from(*count) - 1,
                u64::from(*outside) + u64::from(*count) - 1
            ),
        });
    let ranges: Vec<String> = ranges.collect();
    format!("{users} users, {groups} groups ({})", ranges.join(", "))
}

fn count(ranges: &[IdRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.2)).sum()
}

/// The report for programs.
pub(super) fn json(facts: &Facts) -> String {
    let rungs: Vec<Value> = facts.attempts.iter().map(json_rung).collect();
    let platforms: Vec<Value> = facts.platforms.iter().map(json_platform).collect();
    let upper = match facts.upper() {
        None => Value::Null,
        Some(Ok(())) => json!({ "works": true }),
        Some(Err(reason)) => {
            json!({ "works": false, "reason": reason, "fix": upper_fix(&facts.store) })
        }
    };
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "run": facts.chosen.is_some(),
        "isolation": {
            "used": facts.chosen.map(Rung::name),
            "asked": facts.forced.map(Rung::name),
            "kinds": rungs,
        },
        "platforms": platforms,
        "store": {
            "path": facts.store.path.to_string_lossy(),
            "exists": facts.store.exists,
            "fileSystem": facts.store.file_system,
            "free": facts.store.free,
            "total": facts.store.total,
            "overlay": upper,
            "driver": match facts.driver() {
                StorageDriver::Overlay => "overlay",
                StorageDriver::Copy => "copy",
            },
            "note": facts.store.note,
        },
        "kernel": facts.kernel,
        "uid": facts.uid,
    });
    format!("{report:#}\n")
}

fn json_rung(attempt: &Attempt) -> Value {
    let name = attempt.rung.name();
    match &attempt.result {
        Ok(works) => json!({
            "name": name,
            "works": true,
            "users": works.users,
            "groups": works.groups,
            "note": (attempt.rung == Rung::Chroot).then_some(CHROOT_LOSES),
        }),
        Err(refusal) => json!({
            "name": name,
            "works": false,
            "tried": refusal.tried,
            "reason": refusal.reason,
            "cause": refusal.cause,
            "fix": refusal.fix,
        }),
    }
}
