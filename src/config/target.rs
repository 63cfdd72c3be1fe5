//! What a restore shall reach: the words of `backup-fetch`, and of PostgreSQL's `recovery_target` settings.
//!
//! Pure. Which backup leads to a target, and whether the archive holds the WAL in between, is decided elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::config::value::{Choice, Value};
use crate::error::{Error, Kind, Result};
use crate::layout::BackupId;
use crate::layout::basebackups::LegacyName;
use crate::postgres::entry::Tablespace;
use crate::postgres::lsn::Lsn;
use crate::wal::timeline::Timeline;

/// A base backup, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `LATEST`: the newest.
    Latest,
    /// This one.
    Id(BackupId),
    /// This one, which WAL-E or WAL-G wrote.
    Legacy(LegacyName),
}

impl FromStr for Selection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Selection> {
        match text {
            "LATEST" => Ok(Selection::Latest),
            name if name.starts_with("base_") => name.parse().map(Selection::Legacy),
            id => id.parse().map(Selection::Id),
        }
    }
}

/// How a restored cluster is to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Replay all WAL that the archive has, then open.
    EndOfArchive,
    /// Stay a standby that follows the archive.
    Standby,
    /// Replay up to a point.
    Target(Target),
}

/// A point in the WAL at which recovery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The point.
    pub point: Point,
    /// Stop just before the point (`recovery_target_inclusive = off`); means something for a time, an LSN and a
    /// transaction only.
    pub exclusive: bool,
    /// What PostgreSQL does when it is there.
    pub action: Action,
}

/// One of PostgreSQL's five kinds of target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Point {
    /// The last commit up to this time, by the clock of the primary.
    Time(Timestamp),
    /// A position.
    Lsn(Lsn),
    /// The end of this transaction; a normal one, so 3 or more.
    Xid(u32),
    /// A point that `pg_create_restore_point()` named.
    Name(RestorePoint),
    /// As soon as the cluster is consistent.
    Immediate,
}

/// `recovery_target_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Wait, readable, for `SELECT pg_wal_replay_resume()`.
    Pause,
    /// Open for writing on a new timeline.
    Promote,
    /// Shut the server down.
    Shutdown,
}

impl Choice for Action {
    const WORDS: &'static [(&'static str, Action)] =
        &[("pause", Action::Pause), ("promote", Action::Promote), ("shutdown", Action::Shutdown)];
}

/// `recovery_target_timeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetTimeline {
    /// The newest one in the archive that descends from the backup's.
    Latest,
    /// The one on which the backup was made.
    Current,
    /// This one.
    Number(Timeline),
}

impl Value for TargetTimeline {
    fn read(text: &str) -> Result<TargetTimeline> {
        // PostgreSQL reads 010 as octal and 0x10 as hexadecimal; file names are hexadecimal without saying so.
        let decimal = || text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        match text {
            "latest" => Ok(TargetTimeline::Latest),
            "current" => Ok(TargetTimeline::Current),
            _ => decimal().then(|| text.parse().ok()).flatten().map(Timeline).map(TargetTimeline::Number).ok_or_else(
                || {
                    Error::new(Kind::Usage, format!("\"{text}\" is not a timeline")).hint(
                        "Write latest, current or a decimal number; the files of timeline 10 begin with 0000000A.",
                    )
                },
            ),
        }
    }
}

/// The greatest length of a restore point's name in bytes (`MAXFNAMELEN` less its NUL, `check_recovery_target_name`
/// in src/backend/access/transam/xlogrecovery.c).
const MAX_RESTORE_POINT: usize = 63;

/// The name of a restore point: 1 to 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RestorePoint(String);

impl RestorePoint {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for RestorePoint {
    fn read(text: &str) -> Result<RestorePoint> {
        let legal = (1..=MAX_RESTORE_POINT).contains(&text.len());
        legal.then(|| RestorePoint(text.to_owned())).ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" is not the name of a restore point"))
                .hint("Write the name that was given to pg_create_restore_point(); it has 1 to 63 bytes.")
        })
    }
}

/// A tablespace that is to lie elsewhere than in the backup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TablespaceMapping {
    /// Which.
    pub source: TablespaceSource,
    /// Where it shall lie; absolute.
    pub target: PathBuf,
}

/// How a tablespace of a backup is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TablespaceSource {
    /// By its number.
    Oid(u32),
    /// By the place where it lay when the backup was made; absolute.
    Place(PathBuf),
}

impl TablespaceSource {
    /// Is it this one?
    pub fn names(&self, tablespace: &Tablespace) -> bool {
        match self {
            TablespaceSource::Oid(oid) => *oid == tablespace.oid,
            TablespaceSource::Place(place) => *place == tablespace.location,
        }
    }

    fn read(text: &str) -> Option<TablespaceSource> {
        let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match number {
            true => text.parse().ok().map(TablespaceSource::Oid),
            false => Path::new(text).is_absolute().then(|| TablespaceSource::Place(text.into())),
        }
    }
}

impl fmt::Display for TablespaceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TablespaceSource::Oid(oid) => write!(f, "{oid}"),
            TablespaceSource::Place(place) => write!(f, "\"{}\"", place.display()),
        }
    }
}

impl Value for TablespaceMapping {
    fn read(text: &str) -> Result<TablespaceMapping> {
        let mapping = text.split_once('=').and_then(|(source, target)| {
            let legal = Path::new(target).is_absolute() && !target.contains('=');
            Some(TablespaceMapping { source: TablespaceSource::read(source)?, target: legal.then(|| target.into())? })
        });
        mapping.ok_or_else(|| {
            Error::new(Kind::Usage, format!("\"{text}\" does not map one tablespace to another")).hint(
                "Write the old path or the number, an equals sign, and the new path, such as /ssd/old=/ssd/new or \
                 16385=/ssd/new; paths are absolute.",
            )
        })
    }
}

/// Whom the files of a restored cluster are to belong to: names or numbers, not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerName {
    /// The user.
    pub user: String,
    /// The group; `None`: the user's own.
    pub group: Option<String>,
}

impl Value for OwnerName {
    fn read(text: &str) -> Result<OwnerName> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let legal = |name: &str| !name.is_empty() && !name.contains([':', '\0', '/', '\n']);
        (legal(user) && group.is_none_or(legal))
            .then(|| OwnerName { user: user.to_owned(), group: group.map(str::to_owned) })
            .ok_or_else(|| {
                Error::new(Kind::Usage, format!("\"{}\" is not a user, nor a user and a group", text.escape_debug()))
                    .hint("Write --owner USER or --owner USER:GROUP, such as --owner postgres.")
            })
    }
}

impl fmt::Display for OwnerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

impl fmt::Display for Goal {
    /// In words, to be read after "recover to".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Goal::Target(Target { point, exclusive, action }) = self else {
            let text = if *self == Goal::Standby { "a standby" } else { "the end of the archive" };
            return f.write_str(text);
        };
        let just_before = if *exclusive { "just before " } else { "" };
        match point {
            Point::Time(time) if *exclusive => write!(f, "the last commit before {time}")?,
            Point::Time(time) => write!(f, "the last commit up to {time}")?,
            Point::Lsn(lsn) => write!(f, "{just_before}{lsn}")?,
            Point::Xid(xid) => write!(f, "{just_before}the end of transaction {xid}")?,
            Point::Name(name) => write!(f, "the restore point \"{}\"", name.as_str())?,
            Point::Immediate => f.write_str("the first consistent moment")?,
        }
        let then = match action {
            Action::Pause => "pause there",
            Action::Promote => "open for writing",
            Action::Shutdown => "shut down",
        };
        write!(f, ", then {then}")
    }
}

impl Value for Timestamp {
    fn read(text: &str) -> Result<Timestamp> {
        read_time(text, TimeZone::system)
    }
}

/// Reads a time as RFC 3339 or PostgreSQL write it, always with an offset from UTC. `local` is asked only to word the
/// refusal of a time without one.
fn read_time(text: &str, local: impl FnOnce() -> TimeZone) -> Result<Timestamp> {
    // The space before the zone is the one liberty of PostgreSQL's that Jiff does not take; a zone's name in brackets
    // is one of Jiff's that PostgreSQL does not take.
    let joined = match text.rsplit_once(' ') {
        Some((time, zone)) if zone.starts_with(['Z', 'z', '+', '-']) => format!("{time}{zone}"),
        _ => text.to_owned(),
    };
    if let Some(time) = joined.parse().ok().filter(|_| !joined.contains('[')) {
        return Ok(time);
    }
    match text.parse::<DateTime>() {
        Ok(time) if !joined.contains('[') => Err(zoneless(text, time, local())),
        _ => Err(Error::new(Kind::Usage, format!("\"{text}\" is not a time"))
            .hint("Write date, time and offset from UTC, such as --target-time '2026-11-20 14:03:05+01'.")),
    }
}

fn zoneless(text: &str, time: DateTime, local: TimeZone) -> Error {
    let utc = format!("'{}Z'", time.strftime("%F %T%.f"));
    let error = Error::new(Kind::Usage, format!("\"{text}\" does not say in which time zone"));
    match time.to_zoned(local) {
        Ok(here) if !here.offset().is_zero() => {
            let local = format!("'{}'", here.strftime("%F %T%.f%:z"));
            error.hint(format!(
                "If it is UTC, write --target-time {utc}; if it is this machine's, write --target-time {local}."
            ))
        }
        // This machine's time is UTC as well.
        _ => error.hint(format!("If it is UTC, write --target-time {utc}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Result<Timestamp> {
        read_time(text, || TimeZone::fixed(jiff::tz::offset(1)))
    }

    #[test]
    fn times_with_an_offset_are_read_in_every_usual_form() {
        for (text, utc) in [
            ("2026-11-20 14:03+01", "2026-11-20T13:03:00Z"),
            ("2026-11-20T14:03+01", "2026-11-20T13:03:00Z"),
            ("2026-11-20 14:03:05+0130", "2026-11-20T12:33:05Z"),
            ("2026-11-20 14:03:05-01:30", "2026-11-20T15:33:05Z"),
            ("2026-11-20 14:03:05.25+00", "2026-11-20T14:03:05.25Z"),
            ("2026-11-20 14:03:05.25 +00", "2026-11-20T14:03:05.25Z"),
            ("2026-11-20 14:03:05 Z", "2026-11-20T14:03:05Z"),
            ("2026-11-20T14:03:05Z", "2026-11-20T14:03:05Z"),
            ("2026-11-20t14:03:05z", "2026-11-20T14:03:05Z"),
            ("2026-11-20 14:03:05.123456+05:45", "2026-11-20T08:18:05.123456Z"),
        ] {
            assert_eq!(time(text).unwrap().to_string(), utc, "{text:?}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_refused_with_both_readings_to_choose_from() {
        for text in ["2026-11-20 14:03", "2026-11-20T14:03:00"] {
            let advice = time(text).unwrap_err();
            let advice = advice.advice().unwrap();
            assert!(advice.contains("--target-time '2026-11-20 14:03:00Z'"), "{advice}");
            assert!(advice.contains("--target-time '2026-11-20 14:03:00+01:00'"), "{advice}");
        }
        let utc = read_time("2026-11-20 14:03:05.5", || TimeZone::UTC).unwrap_err();
        assert!(utc.advice().unwrap().contains("'2026-11-20 14:03:05.5Z'"), "{utc:?}");
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "14:03+01",
            "2026-11-20+01",
            "2026-13-20 14:03Z",
            "2026-11-20 14:03 CET",
            "2026-11-20 14:03+01 -",
            "2026-11-20 14:03[Europe/Berlin]",
            "2026-11-20 14:03-05[Europe/Berlin]",
        ] {
            let error = time(text).unwrap_err();
            assert_eq!(error.what(), format!("\"{text}\" is not a time"));
        }
    }

    proptest! {
        #[test]
        fn both_readings_of_a_time_without_a_zone_are_times_that_can_be_given(
            seconds in 0i64..4_000_000_000, hours in -12i8..=14,
        ) {
            let written = Timestamp::from_second(seconds).unwrap().strftime("%F %T").to_string();
            let error = read_time(&written, || TimeZone::fixed(jiff::tz::offset(hours))).unwrap_err();
            let readings = error.advice().unwrap().split("--target-time '").skip(1);
            let readings: Vec<&str> = readings.map(|rest| rest.split('\'').next().unwrap()).collect();
            prop_assert_eq!(readings.len(), if hours == 0 { 1 } else { 2 });
            let read: Vec<i64> = readings.iter().map(|reading| time(reading).unwrap().as_second()).collect();
            prop_assert_eq!(read[0], seconds);
            prop_assert_eq!(*read.last().unwrap(), seconds - i64::from(hours) * 3600);
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,32}|[-0-9TZ:+. \\[\\]]{0,32}") {
            let _ = (time(&text), TargetTimeline::read(&text), TablespaceMapping::read(&text), text.parse::<Selection>());
        }
    }

    #[test]
    fn timelines_are_words_or_plain_decimal_numbers() {
        assert_eq!(TargetTimeline::read("latest").unwrap(), TargetTimeline::Latest);
        assert_eq!(TargetTimeline::read("current").unwrap(), TargetTimeline::Current);
        assert_eq!(TargetTimeline::read("17").unwrap(), TargetTimeline::Number(Timeline(17)));
        for text in ["", "0", "010", "0x10", "0000000A", "A", "+1", "4294967296", "Latest"] {
            assert!(TargetTimeline::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn restore_points_keep_to_the_length_that_postgresql_allows() {
        assert_eq!(RestorePoint::read(&"x".repeat(63)).unwrap().as_str(), "x".repeat(63));
        assert!(RestorePoint::read(&"x".repeat(64)).is_err());
        assert!(RestorePoint::read("").is_err());
    }

    #[test]
    fn an_owner_is_a_user_or_a_user_and_a_group() {
        let owner = OwnerName::read("postgres:ssl-cert").unwrap();
        assert_eq!((owner.user.as_str(), owner.group.as_deref()), ("postgres", Some("ssl-cert")));
        assert_eq!(OwnerName::read("999").unwrap().group, None);
        for text in ["", ":", "a:", ":b", "a:b:c", "a/b"] {
            assert!(OwnerName::read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn goals_are_told_in_words() {
        let told = |point, exclusive, action| Goal::Target(Target { point, exclusive, action }).to_string();
        let time = "2026-11-20T13:03:00Z".parse().unwrap();
        assert_eq!(
            told(Point::Time(time), true, Action::Pause),
            "the last commit before 2026-11-20T13:03:00Z, then pause there"
        );
        assert_eq!(
            told(Point::Xid(7), true, Action::Promote),
            "just before the end of transaction 7, then open for writing"
        );
        assert_eq!(told(Point::Lsn(Lsn(7)), false, Action::Shutdown), "0/7, then shut down");
        assert_eq!(Goal::Standby.to_string(), "a standby");
    }

    #[test]
    fn tablespaces_are_mapped_between_absolute_paths() {
        let place = TablespaceSource::Place("/a".into());
        for (text, source) in [("/a=/b c", place), ("16385=/b c", TablespaceSource::Oid(16385))] {
            let mapping = TablespaceMapping::read(text).unwrap();
            assert_eq!(mapping, TablespaceMapping { source, target: "/b c".into() });
        }
        for text in ["", "/a", "/a=", "=/b", "a=/b", "/a=b", "/a=/b=/c", "16385=b", "-1=/b", "99999999999=/b", "+1=/b"]
        {
            assert!(TablespaceMapping::read(text).is_err(), "{text:?}");
        }
    }
}
