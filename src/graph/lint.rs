//! Build checks that need more than the text: variables, platforms, base images, `.dockerignore`.
//!
//! [`from_lines`] looks at FROM with the arguments that stand above it, before anything is
//! resolved; [`stages`] follows the instructions of stages whose base images are known. Both stop
//! without a word where the Dockerfile can't be built: whoever lowers it tells why. What the text
//! alone shows is found by [`crate::dockerfile::lint`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::environment::Environment;
use super::lowering::ensure_path;
use super::plan::{Base, ImageKey, Options, Plan};
use super::{BaseImage, arguments};
use crate::dockerfile::Dockerfile;
use crate::dockerfile::expansion::{self, Expansion};
use crate::dockerfile::instruction::{
    ArgDeclaration, CommandLine, Healthcheck, Instruction, KeyValue, Run, Source, Step, Transfer,
};
use crate::dockerfile::lint::{Checks, Findings, Rule, Warning, suggestion};
use crate::dockerfile::span::Span;
use crate::ignore::{self, Matcher};
use crate::platform::Platform;
use crate::reference::Reference;

/// Build arguments that are switches of BuildKit's and no variables.
const SWITCHES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Looks at the FROM lines of a Dockerfile, as far as they can be expanded.
pub fn from_lines(dockerfile: &Dockerfile, options: &Options, checks: &Checks) -> Vec<Warning> {
    let mut findings = Findings::default();
    default_images(dockerfile, options, checks, &mut findings);
    if let Ok(global) = arguments::global(dockerfile, options) {
        from_arguments(dockerfile, &global, checks, &mut findings);
    }
    findings.into_warnings()
}

/// A base image's name is one without any `--build-arg`, too.
fn default_images(
    dockerfile: &Dockerfile,
    options: &Options,
    checks: &Checks,
    findings: &mut Findings,
) {
    let mut defaults = options.clone();
    defaults
        .build_args
        .retain(|name, _| arguments::is_platform(name));
    let Ok(environment) = arguments::global(dockerfile, &defaults) else {
        return;
    };
    for stage in &dockerfile.stages {
        let image = &stage.from.value.image.value;
        let Some(expanded) = expand(image, &environment, dockerfile.escape) else {
            return;
        };
        if expanded.text.parse::<Reference>().is_err() {
            let detail = format!(
                "Default value for ARG {image} results in empty or invalid base image name"
            );
            findings.add(
                checks,
                Rule::InvalidDefaultArgInFrom,
                stage.from.span,
                detail,
            );
        }
    }
}

fn from_arguments(
    dockerfile: &Dockerfile,
    global: &Environment,
    checks: &Checks,
    findings: &mut Findings,
) {
    let declared = dockerfile.global_args.iter().flat_map(|args| &args.value);
    let mut known: BTreeSet<&str> = declared.map(|arg| arg.name.value.as_str()).collect();
    known.extend(global.pairs().iter().map(|(name, _)| name.as_str()));
    for stage in &dockerfile.stages {
        let (from, span) = (&stage.from.value, stage.from.span);
        let checks = checks.with_comments(&stage.comments);
        let mut undeclared = |expansion: &Expansion| {
            for name in expansion
                .unset
                .iter()
                .filter(|name| !known.contains(&***name))
            {
                let near = suggestion(name, "", known.iter().copied());
                let detail = format!("FROM argument '{name}' is not declared{near}");
                findings.add(&checks, Rule::UndefinedArgInFrom, span, detail);
            }
        };
        let Some(image) = expand(&from.image.value, global, dockerfile.escape) else {
            return;
        };
        undeclared(&image);
        if image.text.is_empty() {
            return;
        }
        let Some(written) = &from.platform else {
            continue;
        };
        let Some(platform) = expand(&written.value, global, dockerfile.escape) else {
            return;
        };
        undeclared(&platform);
        let is_target = platform.used.iter().eq(["TARGETPLATFORM"]) && platform.unset.is_empty();
        if is_target && global.get("TARGETPLATFORM") == Some(&platform.text) {
            let detail = format!(
                "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
                written.value
            );
            findings.add(&checks, Rule::RedundantTargetPlatform, span, detail);
        }
        let Ok(parsed) = platform.text.parse::<Platform>() else {
            return;
        };
        let name = from.name.as_ref().map_or("", |name| name.value.as_str());
        let is_constant = platform.used.is_empty() && platform.unset.is_empty();
        if is_constant && !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
            let detail = format!(
                "FROM --platform flag should not use constant value {:?}",
                platform.text
            );
            findings.add(&checks, Rule::FromPlatformFlagConstDisallowed, span, detail);
        }
    }
}

/// Looks at the stages that the plan covers. `ignore` is the context's `.dockerignore`.
pub fn stages(
    plan: &Plan,
    images: &BTreeMap<ImageKey, BaseImage>,
    ignore: Option<&Matcher>,
    checks: &Checks,
) -> Vec<Warning> {
    let mut walk = Walk {
        plan,
        ignore: ignore.filter(|ignore| !ignore.has_exceptions()),
        checks,
        findings: Findings::default(),
        states: BTreeMap::new(),
    };
    // where it ends early, lowering says why
    let _ = walk.run(images);
    walk.findings.into_warnings()
}

/// A stage as it is after some of its instructions.
#[derive(Clone, Debug, Default)]
struct State {
    environment: Environment,
    /// Names that ARG has declared, with or without a value.
    declared: BTreeSet<String>,
    has_shell: bool,
    has_workdir: bool,
    /// Where this stage has set CMD, ENTRYPOINT and HEALTHCHECK.
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

struct Walk<'a> {
    plan: &'a Plan,
    ignore: Option<&'a Matcher>,
    checks: &'a Checks,
    findings: Findings,
    states: BTreeMap<usize, State>,
}

/// An instruction that is looked at.
struct Here<'a> {
    step: &'a Step,
    /// The rules that are looked at here.
    checks: &'a Checks,
    /// The instruction's name as written.
    name: &'a str,
}

impl Walk<'_> {
    /// Looks at everything, or up to what can't be built.
    fn run(&mut self, images: &BTreeMap<ImageKey, BaseImage>) -> Option<()> {
        for (key, span) in self.plan.images(images).ok()? {
            self.base_image(&key, images.get(&key)?, span);
        }
        for index in self.plan.reachable(images).ok()? {
            let mut state = self.start(index, images)?;
            for (step, _) in self.plan.steps(index, images).ok()? {
                let checks = self.checks.with_comments(&step.comments);
                let name = step.text.split_whitespace().next().unwrap_or_default();
                let here = Here {
                    step: &step,
                    checks: &checks,
                    name,
                };
                self.step(&mut state, &here)?;
            }
            self.states.insert(index, state);
        }
        Some(())
    }

    fn base_image(&mut self, key: &ImageKey, image: &BaseImage, span: Span) {
        let (expected, actual) = (&key.platform, &image.platform);
        let differs = expected.os != actual.os || expected.architecture != actual.architecture;
        // an image without layers is for any machine
        if differs && !image.layers.is_empty() {
            let detail = format!(
                "Base image {} was pulled with platform \"{actual}\", expected \"{expected}\" for current build",
                key.name
            );
            self.findings
                .add(self.checks, Rule::InvalidBaseImagePlatform, span, detail);
        }
    }

    fn start(&self, index: usize, images: &BTreeMap<ImageKey, BaseImage>) -> Option<State> {
        let config = match self.plan.base(index)? {
            Base::Stage(base) => {
                return Some(State {
                    cmd: None,
                    entrypoint: None,
                    healthcheck: None,
                    ..self.states.get(base)?.clone()
                });
            }
            Base::Image(key) => Some(images.get(key)?.config.clone()),
            Base::Scratch | Base::Folder(_) => None,
        };
        let mut config = config.unwrap_or_default();
        ensure_path(&mut config);
        Some(State {
            environment: Environment::from_config(&config.config.env),
            has_shell: !config.config.shell.is_empty(),
            ..State::default()
        })
    }

    fn step(&mut self, state: &mut State, here: &Here<'_>) -> Option<()> {
        match &here.step.instruction {
            Instruction::Arg(declarations) => return self.arg(state, here, declarations),
            Instruction::Env(pairs) => {
                for pair in self.pairs(state, here, pairs)? {
                    self.secret(here, "ENV", &pair.0);
                    state.environment.set(&pair.0, &pair.1);
                }
            }
            Instruction::Label(pairs) => {
                self.pairs(state, here, pairs)?;
            }
            Instruction::Copy(transfer) => self.transfer(state, here, transfer, "Copy")?,
            Instruction::Add(transfer) => self.transfer(state, here, transfer, "Add")?,
            Instruction::Run(run) => self.mounts(state, here, run)?,
            Instruction::Workdir(path) => {
                let path = self.word(state, here, &path.value)?;
                let is_first = !std::mem::replace(&mut state.has_workdir, true);
                if is_first && !path.starts_with('/') {
                    let detail = format!(
                        "Relative workdir {path:?} can have unexpected results if the base image changes"
                    );
                    self.add(here, Rule::WorkdirRelativePath, detail);
                }
            }
            Instruction::User(word) | Instruction::Stopsignal(word) => {
                self.word(state, here, &word.value)?;
            }
            Instruction::Volume(words) => {
                for word in words {
                    self.word(state, here, &word.value)?;
                }
            }
            Instruction::Expose(words) => {
                for word in words {
                    let lookup = |name: &str| state.environment.get(name).map(str::to_owned);
                    let escape = self.plan.dockerfile.escape;
                    for port in expansion::expand_words(&word.value, &lookup, escape).ok()? {
                        self.port(here, &port);
                    }
                }
            }
            Instruction::Shell(_) => state.has_shell = true,
            Instruction::Cmd(line) => {
                self.once(here, state.cmd.replace(here.step.span));
                self.form(state, here, line);
            }
            Instruction::Entrypoint(line) => {
                self.once(here, state.entrypoint.replace(here.step.span));
                self.form(state, here, line);
            }
            Instruction::Healthcheck(Healthcheck::None | Healthcheck::Command { .. }) => {
                self.once(here, state.healthcheck.replace(here.step.span));
            }
            Instruction::Maintainer(_) | Instruction::Onbuild { .. } => {}
        }
        Some(())
    }

    fn add(&mut self, here: &Here<'_>, rule: Rule, detail: String) {
        self.findings.add(here.checks, rule, here.step.span, detail);
    }

    /// Expands a word and tells the variables in it that nobody has set.
    fn word(&mut self, state: &State, here: &Here<'_>, word: &str) -> Option<String> {
        let expanded = expand(word, &state.environment, self.plan.dockerfile.escape)?;
        self.undefined(state, here, &expanded.unset);
        Some(expanded.text)
    }

    fn undefined(&mut self, state: &State, here: &Here<'_>, unset: &BTreeSet<String>) {
        let pairs = state.environment.pairs().iter();
        let known: Vec<&str> = pairs.map(|(name, _)| name.as_str()).collect();
        for name in unset {
            if state.declared.contains(name) || SWITCHES.contains(&name.as_str()) {
                continue;
            }
            let near = suggestion(name, "$", known.iter().copied());
            let detail = format!("Usage of undefined variable '${name}'{near}");
            self.add(here, Rule::UndefinedVar, detail);
        }
    }

    /// The pairs of ENV and LABEL, expanded.
    fn pairs(
        &mut self,
        state: &State,
        here: &Here<'_>,
        pairs: &[KeyValue],
    ) -> Option<Vec<(String, String)>> {
        let mut expanded = Vec::new();
        for pair in pairs {
            let key = self.word(state, here, &pair.key.value)?;
            let value = self.word(state, here, &pair.value.value)?;
            expanded.push((key, value));
        }
        for _ in pairs.iter().filter(|pair| pair.is_legacy) {
            let name = here.name;
            let detail = format!(
                "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
            );
            self.add(here, Rule::LegacyKeyValueFormat, detail);
        }
        Some(expanded)
    }

    fn arg(
        &mut self,
        state: &mut State,
        here: &Here<'_>,
        declarations: &[ArgDeclaration],
    ) -> Option<()> {
        for declaration in declarations {
            let name = declaration.name.value.as_str();
            self.secret(here, "ARG", name);
            let value = match (self.plan.options.build_args.get(name), &declaration.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.word(state, here, &default.value)?),
                (None, None) => self.plan.global.get(name).map(str::to_owned),
            };
            if let Some(value) = value
                && !SWITCHES.contains(&name)
            {
                state.environment.set(name, &value);
            }
            state.declared.insert(name.to_owned());
        }
        Some(())
    }

    fn secret(&mut self, here: &Here<'_>, instruction: &str, name: &str) {
        if names_a_secret(name) {
            let detail = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})"
            );
            self.add(here, Rule::SecretsUsedInArgOrEnv, detail);
        }
    }

    fn transfer(
        &mut self,
        state: &State,
        here: &Here<'_>,
        transfer: &Transfer,
        verb: &str,
    ) -> Option<()> {
        let options = [&transfer.chown, &transfer.chmod, &transfer.checksum];
        for word in options.into_iter().flatten() {
            self.word(state, here, &word.value)?;
        }
        let mut sources = Vec::new();
        for source in &transfer.sources {
            if let Source::Path(word) = source {
                sources.push(self.word(state, here, &word.value)?);
            }
        }
        self.word(state, here, &transfer.destination.value)?;
        for source in &transfer.sources {
            let Source::Heredoc(heredoc) = source else {
                continue;
            };
            if heredoc.expand {
                let lookup = |name: &str| state.environment.get(name).map(str::to_owned);
                let expanded =
                    expansion::expand_heredoc_with_names(&heredoc.content, &lookup).ok()?;
                self.undefined(state, here, &expanded.unset);
            }
        }
        if transfer.from.is_none() {
            for source in &sources {
                self.ignored(here, source, verb);
            }
        }
        Some(())
    }

    /// Tells of a source that `.dockerignore` leaves out. Where that takes something back with a
    /// `!`, there is no telling from the patterns alone.
    fn ignored(&mut self, here: &Here<'_>, source: &str, verb: &str) {
        let Some(matcher) = self.ignore.filter(|_| !super::remote::is_remote(source)) else {
            return;
        };
        let source = ignore::clean(source);
        let is_left_out = match source.as_str() {
            "." | "/" => matcher.excludes_everything(),
            path => matcher.excluded(path.as_bytes()),
        };
        if is_left_out {
            let detail =
                format!("Attempting to {verb} file {source:?} that is excluded by .dockerignore");
            self.add(here, Rule::CopyIgnoredFile, detail);
        }
    }

    fn mounts(&mut self, state: &State, here: &Here<'_>, run: &Run) -> Option<()> {
        for mount in &run.mounts {
            let unset = RefCell::new(BTreeSet::new());
            let expanded = mount.value.expand(&|word| {
                let lookup = |name: &str| state.environment.get(name).map(str::to_owned);
                let escape = self.plan.dockerfile.escape;
                let expanded = expansion::expand_with_names(word, &lookup, escape)?;
                unset.borrow_mut().extend(expanded.unset);
                Ok(expanded.text)
            });
            self.undefined(state, here, &unset.into_inner());
            expanded.ok()?;
        }
        Some(())
    }

    fn port(&mut self, here: &Here<'_>, port: &str) {
        // `[address:][host port:]port[/protocol]`
        let (outer, inner) = match port.rsplit_once(':') {
            Some((outer, inner)) => (outer, inner),
            None => ("", port),
        };
        let protocol = inner.split_once('/').map_or("", |(_, protocol)| protocol);
        if protocol != protocol.to_lowercase() {
            let detail =
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.add(here, Rule::ExposeProtoCasing, detail);
        }
        if !outer.trim_matches(':').is_empty() {
            let detail = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            self.add(here, Rule::ExposeInvalidFormat, detail);
        }
    }

    /// Tells of the instruction that this one makes useless.
    fn once(&mut self, here: &Here<'_>, before: Option<Span>) {
        if let Some(before) = before {
            let detail = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                here.name
            );
            let rule = Rule::MultipleInstructionsDisallowed;
            self.findings.add(here.checks, rule, before, detail);
        }
    }

    fn form(&mut self, state: &State, here: &Here<'_>, line: &CommandLine) {
        if matches!(line, CommandLine::Shell(_)) && !state.has_shell {
            let detail = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                here.name
            );
            self.add(here, Rule::JsonArgsRecommended, detail);
        }
    }
}

fn expand(word: &str, environment: &Environment, escape: char) -> Option<Expansion> {
    let lookup = |name: &str| environment.get(name).map(str::to_owned);
    expansion::expand_with_names(word, &lookup, escape).ok()
}

/// Whether a variable's name has a word in it that secrets are called by, and none that says that
/// it isn't one.
fn names_a_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let name = name.to_ascii_lowercase();
    let has = |words: &[&str]| name.split('_').any(|word| words.contains(&word));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
