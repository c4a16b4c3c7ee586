//! Instructions that change the image's config and nothing else.

use super::lowering::{StageState, absent};
use super::{expose, format};
use crate::dockerfile::diagnostic::Diagnostic;
use crate::dockerfile::expansion;
use crate::dockerfile::instruction::{CommandLine, Healthcheck, Instruction, KeyValue, Step, Word};
use crate::dockerfile::span::Span;
use crate::image::config;

/// Signals by name, for STOPSIGNAL; numbers 1 to 64 and RTMIN/RTMAX forms are taken as well.
const SIGNALS: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

impl StageState {
    /// Applies an instruction that makes no layer.
    pub(super) fn metadata(&mut self, step: &Step) -> Result<(), Diagnostic> {
        match &step.instruction {
            Instruction::Env(pairs) => self.env(pairs),
            Instruction::Label(pairs) => self.label(pairs),
            Instruction::Cmd(command) => {
                let args = self.command_line(command);
                self.remember(format!("CMD {}", format::quoted_list(&args)));
                self.config.config.cmd = args;
                self.config.config.args_escaped = true;
                self.sets_cmd = true;
                Ok(())
            }
            Instruction::Entrypoint(command) => {
                let args = self.command_line(command);
                self.remember(format!("ENTRYPOINT {}", format::quoted_list(&args)));
                self.config.config.entrypoint = args;
                if !self.sets_cmd {
                    self.config.config.cmd = Vec::new();
                }
                Ok(())
            }
            Instruction::Expose(words) => self.expose(words),
            Instruction::Healthcheck(check) => {
                self.healthcheck(check);
                Ok(())
            }
            Instruction::Maintainer(name) => {
                self.remember(format!("MAINTAINER {name}"));
                self.config.author.clone_from(name);
                Ok(())
            }
            Instruction::Onbuild { text, .. } => {
                self.config.config.on_build.push(text.clone());
                Ok(())
            }
            Instruction::Shell(args) => {
                self.remember(format!("SHELL {}", format::plain_list(args)));
                self.config.config.shell = args.clone();
                Ok(())
            }
            Instruction::Stopsignal(word) => self.stopsignal(word),
            Instruction::User(word) => {
                let user = self.expand(word)?;
                self.remember(format!("USER {user}"));
                self.config.config.user = user;
                Ok(())
            }
            Instruction::Volume(words) => self.volume(words),
            other => Err(absent(step.span, &format!("`{other:?}` here"))),
        }
    }

    fn env(&mut self, pairs: &[KeyValue]) -> Result<(), Diagnostic> {
        // All pairs of one instruction see the environment as it was before it.
        let expanded = self.expand_pairs(pairs)?;
        let mut message = "ENV".to_owned();
        for (name, value) in expanded {
            message.push_str(&format!(" {name}={value}"));
            self.environment.set(&name, &value);
            self.config.config.set_env(&name, &value);
        }
        self.remember(message);
        Ok(())
    }

    fn label(&mut self, pairs: &[KeyValue]) -> Result<(), Diagnostic> {
        let expanded = self.expand_pairs(pairs)?;
        let mut message = "LABEL".to_owned();
        for (name, value) in expanded {
            message.push_str(&format!(" {name}={value}"));
            self.config.config.labels.insert(name, value);
        }
        self.remember(message);
        Ok(())
    }

    fn expand_pairs(&self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, Diagnostic> {
        pairs
            .iter()
            .map(|pair| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?)))
            .collect()
    }

    fn expose(&mut self, words: &[Word]) -> Result<(), Diagnostic> {
        let mut ports = Vec::new();
        let mut words: Vec<&Word> = words.iter().collect();
        words.sort_by(|a, b| a.value.cmp(&b.value));
        for word in words {
            let arguments = expansion::expand_words(&word.value, &self.lookup(), self.escape)
                .map_err(|error| Diagnostic::error(word.span, error.to_string()))?;
            for argument in arguments {
                let found = expose::ports(&argument).map_err(|message| {
                    Diagnostic::error(word.span, message)
                        .with_help("write a port or a range: EXPOSE 80 443/tcp 8000-8010/udp")
                })?;
                ports.extend(found);
            }
        }
        self.remember(format!("EXPOSE {}", format::plain_list(&ports)));
        self.config.config.exposed_ports.extend(ports);
        Ok(())
    }

    fn healthcheck(&mut self, check: &Healthcheck) {
        let value = match check {
            Healthcheck::None => config::Healthcheck {
                test: vec!["NONE".to_owned()],
                ..config::Healthcheck::default()
            },
            Healthcheck::Command {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let test = match command {
                    CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                    CommandLine::Exec(args) => std::iter::once("CMD".to_owned())
                        .chain(args.iter().cloned())
                        .collect(),
                };
                config::Healthcheck {
                    test,
                    interval: *interval,
                    timeout: *timeout,
                    start_period: *start_period,
                    start_interval: *start_interval,
                    retries: *retries,
                    ..config::Healthcheck::default()
                }
            }
        };
        self.remember(format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            format::plain_list(&value.test),
            format::duration(value.interval),
            format::duration(value.timeout),
            format::duration(value.start_period),
            format::duration(value.start_interval),
            value.retries
        ));
        self.config.config.healthcheck = Some(value);
    }

    fn stopsignal(&mut self, word: &Word) -> Result<(), Diagnostic> {
        let signal = self.expand(word)?;
        if !is_signal(&signal) {
            return Err(
                Diagnostic::error(word.span, format!("invalid signal: {signal}"))
                    .with_help("use a name such as SIGTERM or a number from 1 to 64"),
            );
        }
        self.remember(format!("STOPSIGNAL {signal}"));
        self.config.config.stop_signal = signal;
        Ok(())
    }

    fn volume(&mut self, words: &[Word]) -> Result<(), Diagnostic> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return Err(Diagnostic::error(
                    word.span,
                    "VOLUME specified can not be an empty string".to_owned(),
                ));
            }
            volumes.push(volume);
        }
        self.remember(format!("VOLUME {}", format::plain_list(&volumes)));
        self.config.config.volumes.extend(volumes);
        Ok(())
    }

    fn command_line(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(args) => args.clone(),
            CommandLine::Shell(text) => self.shell_command(text),
        }
    }

    /// `text` given to the stage's SHELL.
    pub(super) fn shell_command(&self, text: &str) -> Vec<String> {
        let shell = &self.config.config.shell;
        let mut args = if shell.is_empty() {
            vec!["/bin/sh".to_owned(), "-c".to_owned()]
        } else {
            shell.clone()
        };
        args.push(text.to_owned());
        args
    }

    /// The program of the stage's SHELL.
    pub(super) fn shell_program(&self) -> String {
        let program = self.shell_command("").into_iter().next();
        program.unwrap_or_default()
    }

    /// Refuses a value that stands where only some are allowed.
    pub(super) fn refuse<T>(span: Span, message: String) -> Result<T, Diagnostic> {
        Err(Diagnostic::error(span, message))
    }
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str, sign: char| {
        let rest = name.strip_prefix(prefix)?.strip_prefix(sign)?;
        rest.parse::<u32>().ok().filter(|n| (1..=15).contains(n))
    };
    SIGNALS.contains(&name) || offset("RTMIN", '+').is_some() || offset("RTMAX", '-').is_some()
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn signals_have_names_and_numbers() {
        for good in ["SIGTERM", "term", "9", "64", "SIGRTMIN+3", "RTMAX-14"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "65", "SIGFOO", "RTMIN+99", "-9"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
