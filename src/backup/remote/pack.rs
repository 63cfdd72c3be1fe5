//! Packs what the server sends into a volume. There is one stream, so there is one volume; the slices of large files are
//! compressed by all workers, and appended in their order.

use std::sync::Arc;
use std::sync::mpsc as slices;

use tokio::sync::mpsc;

use super::manifest::Received;
use super::pages::StreamPages;
use crate::backup::listing::Listing;
use crate::backup::manifest::{File, Line};
use crate::backup::pack::{Slice, add_content};
use crate::backup::volume::VolumeWriter;
use crate::error::{Error, Kind, Result};
use crate::pipeline::blocking;
use crate::postgres::control::CONTROL_FILE;
use crate::postgres::datadir;
use crate::postgres::entry::Directory;

/// What there is to pack, in the order of the stream.
pub(super) enum Unit {
    /// A directory.
    Directory(Directory),
    /// A file that shares frames with others.
    Small(File, Vec<u8>),
    /// A file begins that has frames of its own.
    Large(File),
    /// Some of it, as soon as a worker has compressed it.
    Slice(slices::Receiver<Result<Slice>>),
    /// The file ends.
    EndLarge,
}

/// Packs.
pub(super) struct Packer {
    pub(super) volume: VolumeWriter,
    pub(super) listing: Arc<Listing>,
    pub(super) pages: Arc<StreamPages>,
    received: Received,
    last: LastFiles,
    large: Option<(File, Fate)>,
}

/// The files that are stored last of all, whenever they come.
#[derive(Debug, Default)]
pub(super) struct LastFiles {
    pub(super) control: Option<(File, Vec<u8>)>,
    pub(super) label: Option<(File, Vec<u8>)>,
    pub(super) map: Option<(File, Vec<u8>)>,
}

/// All that came.
pub(super) struct Packed {
    /// Can still take more.
    pub(super) volume: VolumeWriter,
    pub(super) received: Received,
    pub(super) last: LastFiles,
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stored,
    StoredLast,
    /// The server sends it, and it does not belong into a backup of ours.
    LeftOut,
}

fn fate(path: &str) -> Fate {
    match path {
        CONTROL_FILE | "backup_label" | "tablespace_map" => Fate::StoredLast,
        _ if datadir::is_left_out(path) => Fate::LeftOut,
        _ => Fate::Stored,
    }
}

impl Packer {
    pub(super) fn new(volume: VolumeWriter, listing: Arc<Listing>, pages: Arc<StreamPages>) -> Packer {
        let (received, last, large) = Default::default();
        Packer { volume, listing, pages, received, last, large }
    }

    /// Packs until there are no more units.
    pub(super) async fn run(mut self, mut units: mpsc::Receiver<Unit>) -> Result<Packed> {
        blocking(move || {
            while let Some(unit) = units.blocking_recv() {
                self.pack(unit)?;
            }
            Ok(Packed { volume: self.volume, received: self.received, last: self.last })
        })
        .await
    }

    fn pack(&mut self, unit: Unit) -> Result<()> {
        match unit {
            Unit::Directory(directory) => {
                self.volume.add_directory(&directory)?;
                self.listing.add(&Line::Dir(directory))
            }
            Unit::Small(file, content) => self.small(file, content),
            Unit::Large(file) => self.begin(file),
            Unit::Slice(slice) => self.slice(slice),
            Unit::EndLarge => self.end(),
        }
    }

    fn small(&mut self, file: File, content: Vec<u8>) -> Result<()> {
        self.received.add(&file.path, content.len() as u64, crc32c::crc32c(&content))?;
        self.pages.check(&file.path, 0, &content);
        match fate(&file.path) {
            Fate::Stored => {
                let file = add_content(&mut self.volume, file, &content)?;
                self.listing.add(&Line::File(file))
            }
            Fate::StoredLast => {
                let place = match file.path.as_str() {
                    CONTROL_FILE => &mut self.last.control,
                    "backup_label" => &mut self.last.label,
                    _ => &mut self.last.map,
                };
                *place = Some((file, content));
                Ok(())
            }
            Fate::LeftOut => Ok(()),
        }
    }

    fn begin(&mut self, mut file: File) -> Result<()> {
        let fate = fate(&file.path);
        match fate {
            Fate::Stored => file.at = self.volume.begin_large(&file)?,
            Fate::StoredLast => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("the server sent \"{}\" with {} bytes", file.path, file.size),
                ));
            }
            Fate::LeftOut => {}
        }
        self.large = Some((file, fate));
        Ok(())
    }

    fn slice(&mut self, slice: slices::Receiver<Result<Slice>>) -> Result<()> {
        let lost = |_| Error::new(Kind::Bug, "a worker ended without a result");
        let slice = slice.recv().map_err(lost)??;
        let Some((file, fate)) = &mut self.large else { return Err(no_file()) };
        file.crc32c = crc32c::crc32c_combine(file.crc32c, slice.crc32c, slice.frame.plain as usize);
        if *fate == Fate::Stored {
            self.volume.add_frame(slice.frame, &slice.stored)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some((file, fate)) = self.large.take() else { return Err(no_file()) };
        self.received.add(&file.path, file.size, file.crc32c)?;
        if fate == Fate::Stored {
            self.volume.end_large(&file)?;
            self.listing.add(&Line::File(file))?;
        }
        Ok(())
    }
}

fn no_file() -> Error {
    Error::new(Kind::Bug, "a slice belongs to no file")
}
