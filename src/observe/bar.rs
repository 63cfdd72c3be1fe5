//! Events as a progress bar on standard error.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Event, Observer};

const COUNTED: &str = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
const UNCOUNTED: &str = "{spinner} {msg} {elapsed}";

/// A bar with rate and time left for phases of known size, a spinner for the others.
#[derive(Debug, Default)]
pub struct Bar {
    current: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn with_current(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        // A poisoned lock means that another thread panicked while drawing; the bar itself is still usable.
        act(&mut self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn say(&self, line: &str) {
        self.with_current(|current| match current {
            Some(bar) => bar.suspend(|| tracing::warn!("{line}")),
            None => tracing::warn!("{line}"),
        });
    }
}

impl Observer for Bar {
    fn notice(&self, event: Event) {
        match event {
            Event::Phase { name, bytes } => self.with_current(|current| {
                if let Some(last) = current.take() {
                    last.finish_and_clear();
                }
                let bar = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
                let template = if bytes.is_some() { COUNTED } else { UNCOUNTED };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_message(name);
                bar.enable_steady_tick(Duration::from_millis(200));
                *current = Some(bar);
            }),
            Event::Advanced(bytes) => self.with_current(|current| {
                if let Some(bar) = current {
                    bar.inc(bytes);
                }
            }),
            Event::Warning(text) => self.say(&text),
            Event::Done(text) => self.with_current(|current| match current.take() {
                Some(bar) => bar.finish_and_clear(),
                None => tracing::debug!("{text}"),
            }),
        }
    }
}
