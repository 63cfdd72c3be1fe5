//! What happens during long work, told to whoever watches: a progress bar on a terminal, the log in cron.
//!
//! The stories tell events and never print.

mod bar;
mod log;
pub mod repeats;
mod stopwatch;

use std::fmt::Debug;
use std::sync::Arc;

pub use self::bar::Bar;
pub use self::log::Log;
pub use self::stopwatch::{Lap, Stopwatch, peak_memory};

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A phase of the work begins and ends the one before; `bytes` is how much there is to do, where that is known.
    Phase {
        /// What is done, as in "copying 1234 files".
        name: String,
        /// Bytes to do.
        bytes: Option<u64>,
    },
    /// So many more bytes of the phase are done.
    Advanced(u64),
    /// Something the user should know and that does not stop the work.
    Warning(String),
    /// All is done; a sentence that says what came of it.
    Done(String),
}

/// Someone who watches. Calls come from several threads and must be cheap.
pub trait Observer: Send + Sync + Debug {
    /// Takes notice of an event.
    fn notice(&self, event: Event);
}

/// The observer for this standard error: a progress bar if it is a terminal, else the log.
pub fn choose(terminal: bool) -> Arc<dyn Observer> {
    if terminal { Arc::new(Bar::default()) } else { Arc::new(Log) }
}

/// A number of things in words: "1 segment", "2 segments".
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
