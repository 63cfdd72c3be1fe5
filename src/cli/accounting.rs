//! What each run leaves in the metrics: that it came to an end, how, and how long it took.
//!
//! Never changes how a run ends: metrics that cannot be written are told in the log.

use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;

use super::arguments::Invocation;
use crate::config::options::{self, watching};
use crate::config::row::VerbName;
use crate::error::{Kind, Result};
use crate::metrics::{table, textfile};
use crate::observe::peak_memory;

/// A run that has begun.
pub(super) struct Run {
    directory: PathBuf,
    archive: String,
    verb: VerbName,
    began: Instant,
}

impl Run {
    /// `None` if nobody wants metrics of it: no directory is set, the verb looks at no archive, or it is the process that
    /// fetches ahead, which serves no call of its own.
    pub fn begin(Invocation { verb, settings }: &Invocation) -> Result<Option<Run>> {
        let directory = settings.find(&watching::METRICS_DIR)?;
        let verb = verb.name();
        let looks = !matches!(verb, VerbName::Config | VerbName::Completions | VerbName::Man | VerbName::Keygen);
        let counted = looks && !settings.get(&options::AHEAD)?;
        let (Some(directory), Some(archive), true) = (directory, settings.find(&options::PREFIX)?, counted) else {
            return Ok(None);
        };
        Ok(Some(Run { directory, archive: archive.to_string(), verb, began: Instant::now() }))
    }

    /// It has come to its end.
    pub fn end<T>(self, outcome: &Result<T>) {
        let took = self.began.elapsed().as_secs_f64();
        let verb = [("verb", self.verb.as_str())];
        let result = outcome.as_ref().err().map_or("ok", |error| word(error.kind()));
        let last = if outcome.is_ok() { &table::LAST_SUCCESS } else { &table::LAST_FAILURE };
        tell(textfile::update(&self.directory, &self.archive, |samples| {
            samples.add(&table::RUNS, &[verb[0], ("result", result)], 1.0);
            samples.add(&table::RUN_SECONDS, &verb, took);
            samples.set(&table::LAST_RUN_SECONDS, &verb, took);
            samples.set(last, &verb, Timestamp::now().as_millisecond() as f64 / 1000.0);
            if let Some(bytes) = peak_memory() {
                samples.set(&table::LAST_RUN_MEMORY, &verb, bytes as f64);
            }
        }));
    }
}

/// Says that metrics could not be written.
pub(super) fn tell(written: Result<()>) {
    if let Err(error) = written {
        tracing::warn!("no metrics are left: {error}");
    }
}

/// The kinds as labels; docs/exit-codes.md has the same names.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => "not-found",
        Kind::Usage => "usage",
        Kind::Config => "config",
        Kind::Denied => "denied",
        Kind::Unreachable => "unreachable",
        Kind::AlreadyExists | Kind::Conflict => "conflict",
        Kind::Corrupt => "corrupt",
        Kind::Damaged => "damaged",
        Kind::Refused => "refused",
        Kind::Incomplete => "incomplete",
        Kind::Local => "local",
        Kind::Bug => "bug",
    }
}
