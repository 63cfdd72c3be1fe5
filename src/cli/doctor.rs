//! What an examination is of, and how it is shown.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::foreign;
use crate::config::row::{Row, VerbName};
use crate::config::sources::Environment;
use crate::config::{Settings, options};
use crate::doctor::{Case, Report};
use crate::error::Result;
use crate::storage::examination::{Finding, Outcome};
use crate::storage::memory::Memory;

/// From the settings and the environment.
pub(super) fn case(data_directory: Option<PathBuf>, settings: &Settings, environment: &Environment) -> Result<Case> {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("walden"));
    Ok(Case {
        prefix: settings.get(&options::PREFIX)?,
        variables: environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        data_directory,
        spool: settings.find(&options::SPOOL_DIR)?,
        memory: Memory::at(settings.find(&options::CACHE_DIR)?),
        // Whatever concerns a writer concerns this one.
        refusal: foreign::require_honest(VerbName::BackupPush, settings, environment).err(),
        walden: call(&program, environment),
        program,
    })
}

/// How to call this very program, so that it finds the settings that it has now.
fn call(program: &Path, environment: &Environment) -> String {
    let program = program.display();
    let named = |row: &Row| {
        environment.get(&row.variable()).map(|value| format!(" --{} {value}", row.name)).unwrap_or_default()
    };
    format!("{program}{}{}", named(&options::ENVDIR.row), named(&options::CONFIG.row))
}

/// A line for each finding, with what could be done about it below; a heading for each side.
pub(super) fn text(report: &Report) -> String {
    let sides = report.sides().into_iter().filter(|(_, findings)| !findings.is_empty());
    let sides = sides.map(|(side, findings)| {
        let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        let lines: String = findings.iter().map(|finding| line(finding, width)).collect();
        format!("The {side}:\n{lines}")
    });
    sides.collect::<Vec<String>>().join("\n")
}

fn line(Finding { check, outcome }: &Finding, width: usize) -> String {
    let (verdict, found, hint) = parts(outcome);
    let indent = " ".repeat(width + 13);
    let hint = hint.map_or(String::new(), |hint| format!("{indent}hint: {hint}\n"));
    format!("  {verdict:<7}  {check:<width$}  {found}\n{hint}")
}

/// An array of objects with the strings `side` (`store`, `server` or `host`), `check`, `verdict` (`ok`, `limited`, `unseen`
/// or `failed`), `found`, and `hint` or null.
pub(super) fn json(report: &Report) -> String {
    let object = |side, Finding { check, outcome }: &Finding| {
        let (verdict, found, hint) = parts(outcome);
        json!({ "side": side, "check": check, "verdict": verdict, "found": found, "hint": hint })
    };
    let sides = report.sides().into_iter();
    let all = sides.flat_map(|(side, findings)| findings.iter().map(move |finding| object(side, finding)));
    format!("{:#}", Value::Array(all.collect()))
}

fn parts(outcome: &Outcome) -> (&'static str, String, Option<&str>) {
    match outcome {
        Outcome::Good(found) => ("ok", found.clone(), None),
        Outcome::Limited(found, hint) => ("limited", found.clone(), Some(hint)),
        Outcome::Unseen(found, hint) => ("unseen", found.clone(), Some(hint)),
        Outcome::Bad(error) => ("failed", error.to_string(), error.advice()),
    }
}
