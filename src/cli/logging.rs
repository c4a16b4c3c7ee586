//! Log messages of the rooms below, on standard error.
//!
//! `-v` shows decisions (which isolation, which mirror), `-vv` details, `-vvv` everything;
//! `RBUILD_LOG` takes a filter in the usual form (`rbuild::registry=debug`) and wins. Messages
//! never hold secrets: that is for those who write them to see to.

use std::io::{self, Write};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::environment::Environment;
use super::settings::Settings;
use super::ui::{SharedStderr, stderr_style};

/// Begins to show log messages. Later calls in one process change nothing.
pub fn start(settings: &Settings, environment: &Environment, stderr: &SharedStderr) {
    let filter = environment.get("RBUILD_LOG");
    let filter = filter.and_then(|filter| filter.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| by_verbosity(settings.verbosity));
    let shown = tracing_subscriber::fmt::layer()
        .with_ansi(stderr_style(environment).colours())
        .with_target(settings.verbosity > 1)
        .without_time()
        .with_writer(Lines(stderr.clone()));
    let subscriber = tracing_subscriber::registry().with(filter).with(shown);
    // Fails only where a subscriber exists already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn by_verbosity(verbosity: u8) -> Targets {
    let (others, ours) = match verbosity {
        0 => (LevelFilter::WARN, LevelFilter::WARN),
        1 => (LevelFilter::WARN, LevelFilter::INFO),
        2 => (LevelFilter::INFO, LevelFilter::DEBUG),
        _ => (LevelFilter::DEBUG, LevelFilter::TRACE),
    };
    Targets::new()
        .with_default(others)
        .with_target("rbuild", ours)
}

/// Makes a writer for each message.
struct Lines(SharedStderr);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneMessage<'a>;

    fn make_writer(&'a self) -> OneMessage<'a> {
        OneMessage {
            stderr: &self.0,
            text: Vec::new(),
        }
    }
}

/// Gathers a message and shows it whole.
struct OneMessage<'a> {
    stderr: &'a SharedStderr,
    text: Vec<u8>,
}

impl Write for OneMessage<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OneMessage<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.stderr
                .write_lines(&String::from_utf8_lossy(&self.text));
        }
    }
}
