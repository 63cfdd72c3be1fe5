//! `walden doctor`: who we are to the store, what we may do there, and what is there.

use crate::archive::Archive;
use crate::error::{Error, Kind, Result};
use crate::storage::examination::{Finding, Outcome};

/// Looks at everything, also where something fails; takes seconds.
pub async fn examine(archive: &Archive) -> Vec<Finding> {
    let mut findings = archive.store().examine().await;
    // Whoever may not list has been told so; and what cannot be reached has no content.
    if findings.iter().any(|finding| finding.check == "list" && matches!(finding.outcome, Outcome::Good(_))) {
        findings.push(content(archive).await);
    }
    findings
}

async fn content(archive: &Archive) -> Finding {
    match archive.clusters().await {
        Ok(systems) => {
            let systems: Vec<String> = systems.iter().map(ToString::to_string).collect();
            Finding::good("archive", format!("of the system identifiers {}", systems.join(", ")))
        }
        Err(error) if error.kind() == Kind::Config => Finding::good("archive", "empty: nothing was archived here yet"),
        Err(error) => Finding::bad("archive", error),
    }
}

/// Whether all is well, but for limits.
///
/// # Errors
/// The first failure's kind, with the number of failures.
pub fn judge(findings: &[Finding]) -> Result<()> {
    let failures: Vec<&Error> = findings.iter().filter_map(failure).collect();
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(first.kind(), format!("{} of {} checks failed", failures.len(), findings.len()))),
    }
}

fn failure(finding: &Finding) -> Option<&Error> {
    match &finding.outcome {
        Outcome::Bad(error) => Some(error),
        _ => None,
    }
}
