//! When the transactions of a segment ended. Pure: bytes in, a time out, a record at a time.
//!
//! Reads the headers of records and the first bytes of those that end a transaction; all else is passed over. Judges
//! nothing: what is no record is the end of them.

use std::io::{self, Write};

use jiff::{SignedDuration, Timestamp};

use crate::postgres::bytes::u32_at;

/// Bytes of a page header: of the first page of a segment, and of all others (`SizeOfXLogLongPHD` and `SizeOfXLogShortPHD`
/// in src/include/access/xlog_internal.h).
const LONG_PAGE_HEADER: usize = 40;
const SHORT_PAGE_HEADER: usize = 24;

/// The least page size that a server can be built with (`XLOG_BLCKSZ`; --with-wal-blocksize takes 1 to 64 kB).
const SMALLEST_PAGE: u64 = 1024;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
const CONTINUES: u16 = 0x0001;

/// Bytes of a record's header (`SizeOfXLogRecord` in src/include/access/xlogrecord.h).
const RECORD_HEADER: usize = 24;

/// So much of a record is kept: its header, and what comes before the time of a transaction's end. That is at most the
/// origin (3 bytes), the top-level transaction (5) and the length of the data (5).
const KEPT: usize = RECORD_HEADER + 3 + 5 + 5 + 8;

/// `RM_XACT_ID`, the second in src/include/access/rmgrlist.h.
const TRANSACTIONS: u8 = 1;

/// `XLOG_XACT_OPMASK`, and the ends of transactions below it: commits and aborts, plain and prepared
/// (src/include/access/xact.h).
const OPERATION: u8 = 0x70;
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];

/// A sink for the bytes of a segment.
#[derive(Debug)]
pub struct Commits {
    /// Bytes so far.
    position: u64,
    page_size: u64,
    page_header: Vec<u8>,
    /// The beginning of the record that is being read.
    record: Vec<u8>,
    /// Bytes that are passed over before the next record, or before the rest of this one.
    skip: u64,
    /// Nothing but zeros is to come.
    over: bool,
    /// The time in the record that is being read, which does not count before its end has come.
    pending: Option<Timestamp>,
    latest: Option<Timestamp>,
}

impl Default for Commits {
    fn default() -> Commits {
        Commits {
            position: 0,
            // Until the first page says it.
            page_size: u64::MAX,
            page_header: Vec::with_capacity(LONG_PAGE_HEADER),
            record: Vec::with_capacity(KEPT),
            skip: 0,
            over: false,
            pending: None,
            latest: None,
        }
    }
}

impl Commits {
    /// The latest time at which a transaction ended, by the clock of the server; `None` if no transaction did.
    pub fn latest(&self) -> Option<Timestamp> {
        self.latest
    }

    /// The time of a transaction whose last record goes on in the next segment.
    pub fn unfinished(&self) -> Option<Timestamp> {
        self.pending
    }

    /// Takes some of `bytes` and returns how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let in_page = self.position % self.page_size;
        let header = if self.position < LONG_PAGE_HEADER as u64 { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER };
        let taken = if in_page < header as u64 {
            let taken = bytes.len().min(header - in_page as usize);
            self.page_header.extend_from_slice(&bytes[..taken]);
            if self.page_header.len() == header {
                self.begin_page();
            }
            taken
        } else {
            let rest = (self.page_size - in_page).min(bytes.len() as u64) as usize;
            self.content(&bytes[..rest])
        };
        self.position += taken as u64;
        taken
    }

    /// The header of a page is complete (`XLogPageHeaderData`).
    fn begin_page(&mut self) {
        let header = std::mem::take(&mut self.page_header);
        let first = header.len() == LONG_PAGE_HEADER;
        if first {
            match u64::from(u32_at(&header, 36)) {
                size if size.is_power_of_two() && size >= SMALLEST_PAGE => self.page_size = size,
                // No page will begin any more.
                _ => self.over = true,
            }
        }
        let continues = u16::from_le_bytes([header[2], header[3]]) & CONTINUES != 0;
        if !continues {
            // A record that was to go on here and does not was given up in a crash.
            (self.skip, self.pending, self.over) = (0, None, self.over && first);
            self.record.clear();
        } else if first {
            self.skip = aligned(u64::from(u32_at(&header, 16)));
        }
    }

    /// Takes some of what is in a page.
    fn content(&mut self, bytes: &[u8]) -> usize {
        if self.over {
            return bytes.len();
        }
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            self.end_record();
            return skipped as usize;
        }
        let wanted = match self.length() {
            None => 4 - self.record.len(),
            Some(length) => KEPT.min(length as usize) - self.record.len(),
        };
        let taken = wanted.min(bytes.len());
        self.record.extend_from_slice(&bytes[..taken]);
        if let Some(length) = self.length() {
            if (length as usize) < RECORD_HEADER {
                // Zeros, after the last record or a switch.
                self.over = true;
            } else if self.record.len() == KEPT.min(length as usize) {
                self.note();
                self.skip = aligned(u64::from(length)) - self.record.len() as u64;
                self.record.clear();
                self.end_record();
            }
        }
        taken
    }

    /// If all of a record has come, its time counts.
    fn end_record(&mut self) {
        if self.skip == 0 {
            self.latest = self.latest.max(self.pending.take());
        }
    }

    /// `xl_tot_len`, when it has come.
    fn length(&self) -> Option<u32> {
        (self.record.len() >= 4).then(|| u32_at(&self.record, 0))
    }

    /// Takes the time out of a record that ends a transaction: it is the first thing in the data of `xl_xact_commit` and
    /// `xl_xact_abort`. What may come before is read as in `DecodeXLogRecord` (src/backend/access/transam/xlogreader.c).
    fn note(&mut self) {
        let (info, manager) = (self.record[16], self.record[17]);
        if manager != TRANSACTIONS || !ENDS.contains(&(info & OPERATION)) {
            return;
        }
        let mut rest = &self.record[RECORD_HEADER..];
        while let Some((&id, after)) = rest.split_first() {
            let size = match id {
                // The data itself, behind its length in one byte or in four.
                255 => 1,
                254 => 4,
                // The origin of a replicated transaction, and the top-level transaction.
                253 => 2,
                252 => 4,
                _ => return,
            };
            let Some(after) = after.get(size..) else { return };
            rest = after;
            if id >= 254 {
                break;
            }
        }
        let time = rest.first_chunk().map(|bytes| i64::from_le_bytes(*bytes)).and_then(time);
        self.pending = time;
    }
}

impl Write for Commits {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < bytes.len() {
            taken += self.take(&bytes[taken..]);
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `TimestampTz`: microseconds since the beginning of 2000 in UTC (src/include/datatype/timestamp.h).
fn time(microseconds: i64) -> Option<Timestamp> {
    const EPOCH: Timestamp = Timestamp::constant(946_684_800, 0);
    EPOCH.checked_add(SignedDuration::from_micros(microseconds)).ok()
}

/// Records begin at multiples of 8 (`MAXALIGN`), and so do the headers of pages end.
fn aligned(size: u64) -> u64 {
    size.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 8192;

    /// What a record is made of: manager, info, and what follows the header.
    #[derive(Clone, Debug)]
    struct Record {
        manager: u8,
        info: u8,
        body: Vec<u8>,
    }

    fn ending(info: u8, before: &[u8], microseconds: i64, more: usize) -> Record {
        let mut body = before.to_vec();
        body.extend(microseconds.to_le_bytes());
        body.extend(vec![0xAB; more]);
        Record { manager: TRANSACTIONS, info, body }
    }

    /// A segment as a server writes it: `rest` bytes of an earlier record, then these, cut into pages.
    fn segment(rest: usize, records: &[Record]) -> Vec<u8> {
        let mut stream: Vec<(u8, usize)> = Vec::new();
        let mut add = |bytes: Vec<u8>| {
            let size = bytes.len().next_multiple_of(8);
            let total = bytes.len();
            stream.extend(bytes.into_iter().chain(std::iter::repeat(0)).take(size).enumerate().map(|(at, byte)| {
                // How much of the record is still to come, this byte included.
                (byte, if at == 0 { 0 } else { total.saturating_sub(at) })
            }));
        };
        if rest > 0 {
            add(vec![0xCD; rest]);
        }
        for Record { manager, info, body } in records {
            let mut bytes = ((RECORD_HEADER + body.len()) as u32).to_le_bytes().to_vec();
            bytes.extend([7; 12]);
            bytes.extend([*info, *manager, 0, 0, 9, 9, 9, 9]);
            bytes.extend(body);
            add(bytes);
        }
        let mut segment = Vec::new();
        let mut stream = stream.into_iter().peekable();
        let mut first = true;
        while stream.peek().is_some() {
            let to_come = if first { rest } else { stream.peek().unwrap().1 };
            let info = (u16::from(to_come > 0) * CONTINUES) | if first { 2 } else { 0 };
            let mut page = vec![0x10, 0xD1];
            page.extend(info.to_le_bytes());
            page.extend([0; 12]);
            page.extend((to_come as u32).to_le_bytes());
            page.extend([0; 4]);
            if first {
                page.extend([0; 12]);
                page.extend((PAGE as u32).to_le_bytes());
            }
            first = false;
            page.extend(stream.by_ref().take(PAGE - page.len()).map(|(byte, _)| byte));
            segment.extend(page);
        }
        segment.resize(segment.len().next_multiple_of(PAGE) + 2 * PAGE, 0);
        segment
    }

    fn latest(segment: &[u8], chunk: usize) -> Option<Timestamp> {
        let mut commits = Commits::default();
        segment.chunks(chunk).for_each(|chunk| commits.write_all(chunk).unwrap());
        commits.latest()
    }

    #[test]
    fn every_way_to_end_a_transaction_has_its_time() {
        let short: &[u8] = &[255, 8];
        let long: &[u8] = &[254, 8, 1, 0, 0];
        let origin: &[u8] = &[253, 1, 0, 255, 8];
        let both: &[u8] = &[253, 1, 0, 252, 1, 2, 3, 4, 254, 8, 1, 0, 0];
        for (info, before) in [(0x00, short), (0x80, long), (0x20, origin), (0x30, both), (0xC0, short)] {
            let found = latest(&segment(0, &[ending(info, before, 1, 40)]), 1000);
            assert_eq!(found, Some("2000-01-01T00:00:00.000001Z".parse().unwrap()), "{info:x} {before:?}");
        }
    }

    #[test]
    fn other_records_and_zeros_have_none() {
        let prepare = Record { info: 0x10, ..ending(0, &[255, 8], 1, 0) };
        let insert = Record { manager: 10, ..ending(0, &[255, 8], 1, 0) };
        assert_eq!(latest(&segment(0, &[prepare, insert]), 4096), None);
        assert_eq!(latest(&[0; 3 * PAGE], 4096), None);
        assert_eq!(latest(b"", 1), None);
    }

    #[test]
    fn a_record_that_was_given_up_in_a_crash_hides_nothing_behind_it() {
        // The second page begins anew, though the record of the first one was not at its end.
        let mut bytes = segment(0, &[ending(0, &[255, 8], 5, 12_000)]);
        let next = segment(0, &[ending(0, &[255, 8], 9, 0)]);
        bytes.truncate(PAGE);
        let mut page = next[..PAGE].to_vec();
        // A short header in place of the long one.
        page.drain(24..40);
        page[2] = 0;
        bytes.extend(page);
        bytes.resize(3 * PAGE, 0);
        assert_eq!(latest(&bytes, 777), time(9));
    }

    #[test]
    fn a_record_counts_when_its_end_has_come() {
        let mut bytes = segment(0, &[ending(0, &[255, 8], 3, 0), ending(0, &[255, 8], 5, 12_000)]);
        assert_eq!(latest(&bytes, 777), time(5));
        bytes.truncate(PAGE);
        let mut commits = Commits::default();
        commits.write_all(&bytes).unwrap();
        assert_eq!((commits.latest(), commits.unfinished()), (time(3), time(5)));
    }

    proptest! {
        #[test]
        fn the_latest_end_is_found_wherever_pages_and_chunks_are_cut(
            rest in 0usize..20_000,
            records in prop::collection::vec((any::<bool>(), 0usize..9_000, 0i64..1_000_000_000), 0..12),
            chunk in 1usize..20_000,
        ) {
            let made: Vec<Record> = records.iter().map(|&(ends, more, at)| match ends {
                true => ending(0x80, &[254, 8, 1, 0, 0], at, more),
                false => Record { manager: 10, info: 0, body: vec![1; more] },
            }).collect();
            let expected = records.iter().filter(|(ends, ..)| *ends).filter_map(|&(_, _, at)| time(at)).max();
            prop_assert_eq!(latest(&segment(rest, &made), chunk), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..30_000), chunk in 1usize..9_000, sound: bool) {
            let mut bytes = bytes;
            if sound && bytes.len() > 40 {
                bytes[36..40].copy_from_slice(&1024u32.to_le_bytes());
            }
            latest(&bytes, chunk);
        }
    }
}
