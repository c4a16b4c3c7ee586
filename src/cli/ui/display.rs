//! What a way of showing progress has to do.

use std::time::Duration;

use super::trace::{Change, Trace};
use crate::solver::events::Event;

/// Turns what happens into text for standard error. It writes nothing itself and reads no clock.
pub(super) trait Display: Send {
    /// The text for an event as it came, before it is folded into the trace.
    fn event(&mut self, _event: &Event, _at: Duration) -> String {
        String::new()
    }

    /// The text for what has changed. Also called without changes, now and then.
    fn show(&mut self, trace: &Trace, changes: &[Change], now: Duration) -> String;

    /// The text that shows `text` (whole lines, from elsewhere: a log message) in between.
    fn note(&mut self, trace: &Trace, text: &str, now: Duration) -> String;

    /// The last text: nothing more will happen.
    fn finish(&mut self, trace: &Trace, now: Duration) -> String;

    /// How long changes may be gathered before they are shown.
    fn frame_time(&self) -> Duration;
}
