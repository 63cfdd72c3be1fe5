//! `backup_label`: where the recovery of a base backup begins.
//!
//! Pure. The text comes from the server at the end of a backup and is stored as it is; this only reads it.

use crate::error::{Error, Kind, Result};
use crate::postgres::lsn::Lsn;
use crate::wal::segment::SegmentName;
use crate::wal::timeline::Timeline;

/// What a backup label says (`build_backup_content` in src/backend/access/transam/xlogbackup.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// The redo position of the checkpoint that the backup began with: the first WAL that its recovery needs.
    pub start: Lsn,
    /// The segment that holds `start`, by its name.
    pub segment: SegmentName,
    /// Where the record of that checkpoint lies.
    pub checkpoint: Lsn,
    /// The timeline on which the backup began.
    pub timeline: Timeline,
}

impl BackupLabel {
    /// Reads the content of a label.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if a line is missing or not as PostgreSQL writes it, or the segment is of another timeline.
    pub fn parse(text: &str) -> Result<BackupLabel> {
        let location = value(text.lines(), "START WAL LOCATION")?;
        let (start, segment) =
            start_and_segment(location).ok_or_else(|| corrupt(format!("the start WAL location is \"{location}\"")))?;
        // From the end: it follows the line LABEL, whose text the user chose.
        let number = value(text.lines().rev(), "START TIMELINE")?;
        let timeline = number
            .parse()
            .ok()
            .filter(|&number| number == segment.timeline.0)
            .map(Timeline)
            .ok_or_else(|| corrupt(format!("the start timeline is \"{number}\", but the segment is {segment}")))?;
        let checkpoint = value(text.lines(), "CHECKPOINT LOCATION")?;
        let checkpoint =
            checkpoint.parse().map_err(|_| corrupt(format!("the checkpoint location is \"{checkpoint}\"")))?;
        Ok(BackupLabel { start, segment, checkpoint, timeline })
    }
}

/// What follows `name` and a colon on the first of these lines that has it.
fn value<'a>(mut lines: impl Iterator<Item = &'a str>, name: &str) -> Result<&'a str> {
    lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .map(str::trim_end)
        .ok_or_else(|| corrupt(format!("it has no line \"{name}\"")))
}

/// Takes `0/2000028 (file 000000010000000000000002)` apart.
fn start_and_segment(location: &str) -> Option<(Lsn, SegmentName)> {
    let (start, rest) = location.split_once(" (file ")?;
    Some((start.parse().ok()?, SegmentName::parse(rest.strip_suffix(')')?)?))
}

fn corrupt(detail: String) -> Error {
    Error::new(Kind::Corrupt, "the backup label is damaged").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::SegmentSize;
    use proptest::prelude::*;

    const REAL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 14:03:00 UTC\n\
        LABEL: walden\n\
        START TIMELINE: 1\n";

    fn forge(start: u64, checkpoint: u64, timeline: u32, label: &str) -> String {
        let segment = SegmentName::containing(Timeline(timeline), Lsn(start), SegmentSize::DEFAULT);
        format!(
            "START WAL LOCATION: {} (file {segment})\nCHECKPOINT LOCATION: {}\nLABEL: {label}\nSTART TIMELINE: {timeline}\n",
            Lsn(start),
            Lsn(checkpoint),
        )
    }

    #[test]
    fn a_real_label() {
        let label = BackupLabel::parse(REAL).unwrap();
        assert_eq!(label.start, Lsn(0x200_0028));
        assert_eq!(label.segment.to_string(), "000000010000000000000002");
        assert_eq!(label.checkpoint, Lsn(0x200_0060));
        assert_eq!(label.timeline, Timeline(1));
    }

    #[test]
    fn a_label_without_one_of_its_lines_is_corrupt() {
        for missing in ["START WAL", "CHECKPOINT", "START TIMELINE"] {
            let kept: Vec<&str> = REAL.lines().filter(|line| !line.starts_with(missing)).collect();
            assert_eq!(BackupLabel::parse(&kept.join("\n")).unwrap_err().kind(), Kind::Corrupt, "{missing}");
        }
    }

    #[test]
    fn a_label_that_contradicts_itself_is_corrupt() {
        let text = REAL.replace("START TIMELINE: 1", "START TIMELINE: 2");
        assert_eq!(BackupLabel::parse(&text).unwrap_err().kind(), Kind::Corrupt);
    }

    proptest! {
        #[test]
        fn whatever_the_user_calls_the_backup_the_positions_are_found(
            start: u64,
            checkpoint: u64,
            timeline in 1u32..,
            label in "\\PC{0,20}(\nSTART TIMELINE: 7)?",
        ) {
            let read = BackupLabel::parse(&forge(start, checkpoint, timeline, &label)).unwrap();
            prop_assert_eq!((read.start, read.checkpoint), (Lsn(start), Lsn(checkpoint)));
            prop_assert_eq!((read.timeline, read.segment.timeline), (Timeline(timeline), Timeline(timeline)));
        }

        #[test]
        fn parse_never_panics(text in "(START WAL LOCATION: |START TIMELINE: |[0-9A-F/() file\n]){0,12}") {
            let _ = BackupLabel::parse(&text);
        }
    }
}
