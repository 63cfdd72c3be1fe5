//! What this user may do with a directory.

use std::path::Path;

use bytes::Bytes;
use indicatif::BinaryBytes;

use super::LocalStore;
use crate::error::{Error, Kind, Result};
use crate::layout::{self, Key};
use crate::storage::examination::Finding;
use crate::storage::{Body, PutMode, Store};

pub(super) async fn examine(store: &LocalStore) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(free) = free(&store.root) {
        findings.push(Finding::good("free space", BinaryBytes(free).to_string()));
    }
    findings.push(right("list", store.list(&Default::default()).await.map(drop), "restore or verify anything"));
    let key = Key::Doctor.to_string();
    let put = match store.put(&key, Body::Memory(Bytes::from_static(layout::DOCTOR)), PutMode::New).await {
        // Left by an examination that was killed.
        Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
        put => put,
    };
    let wrote = put.is_ok();
    findings.push(right("put", put, "archive"));
    if wrote {
        findings.push(right("get", read(store, &key).await, "restore"));
        findings.push(right("delete", store.delete(&[key]).await, "remove what is no longer needed"));
    }
    findings
}

async fn read(store: &LocalStore, key: &str) -> Result<()> {
    let mut download = store.get(key, None).await?;
    let mut content = Vec::new();
    while let Some(chunk) = download.next().await? {
        content.extend_from_slice(&chunk);
    }
    match content == layout::DOCTOR {
        true => Ok(()),
        false => Err(Error::new(Kind::Corrupt, format!("{} has other bytes than were stored", store.url(key)))),
    }
}

fn right(check: &'static str, outcome: Result<()>, cannot: &str) -> Finding {
    match outcome {
        Ok(()) => Finding::good(check, "allowed"),
        Err(error) if error.kind() == Kind::Denied => Finding::limited(
            check,
            format!("not allowed: this user cannot {cannot}"),
            "Give this user the right on the directory, if it is to do that: chown or chmod.",
        ),
        Err(error) => Finding::bad(check, error),
    }
}

/// Bytes that this user may still write, on the file system of the directory or of the nearest one above that exists.
fn free(directory: &Path) -> Option<u64> {
    let there = directory.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
