//! How an examination is shown.

use serde_json::{Value, json};

use crate::storage::examination::{Finding, Outcome};

/// A line for each finding, with what could be done about it below.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    findings.iter().map(|finding| line(finding, width)).collect()
}

fn line(Finding { check, outcome }: &Finding, width: usize) -> String {
    let (verdict, found, hint) = parts(outcome);
    let indent = " ".repeat(width + 11);
    let hint = hint.map_or(String::new(), |hint| format!("{indent}hint: {hint}\n"));
    format!("{verdict:<7}  {check:<width$}  {found}\n{hint}")
}

/// An array of objects with the strings `check`, `verdict` (`ok`, `limited` or `failed`), `found`, and `hint` or null.
pub(super) fn json(findings: &[Finding]) -> String {
    let object = |Finding { check, outcome }: &Finding| {
        let (verdict, found, hint) = parts(outcome);
        json!({ "check": check, "verdict": verdict, "found": found, "hint": hint })
    };
    format!("{:#}", Value::Array(findings.iter().map(object).collect()))
}

fn parts(outcome: &Outcome) -> (&'static str, String, Option<&str>) {
    match outcome {
        Outcome::Good(found) => ("ok", found.clone(), None),
        Outcome::Limited(found, hint) => ("limited", found.clone(), Some(hint)),
        Outcome::Bad(error) => ("failed", error.to_string(), error.advice()),
    }
}
