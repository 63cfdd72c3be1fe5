//! The words of `delete`: ours, and those of WAL-G and WAL-E that mean the same.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use jiff::Timestamp;

use super::Deletion;
use crate::backup::delete::expiry::Request;
use crate::backup::retention::Demand;
use crate::config::Settings;
use crate::config::options::{self, retention};
use crate::config::target::Selection;
use crate::config::value::Value;
use crate::error::{Error, Kind, Result};
use crate::layout::basebackups::LegacyName;

/// What is to be deleted.
///
/// # Errors
/// [`Kind::Usage`] for words that mean nothing, or something else to another tool; [`Kind::Config`] if no rule is set.
pub(super) fn deletion(what: &str, words: &[&str], matches: &ArgMatches, settings: &Settings) -> Result<Deletion> {
    require_use(what, matches)?;
    let min = settings.get(&retention::RETAIN_MIN)?;
    let even_the_last = settings.get(&retention::EVEN_THE_LAST)?;
    let demand = match (what, words) {
        ("garbage", []) => {
            return Ok(Deletion::Garbage { older_than: settings.get(&options::OLDER_THAN)? });
        }
        ("retain", []) | ("policy", []) => rules(settings.find(&retention::RETAIN)?, min, settings)?,
        // All our backups are full ones, so WAL-G's words change nothing.
        ("retain", [count] | ["FULL" | "FIND_FULL", count]) => rules(Some(read_count(count)?), min, settings)?,
        ("before", [text] | ["FIND_FULL", text]) => before(text, min)?,
        ("backup", [_, ..]) => {
            words.iter().try_for_each(|word| refuse_theirs(word))?;
            Demand::Backups { ids: words.iter().map(|id| id.parse()).collect::<Result<BTreeSet<_>>>()?, even_the_last }
        }
        ("everything", []) => Demand::Everything { even_the_last },
        _ => return Err(misunderstood(what, words)),
    };
    let command = [&[what], words].concat().join(" ");
    // Who deletes by hand says what; a standing policy keeps the archive clean.
    let garbage = what == "policy";
    Ok(Deletion::Expiry(Request { demand, garbage, command, older_than: settings.get(&options::OLDER_THAN)? }))
}

fn rules(newest: Option<u32>, min: u32, settings: &Settings) -> Result<Demand> {
    let window: Option<Duration> = settings.find(&retention::RETAIN_WINDOW)?;
    if newest.is_none() && window.is_none() {
        return Err(Error::new(Kind::Config, "no rule says which backups are to stay")
            .hint("Set WALDEN_RETAIN or WALDEN_RETAIN_WINDOW, or write walden delete retain 7 --window 14d."));
    }
    Ok(Demand::Rules { newest, window, min })
}

fn read_count(text: &str) -> Result<u32> {
    let origin = crate::config::Origin::Flag(retention::RETAIN.row.name);
    retention::RETAIN.row.check(text, &origin)?;
    u32::read(text)
}

fn before(text: &str, min: u32) -> Result<Demand> {
    if let Ok(selection) = text.parse::<Selection>() {
        refuse_theirs(text)?;
        return Ok(Demand::OlderThan(selection, min));
    }
    match Timestamp::read(text) {
        Ok(time) => Ok(Demand::Before(time, min)),
        Err(_) => Err(Error::new(Kind::Usage, format!("\"{text}\" is neither a time nor the id of a base backup"))
            .hint("Write a time such as '2026-11-01 00:00+01', LATEST, or an id as walden backup-list prints it.")),
    }
}

/// What WAL-E and WAL-G wrote is never deleted.
fn refuse_theirs(text: &str) -> Result<()> {
    LegacyName::parse(text).map_or(Ok(()), |name| Err(name.not_ours()))
}

/// A flag that would say nothing is refused: somebody relies on it.
fn require_use(what: &str, matches: &ArgMatches) -> Result<()> {
    let rows = [
        (&retention::RETAIN.row, ["policy", "retain", ""], "retain and policy"),
        (&retention::RETAIN_WINDOW.row, ["policy", "retain", ""], "retain and policy"),
        (&retention::RETAIN_MIN.row, ["policy", "retain", "before"], "retain, policy and before"),
        (&retention::EVEN_THE_LAST.row, ["backup", "everything", ""], "backup and everything"),
    ];
    for (row, uses, list) in rows {
        let given = matches.value_source(row.name) == Some(ValueSource::CommandLine);
        if given && !uses.contains(&what) {
            return Err(Error::new(Kind::Usage, format!("--{} says nothing to delete {what}", row.name))
                .hint(format!("It goes with delete {list}.")));
        }
    }
    Ok(())
}

fn misunderstood(what: &str, words: &[&str]) -> Error {
    let error = |text: String| Error::new(Kind::Usage, text);
    match (what, words) {
        ("everything", ["FORCE"]) => error("delete everything takes no FORCE".to_owned()).hint(
            "What is marked to be kept stays until walden backup-mark ID --no-keep. The last sound backup goes with \
             --even-the-last.",
        ),
        ("garbage", [_, ..]) => error(format!("\"{}\" is no kind of garbage", words.join(" ")))
            .hint("Write walden delete garbage; WAL that nothing needs goes with walden delete retain COUNT."),
        ("old-versions" | "target", _) => error(format!("\"{what}\" is nothing that can be deleted"))
            .hint("Write walden delete backup ID; what is of other versions of PostgreSQL goes in its turn."),
        ("retain", _) => error("it is not said how many backups are to be retained".to_owned())
            .hint("Write walden delete retain 7, or walden delete retain --window 14d."),
        ("before", _) => error("it is not said before what".to_owned())
            .hint("Write walden delete before '2026-11-01 00:00+01', or the id of a backup."),
        ("backup", _) => error("no backup is named".to_owned()).hint("Write walden delete backup ID; more ids can follow."),
        ("policy" | "everything", _) => error(format!("\"{}\" says nothing to delete {what}", words.join(" ")))
            .hint(format!("Write walden delete {what}.")),
        _ => error(format!("\"{what}\" is nothing that can be deleted")).hint(
            "Write walden delete retain, policy, before, backup, everything or garbage; walden delete --help has examples.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::{Parsed, Verb, parse};
    use crate::config::sources::Environment;

    fn run(line: &str, variables: &[(&str, &str)]) -> Result<Deletion> {
        let words = std::iter::once("walden").chain(["delete"]).chain(line.split('|').filter(|word| !word.is_empty()));
        let prefix = [("WALDEN_PREFIX", "s3://bucket")];
        let variables = prefix.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        match parse(words.map(Into::into), &variables.collect::<Environment>())? {
            Parsed::Run(invocation) => match invocation.verb {
                Verb::Delete(deletion) => Ok(deletion),
                other => panic!("{line}: {other:?}"),
            },
            other => panic!("{line}: {other:?}"),
        }
    }

    fn demand(line: &str, variables: &[(&str, &str)]) -> Demand {
        match run(line, variables).unwrap() {
            Deletion::Expiry(request) => request.demand,
            other => panic!("{line}: {other:?}"),
        }
    }

    const ID: &str = "20261121T013005Z-0000000100000000000000AB";

    #[test]
    fn words_of_ours_and_of_wal_g_become_demands() {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let rules = |newest, window, min| Demand::Rules { newest, window, min };
        assert_eq!(demand("retain|7", &[]), rules(Some(7), None, 1));
        assert_eq!(demand("retain|FULL|7|--confirm", &[]), rules(Some(7), None, 1));
        assert_eq!(demand("--confirm|retain|5", &[]), rules(Some(5), None, 1));
        assert_eq!(demand("retain|--window|14d|--min|3", &[]), rules(None, Some(days(14)), 3));
        let set = [("WALDEN_RETAIN", "4"), ("WALDEN_RETAIN_WINDOW", "2d"), ("WALDEN_RETAIN_MIN", "2")];
        assert_eq!(demand("policy", &set), rules(Some(4), Some(days(2)), 2));
        assert_eq!(demand("retain|9", &set), rules(Some(9), Some(days(2)), 2));
        assert_eq!(demand(&format!("before|{ID}"), &set), Demand::OlderThan(Selection::Id(ID.parse().unwrap()), 2));
        assert_eq!(demand("before|FIND_FULL|LATEST", &[]), Demand::OlderThan(Selection::Latest, 1));
        let time = "2026-11-01T00:00:00Z".parse().unwrap();
        assert_eq!(demand("before|2026-11-01 01:00+01", &[]), Demand::Before(time, 1));
        let ids = [ID.parse().unwrap()].into();
        assert_eq!(demand(&format!("backup|{ID}"), &[]), Demand::Backups { ids, even_the_last: false });
        assert_eq!(demand("everything|--even-the-last", &[]), Demand::Everything { even_the_last: true });
        assert!(matches!(run("garbage", &[]), Ok(Deletion::Garbage { .. })));
    }

    #[test]
    fn words_that_would_mean_something_else_are_refused_by_name() {
        for (line, kind, part) in [
            ("everything|FORCE", Kind::Usage, "FORCE"),
            ("garbage|ARCHIVES", Kind::Usage, "ARCHIVES"),
            ("old-versions", Kind::Usage, "old-versions"),
            ("target|base_0", Kind::Usage, "target"),
            ("retain", Kind::Config, "no rule"),
            ("retain|0", Kind::Usage, "retain"),
            ("retain|FULL", Kind::Usage, "retain"),
            ("retain|7|8", Kind::Usage, "how many"),
            ("policy", Kind::Config, "no rule"),
            ("policy|7|--retain|3", Kind::Usage, "says nothing"),
            ("before", Kind::Usage, "before what"),
            ("before|yesterday", Kind::Usage, "yesterday"),
            ("backup", Kind::Usage, "no backup"),
            ("backup|base_000000010000000000000002", Kind::Refused, "base_"),
            ("before|base_000000010000000000000002", Kind::Refused, "base_"),
            ("everything|--window|3d", Kind::Usage, "--retain-window says nothing"),
            ("retain|3|--even-the-last", Kind::Usage, "--even-the-last"),
            ("wal", Kind::Usage, "nothing that can be deleted"),
        ] {
            let error = run(line, &[]).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}: {error:?}");
            assert!(error.what().contains(part), "{line}: {error:?}");
            assert!(error.advice().is_some(), "{line}: {error:?}");
        }
    }
}
