//! Signals: the first one stops the work in order, a second one ends the process at once, and so
//! does time: whatever doesn't stop within `PATIENCE` is left to the kernel.
//!
//! A signal that is ignored when rbuild starts (`nohup`, a shell's background job) stays ignored.

use std::fs;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::error::{Failure, SIGPIPE};
use super::ui::Gone;
use crate::solver::cancel::Cancel;

/// How long the work may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// Tells that the user or the system wants the command to end.
#[derive(Clone, Default)]
pub struct Interrupt {
    cancel: Cancel,
    token: CancellationToken,
    signal: Arc<AtomicU8>,
    /// Who deals with signals in place of this, where somebody does.
    taken: Arc<Mutex<Option<UnboundedSender<u8>>>>,
}

impl Interrupt {
    /// Begins to watch for SIGINT, SIGTERM and SIGHUP. To be called inside the runtime.
    ///
    /// # Errors
    /// When the kernel refuses to install a handler.
    pub fn watch() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let ignored = ignored_signals();
        for (number, kind) in [
            (SIGHUP, SignalKind::hangup()),
            (SIGINT, SignalKind::interrupt()),
            (SIGTERM, SignalKind::terminate()),
        ] {
            if !is_ignored(ignored, number) {
                let arriving = signal(kind).map_err(|error| {
                    Failure::internal("can't watch for signals").caused_by(&error)
                })?;
                tokio::spawn(interrupt.clone().serve(number, arriving));
            }
        }
        Ok(interrupt)
    }

    async fn serve(self, number: u8, mut arriving: Signal) {
        while arriving.recv().await.is_some() {
            if self.hand_on(number) {
                continue;
            }
            if self.token.is_cancelled() {
                // Sandboxes end by themselves when this process is gone.
                std::process::exit(i32::from(128 + number));
            }
            self.stop(number);
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                // Something blocks that can't be told to stop, such as the opening of a FIFO.
                std::process::exit(i32::from(128 + number));
            });
        }
    }

    /// From now on signals are the caller's to deal with, by their numbers, and stop nothing here:
    /// a program in the foreground may have its own use for them. One that came before is given
    /// first.
    pub fn take(&self) -> UnboundedReceiver<u8> {
        let (sender, receiver) = unbounded_channel();
        if let Some(number) = self.signal() {
            let _ = sender.send(number);
        }
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    fn hand_on(&self, number: u8) -> bool {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.as_ref().is_some_and(|to| to.send(number).is_ok())
    }

    /// The first reason stands.
    fn stop(&self, number: u8) {
        let _ = self
            .signal
            .compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
        self.token.cancel();
        self.cancel.cancel();
    }

    /// Stops a build when the command is to end.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Fails as soon as the command is to end; never succeeds.
    ///
    /// # Errors
    /// The signal.
    pub async fn wait(&self) -> Result<std::convert::Infallible, Failure> {
        self.token.cancelled().await;
        Err(Failure::signal(self.signal().unwrap_or(SIGTERM)))
    }

    /// Ends the command because nobody reads its output any more. A command that was started to
    /// outlive its terminal does.
    pub fn output_gone(&self, gone: Gone) {
        match gone {
            Gone::Pipe => self.stop(SIGPIPE),
            Gone::Terminal if is_ignored(ignored_signals(), SIGHUP) => {}
            Gone::Terminal => self.stop(SIGHUP),
        }
    }

    /// The number of the signal that came first, if one came.
    pub fn signal(&self) -> Option<u8> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|number| *number != 0)
    }
}

/// The signals that this process ignores, as a mask; none where the kernel doesn't say.
fn ignored_signals() -> u64 {
    fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_in(&status))
}

/// Whether this process ignores a signal now.
pub fn ignores(number: u8) -> bool {
    is_ignored(ignored_signals(), number)
}

fn is_ignored(mask: u64, number: u8) -> bool {
    mask & (1 << (number - 1)) != 0
}

fn ignored_in(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_file() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\nSigCgt:\t00\n";
        assert_eq!(ignored_in(status), 0x1003);
        assert_eq!(ignored_in("nothing"), 0);
    }

    #[tokio::test]
    async fn the_first_signal_decides() {
        let interrupt = Interrupt::default();
        assert_eq!(interrupt.signal(), None);
        interrupt.stop(SIGTERM);
        interrupt.stop(SIGINT);
        assert_eq!(interrupt.signal(), Some(SIGTERM));
        assert!(interrupt.cancel().is_canceled());
        assert_eq!(interrupt.wait().await, Err(Failure::signal(SIGTERM)));
    }

    #[tokio::test]
    async fn whoever_takes_signals_gets_them_and_nothing_is_stopped() {
        let interrupt = Interrupt::default();
        let mut signals = interrupt.take();
        assert!(interrupt.hand_on(SIGTERM));
        assert_eq!(signals.recv().await, Some(SIGTERM));
        assert_eq!(interrupt.signal(), None);
        drop(signals);
        assert!(!interrupt.hand_on(SIGTERM));
    }

    #[tokio::test]
    async fn a_closed_output_ends_the_command() {
        let interrupt = Interrupt::watch().expect("handlers");
        interrupt.output_gone(Gone::Pipe);
        assert_eq!(interrupt.signal(), Some(SIGPIPE));
    }
}
