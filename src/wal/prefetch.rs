//! Fetching ahead during a recovery, so that replay does not wait for the network.
//!
//! A process of its own, started by `wal-fetch` when a segment has been handed over, keeps the segments that follow in
//! the spool: complete, checked, each under its own name. `wal-fetch` hands them over by a rename. That a segment is *not*
//! in the archive is never kept: who asks for it is told by the store.
//!
//! In the spool, `fetched/<id>/NAME` is a segment, `NAME.part` one that is being fetched, `wanted` names the segment that
//! was handed over last, and `fetched/lock` is held by the process. The id stands for the data directory, its cluster,
//! the archive, and the boot of the machine: files are not synced, so a crash of the machine makes them worthless.

mod worker;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;

pub use self::worker::run;
use crate::durable::{self, Staged};
use crate::error::{Context, Recovery, Result};
use crate::postgres::control::ControlFile;
use crate::postgres::datadir;
use crate::wal::receive;
use crate::wal::segment::{SegmentName, WalFile};
use crate::wal::spool::Spool;

/// Segments that are kept ahead, at most, however small they are.
const MAX_WINDOW: u64 = 64;

/// A segment that is being fetched and has not grown for so long is not waited for.
const STALLED_AFTER: Duration = Duration::from_millis(200);

/// Nor is one that grows waited for any longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at a segment that is being fetched.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// What fetching ahead is about, for one cluster in recovery.
#[derive(Clone, Debug)]
pub struct Ahead {
    data_directory: PathBuf,
    control: ControlFile,
    spool: Spool,
    /// `fetched/<id>` in the spool.
    directory: PathBuf,
    /// Segments that may be kept ahead; at least one.
    window: u64,
}

/// How a segment that was asked for got to PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It lay in the spool.
    Ready,
    /// It came into the spool a moment later.
    Waited,
    /// It was not there in time, and is fetched from the store.
    Missing,
}

impl Ahead {
    /// `None` outside a recovery, where nobody knows which segment is asked for next (`pg_rewind`, a person), and if not
    /// even one segment fits into `bytes`.
    pub fn during_recovery(
        data_directory: &Path,
        control: ControlFile,
        spool: &Spool,
        address: &str,
        bytes: u64,
    ) -> Option<Ahead> {
        let window = (bytes / control.segment_size.bytes()).min(MAX_WINDOW);
        if window == 0 || datadir::recovery_mode(data_directory) == Recovery::None {
            return None;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let place = data_directory.canonicalize().ok()?;
        let identity = format!("{}\n{}\n{address}\n{boot}", place.display(), control.system_id);
        let id = blake3::hash(identity.as_bytes()).to_hex();
        let directory = spool.fetched().join(&id[..16]);
        Some(Ahead { data_directory: data_directory.to_owned(), control, spool: spool.clone(), directory, window })
    }

    /// Notes which segment was handed over, and how. Best effort: without the note nothing is fetched ahead.
    pub fn note(&self, segment: SegmentName, taken: Taken) {
        let noted = fs::create_dir_all(&self.directory)
            .and_then(|()| Staged::beside(&self.wanted()))
            .and_then(|mut staged| {
                let slow = taken != Taken::Ready;
                staged.file().write_all(format!("{segment} {}\n", u8::from(slow)).as_bytes())?;
                Ok(staged)
            })
            .during(|| format!("could not write to the spool \"{}\"", self.directory.display()));
        if let Err(error) = noted.and_then(Staged::rename) {
            tracing::warn!("nothing is fetched ahead: {error}");
        }
    }

    /// Whether a process fetches ahead.
    pub fn is_served(&self) -> bool {
        match File::open(self.lock()) {
            Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err(),
            Err(_) => false,
        }
    }

    fn lock(&self) -> PathBuf {
        self.spool.fetched().join("lock")
    }

    fn wanted(&self) -> PathBuf {
        self.directory.join("wanted")
    }

    fn segment(&self, name: SegmentName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    fn part(&self, name: SegmentName) -> PathBuf {
        self.directory.join(format!("{name}{PART}"))
    }
}

const PART: &str = ".part";

/// Hands a segment over that was fetched ahead, by a rename. Waits for one that is being fetched, while it grows.
///
/// # Errors
/// If it is there and cannot be given the target's name.
pub fn take(ahead: &Ahead, name: SegmentName, target: &Path) -> Result<Taken> {
    let began = Instant::now();
    let mut waited = false;
    loop {
        // Asked before the segment is looked for: it may get its name in between.
        let comes = grows(&ahead.part(name));
        match File::open(ahead.segment(name)) {
            Ok(mut content) => return hand_over(ahead, name, &mut content, target, waited),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::info!("could not read what was fetched ahead: {error}");
                return Ok(Taken::Missing);
            }
            Err(_) if !comes || began.elapsed() > LONGEST_WAIT => return Ok(Taken::Missing),
            Err(_) => std::thread::sleep(LOOK_AGAIN_AFTER),
        }
        waited = true;
    }
}

/// Whether the file is there and was written to a moment ago.
fn grows(part: &Path) -> bool {
    let modified = fs::metadata(part).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age < STALLED_AFTER))
}

fn hand_over(ahead: &Ahead, name: SegmentName, content: &mut File, target: &Path, waited: bool) -> Result<Taken> {
    let path = ahead.segment(name);
    if let Err(error) = receive::check(WalFile::Segment(name), content, Some(&ahead.control)) {
        tracing::warn!("what was fetched ahead is not used: {error}");
        // Best effort: it is not used the next time either.
        let _ = fs::remove_file(path);
        return Ok(Taken::Missing);
    }
    match durable::hand_over(&path, target) {
        // The process that fetches ahead has ended, and has cleared away.
        Err(_) if !path.exists() => return Ok(Taken::Missing),
        outcome => outcome?,
    }
    Ok(if waited { Taken::Waited } else { Taken::Ready })
}
