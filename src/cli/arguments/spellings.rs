//! Options of WAL-E and WAL-G that mean the same here, or ask for what is always done: understood, and not shown in help.
//! What would mean something else is refused, like any other word that is not known.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::options::{self, MAX_RATE, PREFIX, WORKERS};
use crate::config::row::VerbName;
use crate::config::sources::Environment;
use crate::error::{Error, Kind, Result};

/// Logs no more than warnings, as Walden does unless it is told otherwise.
const TERSE: &str = "terse";

/// Takes the role of the instance, as is done where no other credentials are given.
const INSTANCE_PROFILE: &str = "aws-instance-profile";

/// Shows what would be deleted, as is done without `--confirm`.
const DRY_RUN: &str = "delete-dry-run";

/// Options that stand before or behind any verb.
pub(super) fn of_every_verb(command: Command) -> Command {
    command
        .mut_arg(PREFIX.row.name, |arg| arg.aliases(["s3-prefix", "file-prefix"]))
        .args([TERSE, INSTANCE_PROFILE].map(|name| flag(name).global(true)))
}

/// Options of one verb.
pub(super) fn of(verb: VerbName, command: Command) -> Command {
    match verb {
        VerbName::BackupPush => command
            .mut_arg(WORKERS.row.name, |arg| arg.alias("pool-size"))
            .mut_arg(MAX_RATE.row.name, |arg| arg.alias("cluster-read-rate-limit"))
            .mut_arg(options::KEEP.row.name, |arg| arg.alias("permanent"))
            // All backups are full ones, and all pages are verified.
            .args([flag("full").short('f'), flag("verify").short('v')]),
        VerbName::BackupFetch => command
            .mut_arg(WORKERS.row.name, |arg| arg.alias("pool-size"))
            // Nothing is unpacked that another file replaces.
            .args(["reverse-unpack", "skip-redundant-tars"].map(flag)),
        VerbName::Delete => {
            command.arg(flag(DRY_RUN).long("dry-run").short('n').conflicts_with(options::CONFIRM.row.name))
        }
        _ => command,
    }
}

fn flag(name: &'static str) -> Arg {
    Arg::new(name).long(name).hide(true).action(ArgAction::SetTrue)
}

/// Refuses what another tool would have taken to mean something else.
///
/// # Errors
/// [`Kind::Usage`], naming the option.
pub(super) fn check(matches: &ArgMatches, environment: &Environment) -> Result<()> {
    if matches.get_flag(INSTANCE_PROFILE) && environment.get("AWS_ACCESS_KEY_ID").is_some() {
        return Err(Error::new(Kind::Usage, format!("--{INSTANCE_PROFILE} is given together with an access key"))
            .detail("AWS_ACCESS_KEY_ID is set, and wins over the role of the instance")
            .hint(format!("Unset AWS_ACCESS_KEY_ID, or leave out --{INSTANCE_PROFILE}.")));
    }
    Ok(())
}
