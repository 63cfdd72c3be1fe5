//! What tells PostgreSQL how to recover: settings in `postgresql.auto.conf`, a signal file, the map of the tablespaces.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Request;
use super::destination::Destination;
use crate::backup::manifest::{File, Files};
use crate::config::target::{Action, Goal, Point, TargetTimeline};
use crate::config::value::Choice;
use crate::durable;
use crate::error::{Context, Error, Kind, Result};

const AUTO_CONF: &str = "postgresql.auto.conf";
pub(super) const BACKUP_LABEL: &str = "backup_label";
const BACKUP_MANIFEST: &str = "backup_manifest";
pub(super) const TABLESPACE_MAP: &str = "tablespace_map";

/// Settings of an earlier recovery would contradict the new ones: PostgreSQL takes one target only, and a standby must
/// not stream from where the original once did, or through its slot.
const RECOVERY_SETTINGS: [&str; 11] = [
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
];

/// Writes the settings and the signal file, with these permission bits. `postgresql.conf` is left alone: it may not even be
/// here.
pub(super) fn configure(root: &Path, request: &Request, mode: u32) -> Result<()> {
    let path = root.join(AUTO_CONF);
    let existing = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        result => result.during(|| format!("could not read \"{}\"", path.display()))?,
    };
    durable::write_with_mode(&path, auto_conf(&existing, request).as_bytes(), mode)?;
    let signal = match request.goal {
        Goal::Standby => "standby.signal",
        Goal::EndOfArchive | Goal::Target(_) => "recovery.signal",
    };
    durable::write_with_mode(&root.join(signal), b"", mode)
}

/// `postgresql.auto.conf` with the settings of this recovery in place of any earlier one's.
fn auto_conf(existing: &str, request: &Request) -> String {
    let is_recovery = |line: &str| {
        let name = line.split(|c: char| c == '=' || c.is_whitespace()).find(|word| !word.is_empty());
        name.is_some_and(|name| RECOVERY_SETTINGS.iter().any(|setting| setting.eq_ignore_ascii_case(name)))
    };
    let mut text: String = existing.lines().filter(|line| !is_recovery(line)).flat_map(|line| [line, "\n"]).collect();
    for (name, value) in settings(request) {
        // Backslashes and quotes as the configuration file's scanner wants them (GUC_scanstr in guc-file.l).
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    text
}

fn settings(request: &Request) -> Vec<(&'static str, String)> {
    let mut settings = vec![("restore_command", request.restore_command.clone())];
    let timeline = match request.timeline {
        TargetTimeline::Latest => "latest".to_owned(),
        TargetTimeline::Current => "current".to_owned(),
        TargetTimeline::Number(timeline) => timeline.0.to_string(),
    };
    settings.push(("recovery_target_timeline", timeline));
    if let Goal::Standby = &request.goal {
        let conninfo = request.upstream.conninfo.as_ref().map(|text| ("primary_conninfo", text.as_str().to_owned()));
        let slot = request.upstream.slot.as_ref().map(|name| ("primary_slot_name", name.as_str().to_owned()));
        settings.extend(conninfo.into_iter().chain(slot));
    }
    let Goal::Target(target) = &request.goal else { return settings };
    settings.push(match &target.point {
        // With its offset: PostgreSQL would read it in the server's time zone otherwise.
        Point::Time(time) => ("recovery_target_time", time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
        Point::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
        Point::Xid(xid) => ("recovery_target_xid", xid.to_string()),
        Point::Name(name) => ("recovery_target_name", name.as_str().to_owned()),
        Point::Immediate => ("recovery_target", "immediate".to_owned()),
    });
    if target.exclusive {
        settings.push(("recovery_target_inclusive", "off".to_owned()));
    }
    settings.push(("recovery_target_action", word(target.action).to_owned()));
    settings
}

fn word(action: Action) -> &'static str {
    Action::WORDS.iter().find(|(_, known)| *known == action).map_or("pause", |(word, _)| word)
}

/// Gives the files that a backup adds to the cluster's own these permission bits: the server never wrote them, so no backup
/// knows what it would have given them.
pub(super) fn share(root: &Path, mode: u32) -> Result<()> {
    for name in [BACKUP_LABEL, TABLESPACE_MAP, BACKUP_MANIFEST] {
        let path = root.join(name);
        match fs::set_permissions(&path, fs::Permissions::from_mode(mode)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.during(|| format!("could not set the rights of \"{}\"", path.display()))?,
        }
    }
    Ok(())
}

/// Rewrites `tablespace_map` for tablespaces that lie elsewhere now, and returns what it is then: PostgreSQL makes the links
/// below `pg_tblspc` anew from it when it starts.
pub(super) fn map_tablespaces(destination: &Destination, files: &Files) -> Result<Option<File>> {
    let Some(number) = (0..files.len()).find(|&number| files.path(number) == TABLESPACE_MAP) else { return Ok(None) };
    let Some(map) = rewrite_map(destination)? else { return Ok(None) };
    let file = files.file(number);
    Ok(Some(File { size: map.len() as u64, crc32c: crc32c::crc32c(map.as_bytes()), ..file }))
}

/// Rewrites `tablespace_map`, which is there, if a tablespace lies elsewhere now; returns its new content.
fn rewrite_map(destination: &Destination) -> Result<Option<String>> {
    if !destination.is_mapped() {
        return Ok(None);
    }
    let path = destination.root().join(TABLESPACE_MAP);
    let map = fs::read_to_string(&path).during(|| format!("could not read \"{}\"", path.display()))?;
    let map = mapped(&map, destination);
    durable::write(&path, map.as_bytes())?;
    Ok(Some(map))
}

/// The same for a backup that is not ours, in which it need not be there.
///
/// # Errors
/// [`Kind::Corrupt`] if it has a tablespace of which the backup said nothing before: its files would lie elsewhere than
/// PostgreSQL looks for them.
pub(super) fn map_known_tablespaces(destination: &Destination) -> Result<()> {
    let path = destination.root().join(TABLESPACE_MAP);
    let map = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        map => map.during(|| format!("could not read \"{}\"", path.display()))?,
    };
    // One that lies in the data directory itself (`allow_in_place_tablespaces`) has no place outside.
    let outside = map.lines().filter_map(|line| line.split_once(' ').filter(|(_, place)| place.starts_with('/')));
    let mut numbers = outside.filter_map(|(oid, _)| oid.parse::<u32>().ok());
    match numbers.find(|oid| !destination.tablespaces().contains_key(oid)) {
        Some(oid) => Err(Error::new(Kind::Corrupt, format!("the backup does not say where tablespace {oid} lay"))
            .detail("it is in its tablespace_map, and not in its sentinel")),
        None => rewrite_map(destination).map(drop),
    }
}

/// One line a tablespace: its OID, a space, its place (`read_tablespace_map` in src/backend/access/transam/xlogrecovery.c).
fn mapped(map: &str, destination: &Destination) -> String {
    let line = |line: &str| {
        let oid = line.split_once(' ').and_then(|(oid, _)| oid.parse().ok());
        match oid.and_then(|oid: u32| destination.tablespaces().get_key_value(&oid)) {
            Some((oid, place)) => format!("{oid} {}\n", place.display().to_string().replace('\\', "\\\\")),
            None => format!("{line}\n"),
        }
    };
    map.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::conninfo::{ConnectionString, SlotName};
    use crate::config::target::Target;
    use crate::config::value::Value;
    use crate::restore::{Places, Upstream};

    fn request(goal: Goal) -> Request {
        Request {
            directory: "/d".into(),
            selection: None,
            goal,
            timeline: TargetTimeline::Latest,
            places: Places::default(),
            delta: false,
            only_databases: vec![],
            owner: None,
            upstream: Upstream::default(),
            system_id: None,
            restore_command: r#"walden --prefix 's3://b/p' wal-fetch %f "%p""#.into(),
            workers: 1,
        }
    }

    #[test]
    fn an_earlier_recoverys_settings_are_replaced_and_all_others_kept() {
        let existing = "# Do not edit\nwork_mem = '4MB'\nrecovery_target_xid = '7'\n  Restore_Command='x'\nrecovery_target_foo = '1'\n";
        let point = Point::Time("2026-11-20T13:03:00.5Z".parse().unwrap());
        let goal = Goal::Target(Target { point, exclusive: true, action: Action::Promote });
        assert_eq!(
            auto_conf(existing, &request(goal)),
            "# Do not edit\nwork_mem = '4MB'\nrecovery_target_foo = '1'\n\
             restore_command = 'walden --prefix ''s3://b/p'' wal-fetch %f \"%p\"'\n\
             recovery_target_timeline = 'latest'\n\
             recovery_target_time = '2026-11-20 13:03:00.500000+00'\n\
             recovery_target_inclusive = 'off'\n\
             recovery_target_action = 'promote'\n"
        );
    }

    #[test]
    fn a_standby_has_no_target() {
        let text = auto_conf("", &request(Goal::Standby));
        assert!(!text.contains("recovery_target_action") && text.contains("recovery_target_timeline = 'latest'"));
    }

    #[test]
    fn a_standby_streams_from_where_it_is_told_and_no_longer_from_where_it_once_did() {
        let existing = "primary_conninfo = 'host=old'\nprimary_slot_name = 'old'\n";
        let text = auto_conf(existing, &request(Goal::Standby));
        assert!(!text.contains("old") && !text.contains("primary_conninfo"), "{text}");
        let conninfo = ConnectionString::read(r"host=new application_name='it\'s me'").unwrap();
        let upstream = Upstream { conninfo: Some(conninfo), slot: Some(SlotName::read("s1").unwrap()) };
        let text = auto_conf(existing, &Request { upstream, ..request(Goal::Standby) });
        let line = r"primary_conninfo = 'host=new application_name=''it\\''s me'''";
        assert!(text.contains(line) && text.contains("primary_slot_name = 's1'"), "{text}");
    }
}
