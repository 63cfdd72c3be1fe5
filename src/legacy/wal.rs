//! The WAL of an archive of WAL-E or WAL-G: where a file lies there, and its content, which is checked by what is in it.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::Legacy;
use super::codec::{self, Codec, Decoded};
use crate::durable::{Staged, WRITTEN_AT_ONCE};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::legacy as keys;
use crate::postgres::control::{ControlFile, SystemId};
use crate::storage::{ListQuery, ObjectInfo, list_all};
use crate::wal::header::{self, LONG_HEADER_SIZE, LongHeader};
use crate::wal::pages::Pages;
use crate::wal::segment::{SegmentName, SegmentSize, WalFile};
use crate::wal::timeline::History;

/// The largest segment that PostgreSQL can have (`WalSegMaxSize` in src/include/access/xlog_internal.h).
const LARGEST_SEGMENT: u64 = 1 << 30;

/// The largest history file: one line of some 60 bytes for each timeline before.
const LARGEST_TEXT: u64 = 1 << 20;

/// A WAL file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key of its object.
    pub key: String,
    /// How that is compressed.
    pub codec: Codec,
}

impl Legacy {
    /// Where this WAL file lies. `None` only if it is certainly not there: the store has said so, of an archive that is
    /// there or need not be. Asks nobody where it is remembered that there is no such archive.
    ///
    /// # Errors
    /// Those of the store; [`Kind::Config`] if a setting names an archive that is not there.
    pub async fn find(&self, file: WalFile) -> Result<Option<Stored>> {
        if !self.may_be_there().await? {
            return Ok(None);
        }
        let stem = keys::wal_stem(file);
        let mut newest = None;
        let query = ListQuery { prefix: stem.clone(), ..ListQuery::default() };
        list_all(&**self.store(), query, |page| newest = choose(newest.take(), &stem, page.objects)).await?;
        match newest {
            Some((stored, _)) => Ok(Some(stored)),
            None => self.prove().await.map(|()| None),
        }
    }

    /// Reads a WAL file into `staged`. If this returns `Ok`, it is complete and is what its name says: the pages of a
    /// segment are those of that position, of this cluster.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for an object that is damaged or something else; [`Kind::Refused`] for a segment of another
    /// cluster.
    pub async fn receive(
        &self,
        file: WalFile,
        stored: &Stored,
        system: SystemId,
        control: Option<&ControlFile>,
        staged: Staged,
    ) -> Result<Staged> {
        let limit = match file {
            WalFile::Segment(_) | WalFile::Partial(_) => {
                control.map_or(LARGEST_SEGMENT, |control| control.segment_size.bytes())
            }
            WalFile::BackupHistory(..) | WalFile::History(_) => LARGEST_TEXT,
        };
        self.read(&stored.key, stored.codec, limit, move |plain| write(file, plain, system, staged)).await
    }
}

/// The object of the file among those that were listed; the newest of several, which differ in their codec alone.
fn choose(
    before: Option<(Stored, jiff::Timestamp)>,
    stem: &str,
    objects: Vec<ObjectInfo>,
) -> Option<(Stored, jiff::Timestamp)> {
    let named = objects.into_iter().filter_map(|object| match Codec::split(&object.key) {
        (name, codec) if name == stem => Some((Stored { codec, key: object.key }, object.modified)),
        _ => None,
    });
    before.into_iter().chain(named).max_by_key(|(_, modified)| *modified)
}

fn write(file: WalFile, plain: &mut Decoded, system: SystemId, mut staged: Staged) -> Result<Staged> {
    let size = copy(plain, staged.file())?;
    let what = || format!("could not read back \"{file}\"");
    let content = staged.file();
    content.seek(SeekFrom::Start(0)).during(what)?;
    match file {
        WalFile::Segment(name) => check_pages(name, content, system, size)?,
        WalFile::Partial(name) => drop(check_header(name, content, system, size)?),
        WalFile::History(timeline) => {
            let mut text = Vec::new();
            content.read_to_end(&mut text).during(what)?;
            // The name of a restore point in it is in the encoding of a database.
            History::parse(timeline, &String::from_utf8_lossy(&text))?;
        }
        WalFile::BackupHistory(..) => {
            // The first line of `build_backup_content` in src/backend/access/transam/xlogbackup.c.
            let mut start = Vec::new();
            content.take(BACKUP_HISTORY.len() as u64).read_to_end(&mut start).during(what)?;
            if start != BACKUP_HISTORY {
                return Err(not_such(file));
            }
        }
    }
    Ok(staged)
}

const BACKUP_HISTORY: &[u8] = b"START WAL LOCATION: ";

fn not_such(file: WalFile) -> Error {
    Error::new(Kind::Corrupt, format!("the content of \"{file}\" is not that of such a file"))
}

/// Copies to the end, and tells the errors of either side apart.
fn copy(plain: &mut Decoded, sink: &mut impl Write) -> Result<u64> {
    let mut buffer = vec![0; WRITTEN_AT_ONCE];
    let mut size = 0;
    loop {
        let count = match plain.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome.map_err(codec::error_of)?,
        };
        if count == 0 {
            return Ok(size);
        }
        sink.write_all(&buffer[..count]).during(|| "could not write the plain file")?;
        size += count as u64;
    }
}

fn check_header(name: SegmentName, content: &mut impl Read, system: SystemId, size: u64) -> Result<SegmentSize> {
    let mut first = Vec::new();
    content.take(LONG_HEADER_SIZE as u64).read_to_end(&mut first).during(|| "could not read back a segment")?;
    let header = LongHeader::parse(&first)?;
    header.check(name, size)?;
    header::check_system(name, header.system_id, system)?;
    Ok(header.segment_size)
}

/// Not all codecs carry a digest: that every page is the one of its place is what a segment itself can tell.
fn check_pages(name: SegmentName, content: &mut (impl Read + Seek), system: SystemId, size: u64) -> Result<()> {
    let what = || "could not read back a segment";
    let segment_size = check_header(name, content, system, size)?;
    content.seek(SeekFrom::Start(0)).during(what)?;
    let mut pages = Pages::of(name, system, segment_size);
    io::copy(content, &mut pages).during(what)?;
    pages.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::tests::any_wal_file;
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn listed(keys: &[String]) -> Vec<ObjectInfo> {
        let object = |(second, key): (i64, &String)| ObjectInfo {
            key: key.clone(),
            size: 1,
            modified: Timestamp::from_second(second).unwrap(),
        };
        (0..).zip(keys).map(object).collect()
    }

    proptest! {
        #[test]
        fn of_all_that_begins_with_a_name_its_own_newest_object_is_chosen(file in any_wal_file(), which in 0..7usize) {
            let stem = keys::wal_stem(file);
            let codec = Codec::ALL[which];
            let own = format!("{stem}{}", codec.extension());
            let others = ["_delta.lz4", ".json", ".partial.lz4", ".00000028.backup.zst", ".lzo.tmp", "0.lz4"];
            let mut keys: Vec<String> = others.iter().map(|rest| format!("{stem}{rest}")).collect();
            prop_assert_eq!(choose(None, &stem, listed(&keys)), None);
            keys.insert(0, format!("{stem}.lzo"));
            keys.push(own.clone());
            let (stored, _) = choose(None, &stem, listed(&keys)).unwrap();
            prop_assert_eq!(stored, Stored { key: own, codec });
        }
    }
}
