//! When this machine last verified the archive, and what it found.
//!
//! `wal-verify` may only read the archive, so it leaves word where its user's other notes are (`storage::memory`). Lost
//! with it, which costs nothing but the word.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::postgres::control::SystemId;
use crate::storage::memory::Memory;
use crate::wal::verify::Report;

/// A verification that is older says nothing of the archive as it is now.
const REMEMBERED: Duration = Duration::from_secs(366 * 86_400);

/// What a verification has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When it ended, by this machine's clock.
    pub when: Timestamp,
    /// Whether the segments were read.
    pub deep: bool,
    /// What was wrong, in a sentence; `None` if nothing was.
    pub failure: Option<String>,
}

fn key(address: &str, system: SystemId) -> String {
    format!("verified\n{system}\n{address}")
}

/// Notes what was found, cluster by cluster. Best effort.
pub fn remember(memory: &Memory, address: &str, reports: &[Report], now: Timestamp) {
    for report in reports {
        let failure = report.verdict().err().map(|error| error.to_string());
        let found = Verification { when: now, deep: report.deep.is_some(), failure };
        if let Ok(text) = serde_json::to_string(&found) {
            memory.remember(&key(address, report.system_id), &text, REMEMBERED);
        }
    }
}

pub(super) fn recall(memory: &Memory, address: &str, system: SystemId) -> Option<Verification> {
    serde_json::from_str(&memory.recall(&key(address, system))?).ok()
}
