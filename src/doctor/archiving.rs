//! Whether the server's WAL comes into this archive, and would be fetched from it: its settings, its archiver's word, and
//! what is there.

use super::Case;
use super::command::Call;
use super::host::Local;
use super::server::Seen;
use crate::archive::Archive;
use crate::backup::obstacles::{failing, minimal_wal, not_archiving};
use crate::config::row::VerbName;
use crate::config::{Settings, options};
use crate::error::{Error, Kind, Result};
use crate::layout::Key;
use crate::postgres::client::{ArchiveMode, Archiving};
use crate::storage::examination::Finding;
use crate::wal::segment::WalFile;

/// Whether the last file that the server says it archived is in this archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is.
    There(WalFile),
    /// It certainly is not, at this address.
    Missing(WalFile, String),
    /// It archived nothing yet.
    Nothing,
    /// The store could not be asked, or has nothing to be compared with.
    Unknown,
}

/// Asks the store.
pub(super) async fn arrival(archive: &Archive, seen: &Seen) -> Arrival {
    let Some(last) = &seen.archiver.last_archived_wal else { return Arrival::Nothing };
    let Some(file) = WalFile::parse(last) else { return Arrival::Unknown };
    let key = Key::Wal(seen.server.system_id, file);
    match archive.store().head(&key.to_string()).await {
        Ok(_) => Arrival::There(file),
        Err(error) if error.kind() == Kind::NotFound => Arrival::Missing(file, archive.url(&key)),
        Err(_) => Arrival::Unknown,
    }
}

/// Everything about archiving, and for a standby about fetching.
pub(super) fn examine(case: &Case, seen: &Seen, local: Option<&Local>, arrival: &Arrival) -> Vec<Finding> {
    let mut findings = vec![wal_level(seen), mode(case, seen)];
    match &seen.server.archiving {
        Archiving::Nothing => findings.extend(nothing(case, seen)),
        Archiving::Library(_) => findings.push(others(case, seen, arrival)),
        Archiving::Command(command) => findings.push(match Call::find(command, VerbName::WalPush) {
            Some(call) => verdict(&ARCHIVE_COMMAND, command, called(case, command, &call, local, &ARCHIVE_COMMAND)),
            None => others(case, seen, arrival),
        }),
    }
    // A standby's WAL is its primary's, and so is the archiver that counts.
    if !seen.server.in_recovery && seen.server.archive_mode != ArchiveMode::Off {
        findings.extend([archiver(seen), arrived(arrival)]);
    }
    if seen.server.in_recovery {
        findings.push(restoring(case, seen, local));
    }
    findings
}

fn wal_level(seen: &Seen) -> Finding {
    match minimal_wal(&seen.server) {
        Some(error) => Finding::bad("wal_level", error),
        None => Finding::good("wal_level", seen.server.wal_level.clone()),
    }
}

fn mode(case: &Case, seen: &Seen) -> Finding {
    match (seen.server.archive_mode, not_archiving(seen.server.archive_mode, None, &ARCHIVE_COMMAND.example(case))) {
        (_, Some(error)) if seen.server.in_recovery => Finding::limited(
            "archive_mode",
            "off: once this standby is promoted, its WAL goes nowhere",
            error.advice().unwrap_or_default(),
        ),
        (_, Some(error)) => Finding::bad("archive_mode", error),
        (ArchiveMode::Always, _) => Finding::good("archive_mode", "always"),
        (_, None) => Finding::good("archive_mode", "on"),
    }
}

/// Neither command nor library. With `archive_mode` off that has been said already.
fn nothing(case: &Case, seen: &Seen) -> Option<Finding> {
    if seen.server.archive_mode == ArchiveMode::Off {
        return None;
    }
    let error = not_archiving(seen.server.archive_mode, Some(&Archiving::Nothing), &ARCHIVE_COMMAND.example(case))?;
    Some(match seen.server.in_recovery {
        true => Finding::limited(
            "archive_command",
            "none: once this standby is promoted, its WAL goes nowhere",
            error.advice().unwrap_or_default(),
        ),
        false => Finding::bad("archive_command", error),
    })
}

/// A command or a library that is not known. Whether it does its job is seen by what is there; a standby's has none yet.
fn others(case: &Case, seen: &Seen, arrival: &Arrival) -> Finding {
    let check = "archive_command";
    let archiving = &seen.server.archiving;
    // A library wins over a command; since 16 having both is an error.
    let hint = match archiving {
        Archiving::Library(_) => reload(case).replacen("Set ", "Set archive_library = '' and ", 1),
        _ => reload(case),
    };
    match arrival {
        Arrival::There(file) => Finding::limited(
            check,
            format!("{archiving}, which is not walden wal-push; {file}, which was archived last, is in the archive"),
            format!("Nothing, if it calls walden wal-push in the end. {hint}"),
        ),
        Arrival::Missing(..) | Arrival::Nothing if !seen.server.in_recovery => Finding::bad(
            check,
            Error::new(Kind::Config, "the server's WAL is archived by something else than walden wal-push")
                .detail(archiving.to_string())
                .hint(hint),
        ),
        _ => {
            Finding::limited(check, format!("{archiving}; whether that calls walden wal-push could not be seen"), hint)
        }
    }
}

fn reload(case: &Case) -> String {
    change(ARCHIVE_COMMAND.name, &ARCHIVE_COMMAND.example(case), RELOAD)
}

/// What is known of a command that calls walden.
enum Called {
    /// It would work, with this archive.
    Fine(String),
    /// Not all of it could be seen.
    Unseen(String, &'static str),
}

fn verdict(setting: &Setting, command: &str, called: Result<Called>) -> Finding {
    let check = setting.name;
    match called {
        Ok(Called::Fine(archive)) => Finding::good(check, format!("'{command}', with {archive}")),
        Ok(Called::Unseen(why, how)) => Finding::unseen(check, format!("'{command}': {why}"), how),
        Err(error) => {
            let hint = error.advice().unwrap_or_default().to_owned();
            let cause = error.to_string();
            Finding::bad(check, Error::new(error.kind(), format!("{check} cannot work: {cause}")).hint(hint))
        }
    }
}

/// What a command has to hand on, and how a change of it takes effect.
struct Setting {
    name: &'static str,
    verb: VerbName,
    placeholders: &'static [&'static str],
    apply: &'static str,
}

const RELOAD: &str = "run SELECT pg_reload_conf()";
const RESTART: &str = "restart the server";

const ARCHIVE_COMMAND: Setting =
    Setting { name: "archive_command", verb: VerbName::WalPush, placeholders: &["%p"], apply: RELOAD };

impl Setting {
    fn restore_command(seen: &Seen) -> Setting {
        // Since 14 it can be changed without a restart (release notes of PostgreSQL 14).
        let apply = if seen.server.major >= 14 { RELOAD } else { RESTART };
        Setting { name: "restore_command", verb: VerbName::WalFetch, placeholders: &["%f", "%p"], apply }
    }

    /// The command with this very program and the settings that it has now.
    fn example(&self, case: &Case) -> String {
        format!("{} {} {}", case.walden, self.verb, self.placeholders.join(" "))
    }
}

/// A sentence that can be typed. In postgresql.conf a quote is doubled.
fn change(name: &str, value: &str, apply: &str) -> String {
    format!("Set {name} = '{}' in postgresql.conf and {apply}.", value.replace('\'', "''"))
}

/// The same command with this very program, if it is plain where that is named.
fn with_this_program(case: &Case, command: &str, call: &Call, setting: &Setting) -> String {
    let once = command.matches(&call.program).count() == 1;
    let plain = once.then(|| command.replacen(&call.program, &case.program.display().to_string(), 1));
    change(setting.name, &plain.unwrap_or_else(|| setting.example(case)), setting.apply)
}

/// Whether the program is there, and its settings name this archive.
fn called(case: &Case, command: &str, call: &Call, local: Option<&Local>, setting: &Setting) -> Result<Called> {
    if let Some(missing) = setting.placeholders.iter().find(|placeholder| !call.hands_on(placeholder)) {
        return Err(Error::new(Kind::Config, format!("{missing} is not handed on")).hint(change(
            setting.name,
            &setting.example(case),
            setting.apply,
        )));
    }
    let Some(local) = local else {
        return Ok(Called::Unseen(
            "its program and its settings are on the server's host".to_owned(),
            "Run walden doctor there, as the server's user.",
        ));
    };
    let servers_path = local.environment.as_ref().and_then(|all| find(all, "PATH"));
    let path = servers_path.or_else(|| case.variables.get("PATH").map(String::as_str));
    call.find_program(&local.directory, path)
        .map_err(|error| error.hint(with_this_program(case, command, call, setting)))?;
    let environment = match &local.environment {
        Some(environment) => environment.as_slice(),
        None if call.names_its_settings() => &[],
        None => {
            return Ok(Called::Unseen(
                "its settings are in the server's environment, which its user alone may read".to_owned(),
                "Run walden doctor as the server's user, or keep them in a directory that --envdir names.",
            ));
        }
    };
    same_archive(case, &call.settings(&local.directory, environment)?)
}

fn same_archive(case: &Case, settings: &Settings) -> Result<Called> {
    let Some(theirs) = settings.find(&options::PREFIX)? else {
        return Err(Error::new(Kind::Config, "prefix is not set where the server runs it").hint(
            "The server's environment is not yours: keep the settings in a directory, and name it in the command with \
             --envdir DIR.",
        ));
    };
    if theirs == case.prefix {
        return Ok(Called::Fine(theirs.to_string()));
    }
    Err(Error::new(Kind::Config, format!("it uses another archive, {theirs}"))
        .detail(format!("this examination is of {}", case.prefix))
        .hint("Set WALDEN_PREFIX (--prefix) to the same for both."))
}

fn find<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The archiver's own word.
fn archiver(seen: &Seen) -> Finding {
    if let Some(error) = failing(&seen.archiver, Some(&seen.server.archiving)) {
        return Finding::bad(
            "archiver",
            error.hint(
                "Repair what the other findings name, or what the server's log says below \"archive command failed\". \
                 The server tries again by itself within a minute.",
            ),
        );
    }
    match (&seen.archiver.last_archived_wal, seen.archiver.last_archived_time) {
        (Some(last), Some(time)) => Finding::good("archiver", format!("archived {last} at {time:.0}")),
        _ => Finding::good("archiver", "nothing was to be archived yet"),
    }
}

fn arrived(arrival: &Arrival) -> Finding {
    match arrival {
        Arrival::There(file) => Finding::good("archived WAL", format!("{file}, the last one, is in the archive")),
        Arrival::Nothing => Finding::good("archived WAL", "none yet"),
        Arrival::Unknown => Finding::unseen(
            "archived WAL",
            "whether the last file is in this archive could not be seen",
            "Allow s3:GetObject below the prefix, if this identity is to see that, and see to what the store's side says.",
        ),
        Arrival::Missing(file, address) => Finding::bad(
            "archived WAL",
            Error::new(Kind::Incomplete, format!("the server has archived {file}, and {address} is not there")).hint(
                "See to it that archive_command has this WALDEN_PREFIX (--prefix). If it has only now, run SELECT \
                 pg_switch_wal() and look again.",
            ),
        ),
    }
}

/// Where a standby gets WAL from that its primary no longer has.
fn restoring(case: &Case, seen: &Seen, local: Option<&Local>) -> Finding {
    let setting = Setting::restore_command(seen);
    let check = setting.name;
    let command = &seen.circumstances.restore_command;
    let hint = change(check, &setting.example(case), setting.apply);
    if let Some(call) = Call::find(command, VerbName::WalFetch) {
        return verdict(&setting, command, called(case, command, &call, local, &setting));
    }
    match (command.is_empty(), seen.circumstances.streams) {
        (true, false) => Finding::bad(
            check,
            Error::new(Kind::Config, "this standby gets no WAL")
                .detail("neither restore_command nor primary_conninfo is set")
                .hint(hint),
        ),
        (true, true) => Finding::limited(
            check,
            "none: it only streams, and stops for good when its primary no longer has what it needs next",
            hint,
        ),
        (false, _) => Finding::limited(check, format!("'{command}' does not call walden wal-fetch"), hint),
    }
}
