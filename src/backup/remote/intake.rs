//! Takes in what the server sends, and hands it to the packer and its workers, no faster than they get it done.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::manifest::ServerManifest;
use super::pack::Unit;
use super::pages::StreamPages;
use super::untar::{Event as Entry, Untar};
use crate::backup::manifest::{FRAME_SIZE, File};
use crate::backup::pack::compress;
use crate::codec::StreamDecoder;
use crate::error::{Error, Kind, Result};
use crate::observe::{Event, Observer};
use crate::postgres::client::{Piece, Transfer};
use crate::postgres::entry::{Directory, Tablespace};

/// What takes in.
pub(super) struct Intake<'a> {
    /// Where to.
    pub(super) units: &'a mpsc::Sender<Unit>,
    /// The workers.
    pub(super) pool: &'a rayon::ThreadPool,
    pub(super) level: i32,
    pub(super) pages: &'a Arc<StreamPages>,
    /// Permission bits of the directories that the server does not send.
    pub(super) directory_mode: u32,
    pub(super) observer: &'a Arc<dyn Observer>,
}

/// What came besides files.
pub(super) struct Taken {
    pub(super) manifest: ServerManifest,
    /// How far the server's clock is ahead of ours, at least; negative if it is behind, or was slow to send.
    pub(super) ahead: SignedDuration,
}

/// A file that is coming.
struct Coming {
    file: File,
    /// Bytes of it before those in `buffer`.
    offset: u64,
    buffer: Vec<u8>,
}

impl Intake<'_> {
    /// Takes in everything.
    ///
    /// # Errors
    /// Those of the transfer; [`Kind::Unreachable`] if there is no packer any more, which then knows why.
    pub(super) async fn run(&self, transfer: &mut Transfer) -> Result<Taken> {
        let archives = transfer.archives.clone();
        let mut taken = Taken { manifest: ServerManifest::new(), ahead: SignedDuration::ZERO };
        let mut archive: Option<Archive<'_>> = None;
        while let Some(piece) = transfer.next().await? {
            match piece {
                Piece::Archive(number) => {
                    end(archive.take())?;
                    archive = Some(self.begin(archives[number].as_ref(), &archives, transfer.compressed).await?);
                }
                Piece::Manifest => end(archive.take())?,
                Piece::Data(bytes) => match &mut archive {
                    Some(archive) => self.feed(archive, bytes, &mut taken).await?,
                    None => taken.manifest.push(&bytes)?,
                },
            }
        }
        Ok(taken)
    }

    async fn begin<'b>(
        &self,
        tablespace: Option<&Tablespace>,
        all: &'b [Option<Tablespace>],
        compressed: bool,
    ) -> Result<Archive<'b>> {
        let place = tablespace.map(|tablespace| format!("pg_tblspc/{}", tablespace.oid));
        if let (Some(path), Some(tablespace)) = (&place, tablespace)
            && tablespace.location.is_relative()
        {
            // It lies in the data directory (`allow_in_place_tablespaces`), and only what is in it is sent.
            self.send(Unit::Directory(Directory { path: path.clone(), mode: self.directory_mode })).await?;
        }
        let prefix = place.map_or(String::new(), |path| format!("{path}/"));
        let decoder = compressed.then(StreamDecoder::new).transpose()?;
        Ok(Archive { prefix, tablespaces: all, decoder, untar: Untar::default(), coming: None })
    }

    async fn feed(&self, archive: &mut Archive<'_>, bytes: Bytes, taken: &mut Taken) -> Result<()> {
        let Some(decoder) = &mut archive.decoder else { return self.unpack(archive, bytes, taken).await };
        decoder.push(bytes);
        while let Some(plain) = archive.decoder.as_mut().map_or(Ok(None), StreamDecoder::take)? {
            self.unpack(archive, plain, taken).await?;
        }
        Ok(())
    }

    async fn unpack(&self, archive: &mut Archive<'_>, bytes: Bytes, taken: &mut Taken) -> Result<()> {
        self.observer.notice(Event::Advanced(bytes.len() as u64));
        archive.untar.push(bytes);
        while let Some(entry) = archive.untar.next()? {
            match entry {
                Entry::Directory { path, mode } => {
                    let path = format!("{}{path}", archive.prefix);
                    if !archive.is_tablespace(&path) {
                        self.send(Unit::Directory(Directory { path, mode })).await?;
                    }
                }
                Entry::Link { path } if archive.is_tablespace(&path) => {}
                Entry::Link { path } => {
                    let text = format!("\"{path}\" is not backed up: it is a symbolic link");
                    self.observer.notice(Event::Warning(text));
                }
                Entry::File { path, size, mode, modified } => {
                    let path = format!("{}{path}", archive.prefix);
                    if path == "backup_label" {
                        // The server makes it while it sends it, so its time is now (`sendFileWithContent`).
                        taken.ahead = modified.duration_since(Timestamp::now());
                    }
                    let file = File { path, size, mode, modified, crc32c: 0, at: Vec::new() };
                    archive.coming = self.begin_file(file).await?;
                }
                Entry::Data(bytes) => self.more(&mut archive.coming, bytes).await?,
            }
        }
        Ok(())
    }

    async fn begin_file(&self, file: File) -> Result<Option<Coming>> {
        if file.size == 0 {
            self.send(Unit::Small(file, Vec::new())).await?;
            return Ok(None);
        }
        if file.size >= FRAME_SIZE as u64 {
            self.send(Unit::Large(file.clone())).await?;
        }
        let buffer = Vec::with_capacity(file.size.min(FRAME_SIZE as u64) as usize);
        Ok(Some(Coming { file, offset: 0, buffer }))
    }

    /// Adds bytes to a file, and hands on what is a slice, or the whole.
    async fn more(&self, coming: &mut Option<Coming>, mut bytes: Bytes) -> Result<()> {
        let Some(Coming { file, offset, buffer }) = coming else {
            return Err(Error::new(Kind::Bug, "bytes belong to no file"));
        };
        while !bytes.is_empty() {
            let now = bytes.split_to((FRAME_SIZE - buffer.len()).min(bytes.len()));
            buffer.extend_from_slice(&now);
            let ends = *offset + buffer.len() as u64 == file.size;
            if file.size < FRAME_SIZE as u64 {
                if ends {
                    self.send(Unit::Small(file.clone(), std::mem::take(buffer))).await?;
                }
            } else if ends || buffer.len() == FRAME_SIZE {
                let left = file.size - *offset - buffer.len() as u64;
                let next = Vec::with_capacity(left.min(FRAME_SIZE as u64) as usize);
                let slice = std::mem::replace(buffer, next);
                let length = slice.len() as u64;
                self.send(self.slice(&file.path, *offset, slice)).await?;
                *offset += length;
                if ends {
                    self.send(Unit::EndLarge).await?;
                }
            }
        }
        Ok(())
    }

    /// Has a worker compress and verify this.
    fn slice(&self, path: &str, offset: u64, content: Vec<u8>) -> Unit {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let (pages, level, path) = (self.pages.clone(), self.level, path.to_owned());
        self.pool.spawn_fifo(move || {
            pages.check(&path, offset, &content);
            // Nobody waits for it when the backup has failed.
            let _ = sender.send(compress(&content, level));
        });
        Unit::Slice(receiver)
    }

    async fn send(&self, unit: Unit) -> Result<()> {
        let closed = |_| Error::new(Kind::Unreachable, "what the server sends can no longer be packed");
        self.units.send(unit).await.map_err(closed)
    }
}

fn end(archive: Option<Archive<'_>>) -> Result<()> {
    let Some(Archive { decoder, untar, .. }) = archive else { return Ok(()) };
    decoder.map_or(Ok(()), |decoder| decoder.end())?;
    untar.end()
}

/// An archive that is coming.
struct Archive<'a> {
    /// What its paths begin with in the data directory.
    prefix: String,
    tablespaces: &'a [Option<Tablespace>],
    /// Where the server compresses it.
    decoder: Option<StreamDecoder>,
    untar: Untar,
    coming: Option<Coming>,
}

impl Archive<'_> {
    /// Is this where a tablespace is mounted, which has an archive of its own?
    fn is_tablespace(&self, path: &str) -> bool {
        let oid = path.strip_prefix("pg_tblspc/").and_then(|oid| oid.parse::<u32>().ok());
        oid.is_some() && self.tablespaces.iter().flatten().any(|tablespace| Some(tablespace.oid) == oid)
    }
}
