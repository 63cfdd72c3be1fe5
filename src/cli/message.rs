//! Text for standard output and standard error. A closed one is not an error.

use std::io::{ErrorKind, Write};

use serde_json::json;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, format::JsonFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::{Lines, Prefix, Repetition};
use crate::config::value::{LogFormat, LogLevel};
use crate::error::Error;

/// Prints a result.
pub(super) fn print(text: &str) {
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let written = write!(std::io::stdout().lock(), "{text}{newline}").and_then(|()| std::io::stdout().flush());
    match written {
        // `walden backup-list | head -1` ends quietly.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => tracing::warn!("could not write to standard output: {error}"),
        Ok(()) => {}
    }
}

/// Tells a person what is going to happen, beside the result.
pub(super) fn tell(text: &str) {
    // Nobody is left to be told of a closed standard error.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Tells an error in PostgreSQL's form, or as a line of JSON.
pub(super) fn error(error: &Error, format: LogFormat, prefix: Prefix) {
    let priority = prefix.of(Level::ERROR);
    let text = match format {
        LogFormat::Text => {
            let mut text = format!("{priority}ERROR:  {}\n", error.what());
            for (label, part) in [("DETAIL", error.cause()), ("HINT", error.advice())] {
                if let Some(part) = part {
                    text.push_str(&format!("{priority}{label}:  {part}\n"));
                }
            }
            text
        }
        LogFormat::Json => {
            let line = json!({
                "timestamp": jiff::Timestamp::now(),
                "level": "ERROR",
                "kind": format!("{:?}", error.kind()),
                "message": error.what(),
                "detail": error.cause(),
                "hint": error.advice(),
            });
            format!("{priority}{line}\n")
        }
    };
    // Nobody is left to be told of a closed standard error.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Begins to write log lines to standard error: our own, not those of the libraries below. What repeats too often is only
/// counted, as the answer tells.
pub(super) fn start_log(level: LogLevel, format: LogFormat, prefix: Prefix) -> Repetition {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let registry = tracing_subscriber::registry().with(Targets::new().with_target("walden", level));
    // It would tell of a closed standard error on standard error, and panic.
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).log_internal_errors(false);
    let repetition = Repetition::new();
    let form = fmt::format().with_target(false);
    // Refused only if a log has been started before, which then goes on.
    let _ = match format {
        LogFormat::Text => {
            let form = form.with_ansi(false).without_time();
            registry.with(layer.event_format(Lines { form, prefix, repetition: repetition.clone() })).try_init()
        }
        LogFormat::Json => {
            // The same keys as those of an error.
            let form = form.json().flatten_event(true);
            let layer = layer.fmt_fields(JsonFields::new());
            registry.with(layer.event_format(Lines { form, prefix, repetition: repetition.clone() })).try_init()
        }
    };
    repetition
}
