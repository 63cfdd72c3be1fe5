//! What this user may do with a directory.

use indicatif::BinaryBytes;

use super::LocalStore;
use crate::error::{Kind, Result};
use crate::layout::Key;
use crate::storage::examination::{Finding, free_space, probe, read_probe};
use crate::storage::{PutMode, Store};

pub(super) async fn examine(store: &LocalStore, findings: &mut Vec<Finding>) {
    if let Some(free) = free_space(&store.root) {
        findings.push(Finding::good("free space", BinaryBytes(free).to_string()));
    }
    findings.push(right("list", store.list(&Default::default()).await.map(drop), "restore or verify anything"));
    let key = Key::Doctor.to_string();
    let put = match store.put(&key, probe(), PutMode::New).await {
        // Left by an examination that was killed.
        Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
        put => put,
    };
    let wrote = put.is_ok();
    findings.push(right("put", put, "archive"));
    if wrote {
        findings.push(right("get", read_probe(store).await, "restore"));
        findings.push(right("delete", store.delete(&[key]).await, "remove what is no longer needed"));
    }
}

fn right(check: &'static str, outcome: Result<()>, cannot: &str) -> Finding {
    let hint = "Give this user the right on the directory, if it is to do that: chown or chmod.";
    Finding::right(check, outcome, &format!("this user cannot {cannot}"), hint)
}
