//! From what a sentinel says to what a recovery goes by. WAL-E says neither whose backup it is nor how large its segments
//! are; the segment in which the recovery begins says both, and it is needed anyway.

use std::io::Read;

use crate::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::layout::Key;
use crate::layout::basebackups::Writer;
use crate::legacy::Legacy;
use crate::legacy::codec::error_of;
use crate::legacy::sentinel::{LegacyBackup, Position};
use crate::postgres::control::SystemId;
use crate::postgres::lsn::Lsn;
use crate::restore::base::Base;
use crate::wal::header::{LONG_HEADER_SIZE, LongHeader};
use crate::wal::receive::Sources;
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};

/// The versions of PostgreSQL whose clusters Walden restores.
const VERSIONS: std::ops::RangeInclusive<u16> = 13..=18;

/// No segment is larger (`WalSegMaxSize` in src/include/access/xlog_internal.h).
const LARGEST_SEGMENT: u64 = 1 << 30;

/// What is known of a backup that WAL-E or WAL-G wrote. `wanted` is the cluster that was asked for.
///
/// # Errors
/// [`Kind::Incomplete`] if the first segment that its recovery needs is in neither archive; [`Kind::Refused`] for a backup of
/// another cluster, or of a version of PostgreSQL that is not known, and for one that contradicts its WAL.
pub(in crate::restore) async fn base(
    sources: &Sources,
    backup: &LegacyBackup,
    wanted: Option<SystemId>,
) -> Result<Base> {
    let name = &backup.name;
    let found = first_segment(sources, backup, wanted).await?;
    // Not damage, but WAL that belongs to another backup, as where two clusters wrote to one archive: others may be sound.
    let contradicts = |detail: String| {
        Err(Error::new(Kind::Refused, format!("backup {name} contradicts its WAL")).detail(detail).hint(
            "Two clusters may have written to one archive: restore another backup, walden backup-list prints them.",
        ))
    };
    if let Some(said) = backup.system_id.filter(|said| *said != found.system_id) {
        return contradicts(format!(
            "it is of system identifier {said}, segment {} of {}",
            name.segment, found.system_id
        ));
    }
    if let Some(wanted) = wanted.filter(|wanted| *wanted != found.system_id) {
        return Err(Error::new(Kind::Refused, format!("backup {name} is that of another cluster"))
            .detail(format!("its system identifier is {}, not {wanted}", found.system_id))
            .hint("Leave --system-id and WALDEN_SYSTEM_ID out, or choose another backup."));
    }
    let postgres = backup.postgres.or(found.postgres).unwrap_or_default();
    if !VERSIONS.contains(&postgres) {
        return Err(Error::new(Kind::Refused, format!("backup {name} is of PostgreSQL {postgres}"))
            .detail(format!("walden restores PostgreSQL {} to {}", VERSIONS.start(), VERSIONS.end()))
            .hint(format!("Restore it with {}, which wrote it.", backup.writer)));
    }
    let size = found.segment_size;
    let (Some(start), Some(stop)) = (backup.start.lsn(size), backup.stop.lsn(size)) else {
        return contradicts(format!("its positions do not lie in segments of {} bytes", size.bytes()));
    };
    let timeline = name.segment.timeline;
    if SegmentName::containing(timeline, start, size) != name.segment || stop < start {
        return contradicts(format!("it begins at {start} and ends at {stop}, in segments of {} bytes", size.bytes()));
    }
    Ok(Base {
        name: name.to_string(),
        writer: Some(backup.writer),
        system_id: found.system_id,
        postgres,
        started: backup.started,
        finished: backup.finished,
        finish_is_said: backup.finish_is_said,
        timeline,
        start,
        stop,
        segment_size: size,
        files: None,
        plain_size: backup.plain_size,
        stored_size: backup.stored_size.unwrap_or_default(),
        tablespaces: backup.tablespaces.clone(),
    })
}

/// What a segment says of itself.
struct Segment {
    system_id: SystemId,
    segment_size: SegmentSize,
    postgres: Option<u16>,
}

async fn first_segment(sources: &Sources, backup: &LegacyBackup, wanted: Option<SystemId>) -> Result<Segment> {
    let name = backup.name.segment;
    if let Some(found) = in_theirs(&sources.legacy, name).await? {
        return Ok(found);
    }
    let clusters = match backup.system_id.or(wanted) {
        Some(system) => vec![system],
        // An archive that is not there yet holds nothing.
        None => sources.archive.clusters().await.or_else(|error| match error.kind() {
            Kind::Config => Ok(Vec::new()),
            _ => Err(error),
        })?,
    };
    for system in clusters {
        if let Some(found) = in_ours(&sources.archive, system, name).await? {
            return Ok(found);
        }
    }
    Err(Error::new(Kind::Incomplete, format!("backup {} lacks WAL that it needs", backup.name))
        .detail(format!(
            "the segment that its recovery begins with, {name}, is neither in {} nor in {}",
            sources.legacy.store().url(""),
            sources.archive.store().url("")
        ))
        .hint("Choose another backup: walden backup-list prints them."))
}

async fn in_theirs(legacy: &Legacy, name: SegmentName) -> Result<Option<Segment>> {
    let Some(stored) = legacy.find(WalFile::Segment(name)).await? else { return Ok(None) };
    let header = legacy
        .read(&stored.key, stored.codec, LARGEST_SEGMENT, move |plain| {
            let mut first = Vec::with_capacity(LONG_HEADER_SIZE);
            plain.take(LONG_HEADER_SIZE as u64).read_to_end(&mut first).map_err(error_of)?;
            let header = LongHeader::parse(&first)?;
            // Its size is that of the file, which has not been read.
            header.check(name, header.segment_size.bytes())?;
            Ok(header)
        })
        .await?;
    Ok(Some(Segment { system_id: header.system_id, segment_size: header.segment_size, postgres: header.version() }))
}

async fn in_ours(archive: &Archive, system: SystemId, name: SegmentName) -> Result<Option<Segment>> {
    let key = Key::Wal(system, WalFile::Segment(name));
    let size = match archive.store().head(&key.to_string()).await {
        Err(error) if error.kind() == Kind::NotFound => return Ok(None),
        found => found?.size,
    };
    let file = archive.describe(&key, size).await?.file;
    let Some(segment_size) = file.segment_size.and_then(SegmentSize::new) else {
        return Err(Error::new(Kind::Corrupt, format!("{} does not say its segment size", archive.url(&key))));
    };
    Ok(Some(Segment { system_id: file.system_id, segment_size, postgres: file.postgres }))
}

/// Where the backup before a delta must begin for the delta to be one of it.
///
/// # Errors
/// [`Kind::Corrupt`] if it begins elsewhere, or is of another cluster.
pub(super) fn check_parent(backup: &LegacyBackup, parent: &LegacyBackup) -> Result<()> {
    let begins: Option<Lsn> = match parent.start {
        Position::Lsn(lsn) => Some(lsn),
        Position::Within(..) => None,
    };
    let same_cluster = backup.system_id.zip(parent.system_id).is_none_or(|(one, other)| one == other);
    if parent.writer == Writer::WalG && same_cluster && (backup.parent_start.is_none() || begins == backup.parent_start)
    {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("backup {} is no delta of backup {}", backup.name, parent.name)).detail(
        match (same_cluster, begins.zip(backup.parent_start)) {
            (false, _) => "they are backups of two clusters".to_owned(),
            (true, Some((begins, said))) => {
                format!("it is one of a backup that began at {said}, and that began at {begins}")
            }
            (true, None) => "that one was not written by WAL-G".to_owned(),
        },
    ))
}
