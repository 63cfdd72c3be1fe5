//! The form of a line of the log: text or JSON, with the journal's priority where the journal reads it, and without what
//! repeats too often.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::observe::repeats::{REPEATED, Repeats};

/// The variable in which systemd says which stream is connected to the journal (systemd.exec(5)).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// What begins each line of standard error: in the journal its priority, which the journal takes off again (sd-daemon(3));
/// elsewhere nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prefix {
    journal: bool,
}

impl Prefix {
    /// As this standard error wants it: a program that was started by a service may have another one than the service.
    pub(super) fn of_standard_error(variables: &[(OsString, OsString)]) -> Prefix {
        let Some((_, journal)) = variables.iter().find(|(name, _)| name == JOURNAL_STREAM) else {
            return Prefix::default();
        };
        let ours = rustix::fs::fstat(std::io::stderr().as_fd());
        Prefix { journal: ours.is_ok_and(|stat| *journal == *format!("{}:{}", stat.st_dev, stat.st_ino)) }
    }

    /// What to write before a line of this level.
    pub(super) fn of(self, level: Level) -> &'static str {
        match level {
            _ if !self.journal => "",
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        }
    }
}

/// What has repeated, for as long as the process runs.
#[derive(Clone, Debug)]
pub(super) struct Repetition {
    began: Instant,
    seen: Arc<Mutex<Repeats<Identifier>>>,
}

impl Repetition {
    pub(super) fn new() -> Repetition {
        Repetition { began: Instant::now(), seen: Arc::default() }
    }

    fn admit(&self, place: Identifier) -> Option<u64> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).admit(place, self.began.elapsed())
    }

    /// Lines that nobody was told of.
    pub(super) fn left_out(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).left_out()
    }
}

/// The form of another formatter, with the prefix, and without repetition.
pub(super) struct Lines<Form> {
    pub(super) form: Form,
    pub(super) prefix: Prefix,
    pub(super) repetition: Repetition,
}

impl<Form, S, N> FormatEvent<S, N> for Lines<Form>
where
    Form: FormatEvent<S, N>,
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let left_out = match metadata.target() == REPEATED {
            true => self.repetition.admit(metadata.callsite()),
            false => Some(0),
        };
        let Some(left_out) = left_out else { return Ok(()) };
        writer.write_str(self.prefix.of(*metadata.level()))?;
        if left_out == 0 {
            return self.form.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.form.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match line.strip_suffix('}') {
            // One object a line.
            Some(object) => writeln!(writer, "{object},\"left_out\":{left_out}}}"),
            None => writeln!(writer, "{line} left_out={left_out}"),
        }
    }
}
