//! Log messages of the rooms below, on standard error.
//!
//! `-v` shows decisions (which isolation, which mirror), `-vv` details, `-vvv` everything;
//! `RBUILD_LOG` takes a filter in the usual form (`rbuild::registry=debug`) and wins. Messages
//! never hold secrets: that is for those who write them to see to.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::environment::Environment;
use super::settings::Settings;
use super::ui::{SharedStderr, stderr_style};

/// Begins to show log messages. Later calls in one process change nothing.
pub fn start(settings: &Settings, environment: &Environment, stderr: &SharedStderr) {
    let level = match settings.verbosity {
        0 => "warn",
        1 => "warn,rbuild=info",
        2 => "info,rbuild=debug",
        _ => "debug,rbuild=trace",
    };
    let filter = environment
        .get("RBUILD_LOG")
        .and_then(|filter| EnvFilter::try_new(filter).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr_style(environment).colours())
        .with_target(settings.verbosity > 1)
        .without_time()
        .with_writer(Lines(stderr.clone()))
        .finish();
    // Fails only where a subscriber exists already.
    let _ = tracing::subscriber::set_global_default(subscriber);
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
