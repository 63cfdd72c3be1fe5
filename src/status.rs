//! `status`: how archiving stands, from the store and from the server.
//!
//! Puts together what others find, and says what could not be seen. Reads no segment, changes nothing, and takes nothing
//! from a cache, but for when this machine last verified the archive. Whether what it finds is well is for `verdict`.

pub mod retention;
pub mod samples;
mod server;
pub mod verdict;
mod verified;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::server::{Failing, Host};
pub use self::verified::{Verification, remember};
use crate::archive::Archive;
use crate::backup::catalogue;
use crate::backup::manifest::Backup;
use crate::backup::retention::record::LastRun;
use crate::error::{Error, Kind, Result};
use crate::layout::{DataKeyName, Key};
use crate::observe::{Event, Observer};
use crate::postgres::client::Environment;
use crate::postgres::control::SystemId;
use crate::postgres::datadir;
use crate::storage::Signer;
use crate::storage::memory::Memory;
use crate::wal::chain::Gap;
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::survey;
use crate::wal::verify::{self, Report, VerifiedBackup};

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// This cluster alone.
    pub system: Option<SystemId>,
    /// A data directory on this machine. Its cluster alone is meant then.
    pub data_directory: Option<PathBuf>,
    /// The spool, if it is not the usual one; relative to the data directory.
    pub spool: Option<PathBuf>,
    /// Where the server is, as libpq's variables say.
    pub variables: Environment,
    /// Where this machine notes its verifications.
    pub memory: Memory,
    /// The archive's address, by which it is known there.
    pub address: String,
}

impl Wanted {
    /// The cluster that is meant, if only one is.
    fn only(&self) -> Option<SystemId> {
        let of_directory = || datadir::read_control(self.data_directory.as_deref()?).ok();
        self.system.or_else(|| of_directory().map(|(control, _)| control.system_id))
    }
}

/// How it stands.
#[derive(Debug)]
pub struct Standing {
    /// When it was looked at, by this machine's clock.
    pub when: Timestamp,
    /// Each cluster that is in the archive, or is served here.
    pub clusters: Vec<Status>,
    /// Why the archive could not be seen.
    pub unseen_archive: Option<Error>,
    /// As whom the store was asked.
    pub signer: Option<Signer>,
    /// What else could not be seen.
    pub not_seen: Vec<NotSeen>,
}

/// What could not be seen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSeen {
    /// In words.
    pub what: String,
    /// Whether somebody has said that it is there.
    pub expected: bool,
}

/// How one cluster stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which cluster; `None` if only its server was seen, and does not tell.
    pub system_id: Option<SystemId>,
    /// What is in the archive; `None` if that could not be seen, or if nothing of the cluster is there.
    pub archived: Option<Archived>,
    /// What its server and its data directory say, if they were seen.
    pub host: Option<Host>,
}

/// What an archive has of a cluster.
#[derive(Clone, Debug)]
pub struct Archived {
    /// Its backups, and how far they lead.
    pub report: Report,
    /// The last segment of the newest timeline, and when it was stored, by the store's clock.
    pub last_segment: Option<(SegmentName, Timestamp)>,
    /// The data key that this segment is encrypted for; `None` if it is not encrypted, or if its header cannot be read.
    pub last_key: Option<DataKeyName>,
    /// What the last deletion by retention has done, if there was one and its record can be read.
    pub retention: Option<LastRun>,
    /// What this machine found when it last verified the archive.
    pub verification: Option<Verification>,
}

impl Archived {
    /// The newest complete backup.
    pub fn last_backup(&self) -> Option<&Backup> {
        self.report.backups.last().map(|verified| &verified.backup)
    }

    /// Segments that recoveries need and do not find, each counted once.
    pub fn missing_segments(&self) -> u64 {
        let gaps: BTreeSet<Gap> = self.report.recoverable().into_iter().flat_map(|one| one.gaps).collect();
        gaps.iter().map(|gap| gap.run.len()).sum()
    }

    /// The newest backup that restores a sound cluster: complete, without damaged pages, and with the WAL that makes it
    /// consistent.
    pub fn last_good_backup(&self) -> Option<&VerifiedBackup> {
        let good = |verified: &&VerifiedBackup| {
            verified.backup.damage().is_none() && verified.ways.iter().any(|way| way.window.is_some())
        };
        self.report.backups.iter().rev().find(good)
    }
}

/// Looks at the archive and at the server, both at once. What cannot be seen is part of the answer.
pub async fn look(archive: &Archive, wanted: &Wanted, observer: &Arc<dyn Observer>) -> Standing {
    let only = wanted.only();
    let (seen, (host, mut not_seen)) = tokio::join!(archived(archive, only, wanted, observer), server::look(wanted));
    let (seen, unseen_archive) = match seen {
        Ok((seen, unseen)) => {
            not_seen.extend(unseen);
            (seen, None)
        }
        Err(error) => (Vec::new(), Some(error)),
    };
    let of = |archived: Archived| Status {
        system_id: Some(archived.report.system_id),
        archived: Some(archived),
        host: None,
    };
    let mut clusters: Vec<Status> = seen.into_iter().map(of).collect();
    if let Some(host) = host {
        let its = clusters.iter_mut().find(|status| status.system_id == host.system_id);
        let foreign = only.is_some_and(|only| host.system_id.is_some_and(|own| own != only));
        match (its, host.system_id) {
            (Some(status), Some(_)) => status.host = Some(host),
            (_, Some(own)) if foreign => not_seen.push(NotSeen {
                what: format!("the cluster's server: what answers at PGHOST is the server of cluster {own}"),
                expected: wanted.expects_server(),
            }),
            (_, system_id) if wanted.expects_server() || host.archives_here() || unseen_archive.is_some() => {
                clusters.push(Status { system_id, archived: None, host: Some(host) });
            }
            // A server of another archive, which happens to run here.
            _ => {}
        }
    }
    Standing { when: Timestamp::now(), clusters, unseen_archive, signer: archive.store().signer(), not_seen }
}

/// What the archive has of the one cluster, or of all.
///
/// # Errors
/// Those of the store: what cannot be seen is never taken for missing.
async fn archived(
    archive: &Archive,
    only: Option<SystemId>,
    wanted: &Wanted,
    observer: &Arc<dyn Observer>,
) -> Result<(Vec<Archived>, Vec<NotSeen>)> {
    let systems = match only {
        Some(system) => archive.prove(system).await.map(|()| vec![system])?,
        None => archive.clusters().await?,
    };
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    for system in systems {
        let report = verify::verify(archive, system, None, observer).await?;
        let last_segment = last_segment(archive, &report).await?;
        let last_key = last_key(archive, system, last_segment).await?;
        let retention = match catalogue::last_retention(archive, system).await {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Refused) => {
                unseen.push(NotSeen { what: format!("the last retention: {error}"), expected: true });
                None
            }
            last => last?,
        };
        let verification = verified::recall(&wanted.memory, &wanted.address, system);
        observer.notice(Event::Done(format!("the archive of cluster {system} has been looked at")));
        found.push(Archived { report, last_segment, last_key, retention, verification });
    }
    Ok((found, unseen))
}

async fn last_segment(archive: &Archive, report: &Report) -> Result<Option<(SegmentName, Timestamp)>> {
    let Some(timeline) = report.newest_timeline else { return Ok(None) };
    // The newest backup's id names the segment in which it began.
    let on_it = report.backups.iter().rev().map(|verified| &verified.backup);
    let after = on_it.filter(|backup| backup.timeline == timeline).find_map(before);
    survey::last_segment(archive, report.system_id, timeline, after).await
}

/// For which data key the newest segment is encrypted, as its header says: what was written last is what is written now.
async fn last_key(
    archive: &Archive,
    system: SystemId,
    last: Option<(SegmentName, Timestamp)>,
) -> Result<Option<DataKeyName>> {
    let Some((name, _)) = last else { return Ok(None) };
    let key = Key::Wal(system, WalFile::Segment(name));
    let header = match archive.store().head(&key.to_string()).await {
        Ok(info) => archive.describe(&key, info.size).await,
        Err(error) => Err(error),
    };
    match header {
        Ok(header) => Ok(header.key),
        // It was deleted meanwhile, is damaged, which a verification tells, or may not be read by who only watches.
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Corrupt | Kind::Refused | Kind::Denied) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The segment before the one in which a backup began.
fn before(backup: &Backup) -> Option<SegmentName> {
    let size = backup.segment_size().ok()?;
    let first = SegmentName::containing(backup.timeline, backup.start, size).number(size)?;
    SegmentName::new(backup.timeline, first.checked_sub(1)?, size)
}
