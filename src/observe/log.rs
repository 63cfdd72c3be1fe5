//! Events as log lines.

use super::{Event, Observer};

/// Tells phases and results at level info, warnings at level warn, and no progress: in cron only what needs a person
/// makes a line.
#[derive(Clone, Copy, Debug)]
pub struct Log;

impl Observer for Log {
    fn notice(&self, event: Event) {
        match event {
            Event::Phase { name, bytes } => tracing::info!(bytes, "{name}"),
            Event::Advanced(_) => {}
            Event::Warning(text) => tracing::warn!("{text}"),
            Event::Done(text) => tracing::info!("{text}"),
        }
    }
}
