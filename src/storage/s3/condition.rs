//! Does the store honour a conditional put (`If-None-Match: *`)? Some ignore the header and overwrite.
//!
//! Amazon's own do (Amazon S3 User Guide, "How to prevent object overwrites with conditional writes"). Another one is
//! asked before the first create-only put, with two puts of one small object that means nothing, and the answer is
//! remembered. Never deletes anything: whoever archives need not have the right to.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

use super::S3Store;
use super::body::Write;
use crate::error::Kind;
use crate::layout::{self, Key};
use crate::storage::memory::Memory;
use crate::storage::retry::Policy;
use crate::storage::{Body, Store};

/// How long a store is believed to honour the condition: stores lose an ability seldom, and only with an upgrade.
const HONOURED_FOR: Duration = Duration::from_secs(7 * 86_400);

/// How long one is believed to ignore it. An upgrade may bring it, and each guarded put costs three requests.
const IGNORED_FOR: Duration = Duration::from_secs(86_400);

/// A probe that decided nothing is not made again by the same process for so long: it would cost each put of an outage.
const UNDECIDED_FOR: Duration = Duration::from_secs(60);

/// How long one put of the probe may take: nobody should wait for it much longer than for the put itself.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of one store.
#[derive(Debug)]
pub(super) struct Conditions {
    memory: Memory,
    /// Under which the answer is remembered; `None` where it need not be asked for.
    key: Option<String>,
    /// Locked while the store is asked, so that of many puts at once one asks.
    known: Mutex<Option<(Verdict, Instant)>>,
}

/// What a store does with the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Honoured,
    Ignored,
    /// The probe failed for another reason.
    Undecided,
}

impl Conditions {
    /// Of a store below `url`; `amazon` if its endpoint is one of Amazon's own.
    pub fn of(endpoint: &str, url: &str, amazon: bool, memory: Memory) -> Conditions {
        let key = (!amazon).then(|| format!("conditional put\n{endpoint}\n{url}"));
        Conditions { memory, key, known: Mutex::default() }
    }

    /// What the store does: known, remembered, or found out by a probe.
    pub async fn verdict(&self, store: &S3Store) -> Verdict {
        let Some(key) = &self.key else { return Verdict::Honoured };
        let mut known = self.known.lock().await;
        match *known {
            Some((Verdict::Undecided, since)) if since.elapsed() > UNDECIDED_FOR => {}
            Some((verdict, _)) => return verdict,
            None => {}
        }
        let verdict = match self.memory.recall(key).as_deref() {
            Some("honoured") => Verdict::Honoured,
            Some("ignored") => Verdict::Ignored,
            _ => self.find_out(key, store).await,
        };
        *known = Some((verdict, Instant::now()));
        verdict
    }

    async fn find_out(&self, key: &str, store: &S3Store) -> Verdict {
        let verdict = probe(store).await;
        match verdict {
            Verdict::Honoured => self.memory.remember(key, "honoured", HONOURED_FOR),
            Verdict::Ignored => {
                self.memory.remember(key, "ignored", IGNORED_FOR);
                tracing::warn!(
                    "the store ignores If-None-Match: {} is guarded by looking before and after each put, but of two \
                     servers that store the same file at the same moment the later one may overwrite the other's",
                    store.url("")
                );
            }
            Verdict::Undecided => {}
        }
        verdict
    }
}

/// Twice the same object: the second put must be refused. The first one is refused, too, where an earlier probe, of this
/// or another machine, has left the object.
async fn probe(store: &S3Store) -> Verdict {
    let body = Body::Memory(Bytes::from_static(layout::PROBE));
    for _ in 0..2 {
        let put = async {
            let write = Write::prepare(store, &body).await?;
            store.write(&Key::Probe.to_string(), &write, true, Policy::once(PROBE_PATIENCE)).await.outcome
        };
        match put.await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::AlreadyExists => return Verdict::Honoured,
            Err(error) => {
                tracing::debug!("could not find out whether the store honours If-None-Match: {error}");
                return Verdict::Undecided;
            }
        }
    }
    Verdict::Ignored
}
