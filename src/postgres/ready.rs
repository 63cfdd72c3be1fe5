//! What waits to be archived: the files that PostgreSQL has marked as ready. Pure.

use jiff::Timestamp;

/// The files that wait for `archive_command`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since when the oldest of them waits, by the server's clock.
    pub oldest: Option<Timestamp>,
}

impl Ready {
    /// One more file waits.
    pub fn add(&mut self, bytes: u64, since: Option<Timestamp>) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.oldest = match (self.oldest, since) {
            (Some(oldest), Some(since)) => Some(oldest.min(since)),
            (oldest, since) => oldest.or(since),
        };
    }
}
