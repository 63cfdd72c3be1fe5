//! Which files are on their way into the archive ahead of their turn, for whoever is asked for one of them meanwhile.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::wal::segment::WalFile;

/// The files that are on their way within this process.
#[derive(Clone, Debug, Default)]
pub struct Underway {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<HashSet<WalFile>>,
    changed: Notify,
}

impl Underway {
    /// These files are on their way until each has ended, or the guard is dropped.
    pub(super) fn begin(&self, files: &[WalFile]) -> Guard {
        self.with(|underway| underway.extend(files));
        Guard { underway: self.clone(), files: files.to_vec() }
    }

    /// Whatever became of it, this one no longer is.
    pub(super) fn end(&self, file: WalFile) {
        self.with(|underway| underway.remove(&file));
        self.shared.changed.notify_waiters();
    }

    /// Returns when this file is not on its way.
    pub(super) async fn end_of(&self, file: WalFile) {
        loop {
            // Listens before it looks, so that no change falls in between.
            let changed = self.shared.changed.notified();
            if !self.with(|underway| underway.contains(&file)) {
                return;
            }
            changed.await;
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashSet<WalFile>) -> T) -> T {
        // The set is whole between any two calls, whatever panicked meanwhile.
        act(&mut self.shared.files.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Guard {
    underway: Underway,
    files: Vec<WalFile>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.files.drain(..).for_each(|file| self.underway.end(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_file_goes_on_when_it_has_ended_or_was_given_up() {
        let [one, two]: [WalFile; 2] = ["00000002.history", "00000003.history"].map(|name| name.parse().unwrap());
        let underway = Underway::default();
        underway.end_of(one).await;
        let guard = underway.begin(&[one, two]);
        let waiting = [one, two].map(|file| {
            let underway = underway.clone();
            tokio::spawn(async move { underway.end_of(file).await })
        });
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        underway.end(one);
        let [first, second] = waiting;
        first.await.unwrap();
        assert!(!second.is_finished());
        drop(guard);
        second.await.unwrap();
    }
}
