//! Words in, words out: the command line, and what is printed.
//!
//! The only place that prints. Every way to end, panics too, comes through [`run`], which returns the exit code that its
//! caller (a person, the archiver, the startup process) understands rightly.

mod accounting;
pub mod arguments;
mod backups;
pub mod config;
mod deleting;
mod doctor;
mod help;
mod keys;
mod lines;
mod looking;
mod message;
mod opening;
mod pages;
mod resident;
mod restore_command;
mod restoring;
mod retaining;
mod signals;
mod standing;
mod theirs;
mod verbs;
mod wal;
mod watching;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use self::arguments::Parsed;
use self::lines::Prefix;
use crate::config::options;
use crate::config::row::VerbName;
use crate::config::sources::{Entry, Environment};
use crate::config::value::{LogFormat, OnError};
use crate::error::{Caller, Context, Error, Kind, Recovery, Result, exit_code};
use crate::postgres::datadir;

/// How this run is to end, as far as is known.
struct Ending {
    format: LogFormat,
    caller: Caller,
    prefix: Prefix,
}

/// Does what the command line says and returns the exit code. Does not panic and does not exit, but for a signal.
pub fn run(arguments: Vec<OsString>, variables: impl IntoIterator<Item = (OsString, OsString)>) -> u8 {
    let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
    let prefix = Prefix::of_standard_error(&variables);
    let mut ending = Ending { format: LogFormat::Text, caller: caller(&arguments), prefix };
    signals::answer_for(ending.caller);
    // A panic is reported below, in the form of every other error.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| act(arguments, variables, &mut ending)));
    let outcome = outcome.unwrap_or_else(|panic| Err(bug(&*panic)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            match ending.caller {
                // Nobody reads its standard error.
                Caller::Check => message::print(&standing::unknown(&error)),
                caller if is_probe(&error, caller) => tracing::info!("{error}"),
                _ => message::error(&error, ending.format, ending.prefix),
            }
            exit_code(error.kind(), ending.caller)
        }
    }
}

/// What PostgreSQL asks for at the end of the archive, again and again, and is answered with the exit code. Whoever asks by
/// hand reads it.
fn is_probe(error: &Error, caller: Caller) -> bool {
    let recovers = matches!(caller, Caller::Restore(Recovery::Standby | Recovery::Targeted));
    recovers && error.kind() == Kind::NotFound && !std::io::stderr().is_terminal()
}

/// Who will read the exit code: found without understanding the rest of the command line, for a mistake there must not
/// end a recovery either.
fn caller(arguments: &[OsString]) -> Caller {
    if arguments::may_be(VerbName::WalFetch, arguments) {
        // The working directory of restore_command is the data directory.
        Caller::Restore(datadir::recovery_mode(Path::new(".")))
    } else if arguments::may_be(VerbName::WalPush, arguments) {
        Caller::Archiver
    } else if arguments::may_be_check(arguments) {
        Caller::Check
    } else {
        Caller::Plain
    }
}

fn act(
    arguments: Vec<OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    ending: &mut Ending,
) -> Result<u8> {
    let environment = Environment::of_process(variables)?;
    match arguments::parse(arguments, &environment)? {
        Parsed::Print(text) => {
            message::print(&text);
            Ok(0)
        }
        Parsed::Enter(entry) => Err(enter(entry, &environment)),
        Parsed::Run(invocation) => {
            let settings = &invocation.settings;
            ending.format = settings.get(&options::LOG_FORMAT)?;
            ending.caller = match (ending.caller, settings.get(&options::ON_ERROR)?) {
                (Caller::Restore(_), OnError::Missing) => Caller::Restore(Recovery::Standby),
                (Caller::Restore(_), OnError::Abort) => Caller::Restore(Recovery::Targeted),
                (caller, _) => caller,
            };
            let repetition = message::start_log(settings.get(&options::LOG_LEVEL)?, ending.format, ending.prefix);
            let account = accounting::Run::begin(&invocation)?;
            let name = invocation.verb.name();
            let outcome = logged(name, &invocation.verb.object(), || verbs::run(invocation, &environment));
            if let Some(account) = account {
                account.end(&outcome);
            }
            match repetition.left_out() {
                0 => {}
                left_out => tracing::info!(left_out, "lines like those above were left out"),
            }
            outcome
        }
    }
}

/// Says when a verb begins and when it ends, with the same fields.
fn logged<T>(verb: VerbName, object: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (verb, began) = (verb.as_str(), Instant::now());
    tracing::info!(verb, object, "begins");
    let outcome = work();
    let told = outcome.as_ref().map_or_else(|error| format!("{:?}", error.kind()), |_| String::from("done"));
    tracing::info!(verb, object, outcome = told, ms = began.elapsed().as_millis() as u64, "ends");
    outcome
}

/// Starts anew with other variables: the AWS SDK reads the process's environment, and changing that while threads may run
/// is not safe. Returns only if it fails.
fn enter(entry: Entry, environment: &Environment) -> Error {
    let failed = |error: Error| match &entry.directory {
        Some(directory) => error.during(format!("could not use --envdir \"{}\"", directory.display())),
        None => error,
    };
    let variables = match entry.changes(environment) {
        Ok(variables) => variables,
        Err(error) => return error,
    };
    let program = match std::env::current_exe().during(|| "could not find this program's own file") {
        Ok(program) => program,
        Err(error) => return failed(error),
    };
    let mut command = Command::new(program);
    command.args(entry.arguments.iter().skip(1));
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    failed(Error::io("could not start anew", &command.exec()))
}

fn bug(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    // The runtime knows no other way to say so.
    if text.starts_with("OS can't spawn") {
        return Error::new(Kind::Local, "this machine gives no further thread")
            .detail(text)
            .hint("Raise the limits on memory and tasks (ulimit -v and -u, MemoryMax= and TasksMax= of the service).");
    }
    Error::new(Kind::Bug, "walden met a defect of its own")
        .detail(text)
        .hint("Please report it, with the command line and walden --version.")
}
