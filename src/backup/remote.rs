//! `backup-push --remote`: a base backup that the server sends over a replication connection, for hosts that cannot see its
//! files (docs/decisions/remote-backups.md). What it stores is the same as that of a backup of files.
//!
//! Nothing that it stores counts before the short manifest is there, which comes last.

mod intake;
mod manifest;
mod pack;
mod pages;
mod untar;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use self::intake::{Intake, Taken};
use self::pack::{LastFiles, Packed, Packer};
use self::pages::StreamPages;
use super::catalogue;
use super::copy::{Storing, finish, finish_list};
use super::damage::PageCheck;
use super::listing::{Listed, Listing};
use super::manifest::{Backup, Method};
use super::plan::Shape;
use super::preflight::{RemoteReady, remote};
use super::push::{Facts, LABEL, Options, complete};
use super::volume::{PartShape, VolumeWriter};
use super::{pages as verification, session};
use crate::archive::Archive;
use crate::config::value::RemoteCompression;
use crate::crypt::Recipient;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::BackupId;
use crate::observe::{Event, Observer};
use crate::pipeline::{self, blocking, joined};
use crate::postgres::client::{BaseBackup, Client, Ended, Homes, Replication, Sender, Transfer};
use crate::postgres::control::ControlFile;
use crate::postgres::entry::{Database, Tablespace};
use crate::postgres::label::BackupLabel;
use crate::wal::segment::SegmentName;

/// Takes a base backup. `Ok` means what it means for [`super::push::push`].
///
/// # Errors
/// Any, at any point, leaves no backup, only parts of one that nobody takes for a backup.
pub async fn push(
    archive: &Archive,
    replication: Replication,
    options: &Options,
    observer: &Arc<dyn Observer>,
) -> Result<Backup> {
    let shape = Shape::within(options.memory_limit, options.workers, options.part_size, options.level)?;
    let RemoteReady { replication, sender, session } = remote(archive, replication, observer).await?;
    // What cannot be encrypted as it is wanted is not begun.
    let to = archive.fresh_data_key(sender.system_id).await?;
    observer.notice(Event::Phase { name: "waiting for a checkpoint".into(), bytes: None });
    let before = homes(session.as_ref()).await?;
    let tablespaces_before = tablespaces(session.as_ref()).await?;
    let label = options.marks.label.as_deref().unwrap_or(LABEL);
    let compressed = options.remote_compression == RemoteCompression::Zstd;
    let transfer = replication.base_backup(&BaseBackup { label, max_rate: options.max_rate, compressed }).await?;
    let tablespaces_now = tablespaces(session.as_ref()).await?;
    check_none_is_left_out(&tablespaces_before, &tablespaces_now, &transfer.archives, sender.major)?;
    let started = Timestamp::now();
    let segment = SegmentName::containing(transfer.timeline, transfer.start, sender.segment_size);
    let id = catalogue::free_id(archive, sender.system_id, started, segment).await?;
    let receiving =
        Receiving { archive, session: session.as_ref(), options, observer, id, sender: &sender, shape, to: to.clone() };
    let tablespaces = outside(&transfer.archives);
    let (listed, known) = receiving.receive(transfer).await.during(|| format!("could not take backup {id}"))?;
    before.check_unmoved(&homes(session.as_ref()).await?)?;
    let Known { label, from_standby, ended, pages, ahead } = known;
    let facts = Facts {
        id,
        system_id: sender.system_id,
        postgres: sender.major,
        started,
        finished: finished(Timestamp::now(), ahead),
        label,
        stop: ended.stop,
        segment_size: sender.segment_size,
        data_checksums: sender.data_checksums,
        directory_mode: sender.directory_mode,
        tablespaces,
        databases: databases(session.as_ref(), observer).await,
        pages,
        from_standby,
        method: Method::Remote,
        to,
        interrupted: None,
    };
    complete(archive, session.as_ref(), options, observer, facts, listed).await
}

/// Recoveries stop by the server's clock. Where that is ahead of ours, the backup ended later than we think; that it looks
/// behind may as well mean that it was slow to send. Files have whole seconds, so up to one more may have passed.
fn finished(now: Timestamp, ahead: SignedDuration) -> Timestamp {
    let second = SignedDuration::from_secs(1);
    if ahead < second { now } else { now.saturating_add(ahead + second).unwrap_or(now) }
}

/// The tablespaces that lie outside the data directory: those within it have a relative location
/// (`allow_in_place_tablespaces`).
fn outside(archives: &[Option<Tablespace>]) -> Vec<Tablespace> {
    archives.iter().flatten().filter(|tablespace| tablespace.location.is_absolute()).cloned().collect()
}

/// The tablespaces, where there is a session to ask; none otherwise.
async fn tablespaces(session: Option<&Client>) -> Result<BTreeMap<u32, String>> {
    match session {
        Some(session) => session.tablespaces().await,
        None => Ok(BTreeMap::new()),
    }
}

/// PostgreSQL before version 16 passes over a tablespace that lies in the data directory, and its manifest as well
/// (`do_pg_backup_start` in src/backend/access/transam/xlog.c: anything in pg_tblspc that is no symbolic link).
///
/// # Errors
/// [`Kind::Refused`] if the server does not announce one that was there before the backup began, and still is. One that was
/// dropped or created meanwhile is in the WAL.
fn check_none_is_left_out(
    before: &BTreeMap<u32, String>,
    now: &BTreeMap<u32, String>,
    announced: &[Option<Tablespace>],
    major: u16,
) -> Result<()> {
    let is_announced = |oid: u32| announced.iter().flatten().any(|tablespace| tablespace.oid == oid);
    let left_out = before.iter().find(|(oid, _)| now.contains_key(oid) && !is_announced(**oid));
    let Some((_, name)) = left_out else { return Ok(()) };
    Err(Error::new(Kind::Refused, format!("the server does not send the tablespace \"{name}\""))
        .detail(format!(
            "PostgreSQL {major} leaves out what lies in its data directory (allow_in_place_tablespaces); 16 does not"
        ))
        .hint("Take the backup on the server's host, without --remote."))
}

/// Where the databases lie, where there is a session to ask; of none otherwise.
async fn homes(session: Option<&Client>) -> Result<Homes> {
    match session {
        Some(session) => session.homes().await,
        None => Ok(Homes::default()),
    }
}

/// The databases, where there is a session to ask: without them no single one can be restored by its name.
async fn databases(session: Option<&Client>, observer: &Arc<dyn Observer>) -> Vec<Database> {
    let Some(session) = session else { return Vec::new() };
    match session.databases().await {
        Ok(databases) => databases,
        Err(error) => {
            let text = format!("no single database can be restored from this backup by its name: {error}");
            observer.notice(Event::Warning(text));
            Vec::new()
        }
    }
}

/// One backup's receiving.
struct Receiving<'a> {
    archive: &'a Archive,
    session: Option<&'a Client>,
    options: &'a Options,
    observer: &'a Arc<dyn Observer>,
    id: BackupId,
    sender: &'a Sender,
    shape: Shape,
    /// The data key that everything is encrypted for, if it is.
    to: Option<Recipient>,
}

/// What is known of the backup when all of it has come.
struct Known {
    label: BackupLabel,
    from_standby: bool,
    ended: Ended,
    pages: Option<PageCheck>,
    ahead: SignedDuration,
}

impl Receiving<'_> {
    async fn receive(&self, transfer: Transfer) -> Result<(Listed, Known)> {
        if self.sender.data_checksums && !self.sender.usual_build {
            let text = "page checksums are not verified: the server was built with other pages or files than usual";
            self.observer.notice(Event::Warning(text.into()));
        }
        let pages = Arc::new(StreamPages::new(self.sender.data_checksums && self.sender.usual_build, transfer.start));
        let listing = Arc::new(Listing::begin(self.id, self.to.is_some(), None)?);
        let (parts, storing) =
            Storing::begin(self.archive, self.sender.system_id, self.id, self.shape.uploads, &listing);
        let part = PartShape { size: self.shape.part_size, to: self.to.clone() };
        let volume = VolumeWriter::new(0, self.options.level, part, parts)?;
        let packer = Packer::new(volume, listing.clone(), pages.clone());
        let name =
            format!("receiving {} tablespaces and the data directory", transfer.archives.len().saturating_sub(1));
        self.observer.notice(Event::Phase { name, bytes: Some(transfer.bytes) });
        let received = async {
            let (Packed { volume, received, last }, taken, ended) = self.pack(packer, transfer, &pages).await?;
            let manifest = taken.manifest;
            blocking(move || manifest.compare(received)).await?;
            let known = self.know(&last, ended, taken.ahead, &pages).await?;
            let list = listing.clone();
            let last = [last.control, last.label, last.map].into_iter().flatten().collect();
            blocking(move || finish(vec![volume], last, &list)).await?;
            Ok(known)
        };
        let known = match received.await {
            Ok(known) => known,
            Err(error) => return Err(storing.first_cause(error).await),
        };
        storing.finish().await?;
        Ok((finish_list(listing)?, known))
    }

    /// Checks what came as a whole, and judges its pages.
    async fn know(&self, last: &LastFiles, ended: Ended, ahead: SignedDuration, pages: &StreamPages) -> Result<Known> {
        let (Some((_, label)), Some((_, control))) = (&last.label, &last.control) else {
            return Err(Error::new(Kind::Corrupt, "the server sent no backup_label, or no global/pg_control"));
        };
        let text = String::from_utf8_lossy(label);
        let label = BackupLabel::parse(&text)?;
        let control = ControlFile::parse(control)?;
        if control.system_id != self.sender.system_id {
            return Err(Error::new(Kind::Corrupt, "the server sent the control file of another cluster")
                .detail(format!("its system identifier is {}", control.system_id)));
        }
        let from_standby = text.lines().any(|line| line == "BACKUP FROM: standby");
        if label.timeline != ended.timeline {
            return Err(session::followed(label.timeline, ended.timeline));
        }
        let pages = self.judge(ended, pages).await?;
        Ok(Known { label, from_standby, ended, pages, ahead })
    }

    /// The server's verdict and ours must be the same.
    async fn judge(&self, ended: Ended, pages: &StreamPages) -> Result<Option<PageCheck>> {
        let check = pages.judge();
        if ended.damaged && check.as_ref().is_none_or(|check| check.damaged == 0) {
            return Err(Error::new(Kind::Damaged, "the server found damaged pages")
                .detail("what it sent shows none")
                .hint("Look for \"checksum verification failed\" in the server's log."));
        }
        let Some(check) = check else { return Ok(None) };
        verification::tell(check, self.session, self.options.on_corruption, self.observer).await.map(Some)
    }

    /// Receives and packs at the same time.
    async fn pack(
        &self,
        packer: Packer,
        mut transfer: Transfer,
        pages: &Arc<StreamPages>,
    ) -> Result<(Packed, Taken, Ended)> {
        let pool = pipeline::threads(self.shape.workers, "pack")?;
        // As many slices wait as workers compress: with those in two hands, what `Shape` counts.
        let (units, receiver) = mpsc::channel(self.shape.workers);
        let packing = tokio::spawn(packer.run(receiver));
        let intake = Intake {
            units: &units,
            pool: &pool,
            level: self.options.level,
            pages,
            directory_mode: self.sender.directory_mode,
            observer: self.observer,
        };
        let taken = tokio::select! {
            taken = intake.run(&mut transfer) => taken,
            ended = self.voided() => Err(ended),
        };
        match taken {
            // Nobody packs any more, and the reason is there.
            Err(_) if units.is_closed() => {
                drop(units);
                joined(packing.await).and_then(|_| Err(Error::new(Kind::Bug, "packing ended too early")))
            }
            Err(error) => Err(error),
            Ok(taken) => {
                drop(units);
                Ok((joined(packing.await)?, taken, transfer.ended()?))
            }
        }
    }

    /// The session, where there is one, notices the end of the server even while the store makes us wait.
    async fn voided(&self) -> Error {
        match self.session {
            Some(session) => session::voided(session, self.sender.in_recovery).await,
            None => std::future::pending().await,
        }
    }
}
