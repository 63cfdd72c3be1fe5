//! How it is shown what is deleted, and what was.

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use super::standing::ago;
use crate::backup::garbage::{Of, Plan, Remains, sum};
use crate::observe::words::counted;

/// What would be deleted, and what to type to have it deleted.
pub(super) fn planned(plan: &Plan) -> String {
    if plan.goes.is_empty() {
        return format!("{}there is nothing to delete\n", staying(plan));
    }
    let goes = plan.goes.iter().map(|remains| line("would delete", remains, &why(remains, plan)));
    format!(
        "{}{}nothing has been deleted: {} go with --confirm\n",
        goes.collect::<String>(),
        staying(plan),
        amount(sum(&plan.goes))
    )
}

/// The lines of a plan that deletes other things as well.
pub(super) fn lines(plan: &Plan) -> String {
    let goes = plan.goes.iter().map(|remains| line("goes  ", remains, &why(remains, plan)));
    goes.collect::<String>() + &staying(plan)
}

/// What has been deleted.
pub(super) fn done(plan: &Plan, deleted: &[Remains]) -> String {
    let lines = deleted.iter().map(|remains| line("deleted", remains, &why(remains, plan)));
    format!("{}{}deleted {}\n", lines.collect::<String>(), staying(plan), amount(sum(deleted)))
}

fn staying(plan: &Plan) -> String {
    let why = |remains: &Remains| format!("{}; younger than --older-than", why(remains, plan));
    plan.stays.iter().map(|remains| line("stays ", remains, &why(remains))).collect()
}

fn line(fate: &str, remains: &Remains, why: &str) -> String {
    format!("{fate} {}: {}: {why}\n", remains.of, amount((remains.objects, remains.bytes)))
}

/// So many objects with so many bytes.
pub(super) fn amount((objects, bytes): (u64, u64)) -> String {
    format!("{}, {}", counted(objects, "object"), BinaryBytes(bytes))
}

fn why(remains: &Remains, plan: &Plan) -> String {
    let age = ago(remains.newest, plan.now);
    match remains.of {
        Of::Backup(..) if plan.stays.contains(remains) => format!("it may be being taken, the newest is {age} old"),
        Of::Backup(..) => format!("never completed, and nothing was stored of it for {age}"),
        Of::Probe(_) => format!("left by a test of the store {age} ago"),
        Of::Writers => "their writers were killed more than an hour ago".to_owned(),
    }
}

/// The same; its form is in docs/json.md.
pub(super) fn json(plan: &Plan, deleted: Option<&[Remains]>) -> String {
    format!("{:#}", object(plan, deleted))
}

/// The same as a part of a plan that deletes other things as well.
pub(super) fn object(plan: &Plan, deleted: Option<&[Remains]>) -> Value {
    let list = |remains: &[Remains]| remains.iter().map(|remains| value(remains, plan)).collect::<Vec<Value>>();
    json!({
        "confirmed": deleted.is_some(),
        "goes": list(&plan.goes),
        "stays": list(&plan.stays),
        "deleted": deleted.map_or_else(Vec::new, list),
    })
}

fn value(remains: &Remains, plan: &Plan) -> Value {
    let (kind, system, name) = match &remains.of {
        Of::Backup(system, id) => ("backup", Some(*system), Some(id.to_string())),
        Of::Probe(key) => ("probe", None, Some(key.to_string())),
        Of::Writers => ("staged", None, None),
    };
    let newest = (remains.of != Of::Writers).then_some(remains.newest);
    json!({
        "kind": kind,
        "system_id": system,
        "name": name,
        "objects": remains.objects,
        "bytes": remains.bytes,
        "newest": newest,
        "reason": why(remains, plan),
    })
}
