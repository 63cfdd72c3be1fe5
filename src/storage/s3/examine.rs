//! What an identity may do with a bucket, and how the store behaves: found out by doing it, with one small object.
//!
//! Nothing is concluded from policies, which the identity could not read. What it may not do is no fault in itself: a
//! primary needs no right to read, and a standby none to write.

pub(super) mod witness;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::operation::put_object::PutObjectOutput;
use jiff::{SignedDuration, Timestamp};

use self::witness::{Seen, Watching, Witness};
use super::S3Store;
use super::body::Write;
use super::connect::is_amazon;
use super::failure::Action;
use super::identity::trace::Hop;
use crate::error::{Error, Kind, Result};
use crate::layout::Key;
use crate::storage::Store;
use crate::storage::examination::{Finding, Outcome, clock, probe, read_probe};
use crate::storage::retry::Policy;

/// How long one question may take: the whole examination is to end within seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long the way to the identity is looked at. The store is asked even if its token service does not answer.
const FOR_IDENTITY: Duration = Duration::from_millis(2500);

/// S3 refuses a request that is further off than this ("RequestTimeTooSkewed"; Amazon S3 API Reference, "Error responses").
const GREATEST_SKEW: SignedDuration = SignedDuration::from_mins(15);

/// Looks at everything, in an order in which each finding explains the next; stops where the rest could only fail for the
/// same reason.
pub(super) async fn examine(store: &S3Store, findings: &mut Vec<Finding>) {
    let store = S3Store { policy: Policy::once(PATIENCE), ..store.clone() };
    let (hops, failed) = tokio::time::timeout(FOR_IDENTITY, store.identity.trace()).await.unwrap_or_else(|_| {
        findings.push(silent_service());
        (Vec::new(), None)
    });
    findings.extend(hops.iter().map(|hop| identity(hop, is_amazon(&store.endpoint))));
    if let Some(error) = failed {
        findings.push(Finding::bad("identity", super::failure::unidentified(&error, "find out who we are")));
        return;
    }
    let (list, witness) = list(&store).await;
    let lists = list.is_ok();
    let Some(seen) = witness.seen() else {
        let unheard = || Error::new(Kind::Bug, "the store was not heard");
        findings.push(Finding::bad("store", list.err().unwrap_or_else(unheard)));
        return;
    };
    findings.push(reached(&store, &seen));
    let clock = seen.date.map(|date| clock(date, seen.at, "the store's", Some(GREATEST_SKEW)));
    let wrong_clock = clock.as_ref().is_some_and(|finding| matches!(finding.outcome, Outcome::Bad(_)));
    findings.extend(clock);
    match list {
        // A missing bucket, a wrong region, a wrong signature: nothing else can go well.
        Err(error) if !is_right(&error) => {
            findings.push(Finding::bad("bucket", error));
            return;
        }
        _ if wrong_clock => return,
        list => {
            let without = "WAL that is not there cannot be told from WAL that may not be read";
            findings.push(right("list", list, "s3:ListBucket", without));
        }
    }
    let (writes, wrote) = writing(&store).await;
    findings.extend(writes);
    findings.extend(reading(&store, wrote, lists).await);
    if wrote {
        findings.push(deleting(&store).await);
    }
}

fn silent_service() -> Finding {
    Finding::unseen(
        "identity",
        format!("who we are was not told within {} s", FOR_IDENTITY.as_secs_f32()),
        "Check AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_STS, AWS_REGION and the network.",
    )
}

/// One hop. Stores of one's own seldom have a token service to say whose a key is, Amazon always has.
fn identity(hop: &Hop, amazon: bool) -> Finding {
    let ends = hop.expires.map_or(String::new(), |end| format!(", until {}", end.strftime("%F %T%:z")));
    match &hop.who {
        Ok(arn) => Finding::good("identity", format!("{arn}, from {}{ends}", hop.origin)),
        Err(_) if !amazon => Finding::good("identity", format!("access key {}, from {}{ends}", hop.key, hop.origin)),
        Err(why) => Finding::limited(
            "identity",
            format!(
                "access key {}, from {}{ends}; the token service does not say whose it is: {why}",
                hop.key, hop.origin
            ),
            "Check AWS_REGION, and that the address of its token service can be reached: sts.REGION.amazonaws.com.",
        ),
    }
}

/// The first request shows whether there is a store, whether it has the bucket, and whether our clocks agree.
async fn list(store: &S3Store) -> (Result<()>, Arc<Witness>) {
    let witness = Arc::new(Witness::default());
    let request = |tracked| async {
        let request =
            store.listing("").max_keys(1).customize().interceptor(tracked).interceptor(Watching(witness.clone()));
        Ok(request.send().await.map(drop))
    };
    let outcome = store.send(Action::List, "", 0, store.policy, request).await;
    (outcome, witness)
}

fn reached(store: &S3Store, seen: &Seen) -> Finding {
    let region = match (&seen.region, store.client.config().region()) {
        (Some(theirs), _) => format!(", region {theirs}"),
        (None, Some(ours)) if is_amazon(&store.endpoint) => format!(", region {ours}"),
        _ => String::new(),
    };
    let milliseconds = seen.took.as_millis();
    Finding::good("store", format!("{} answers in {milliseconds} ms{region}", store.endpoint))
}

/// Whether an action was allowed.
fn right(check: &'static str, outcome: Result<()>, action: &str, without: &str) -> Finding {
    let hint = format!("Allow {action} below the prefix, if this identity is to do that.");
    Finding::right(check, outcome, without, hint)
}

/// A refusal of the action itself, and not of who asks.
fn is_right(error: &Error) -> bool {
    let codes = ["AccessDenied", "Forbidden", "AllAccessDisabled"];
    let says = |cause: &str| codes.iter().any(|code| cause.contains(code));
    error.kind() == Kind::Denied && error.cause().is_some_and(says)
}

/// Puts the probe, and again: what the store does with it. Returns whether the probe is there.
async fn writing(store: &S3Store) -> (Vec<Finding>, bool) {
    let first = put(store).await;
    let output = match first {
        Ok(output) => Some(output),
        Err(error) if error.kind() == Kind::AlreadyExists => None,
        Err(error) => {
            return (vec![right("put", Err(error), "s3:PutObject", "this identity cannot archive")], false);
        }
    };
    let mut findings = vec![Finding::good("put", "allowed")];
    if let Some(output) = &output {
        findings.extend(habits(store, output));
    }
    let refused = match output {
        None => true,
        Some(_) => matches!(put(store).await, Err(error) if error.kind() == Kind::AlreadyExists),
    };
    findings.push(match refused {
        true => Finding::good("create only", "If-None-Match is honoured"),
        false => Finding::limited(
            "create only",
            "If-None-Match is ignored: of two servers that archive the same file at the same moment one may overwrite the \
             other's",
            "Let one server alone archive to this prefix, or use a store that honours If-None-Match.",
        ),
    });
    (findings, true)
}

async fn put(store: &S3Store) -> Result<PutObjectOutput> {
    let write = Write::prepare(store, &probe()).await?;
    store.write(&Key::Doctor.to_string(), &write, true, store.policy).await.outcome
}

/// What the bucket does with new objects by itself.
fn habits(store: &S3Store, output: &PutObjectOutput) -> Vec<Finding> {
    let key = output.ssekms_key_id().map_or(String::new(), |key| format!(" with the key {key}"));
    let encryption = match output.server_side_encryption() {
        Some(encryption) => format!("{encryption}{key}"),
        None => "none that the store speaks of".to_owned(),
    };
    let versions = match output.version_id() {
        Some(version) if version != "null" => {
            "kept: what is deleted still takes space until a lifecycle rule removes it"
        }
        _ => "not kept",
    };
    vec![
        Finding::good("checksum", store.checksums.describe()),
        Finding::good("encryption at rest", encryption),
        Finding::good("old versions", versions),
    ]
}

/// Reads the probe, and something that is not there.
async fn reading(store: &S3Store, wrote: bool, lists: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if wrote {
        let read = read_probe(store).await;
        let reads = read.is_ok();
        findings.push(right("get", read, "s3:GetObject", "this identity cannot restore"));
        if reads {
            findings.extend(lock(store).await);
        }
    }
    let absent = store.get(&format!("{}.absent", Key::Doctor), None).await.map(drop);
    findings.push(match absent {
        Err(error) if error.kind() == Kind::NotFound => Finding::good("absence", "told by a 404"),
        Err(error) if error.kind() == Kind::Denied && lists => {
            // S3 answers 404 to whoever may list: this is about reading.
            Finding::limited("absence", "not told: nothing may be read", "Allow s3:GetObject below the prefix.")
        }
        Err(error) if error.kind() == Kind::Denied => Finding::limited(
            "absence",
            "a 403, as for what may not be read: the end of the WAL is told by the archive's marker object",
            "Allow s3:ListBucket on the bucket for this prefix, and S3 answers 404.",
        ),
        Err(error) => Finding::bad("absence", error),
        Ok(()) => {
            Finding::bad("absence", Error::new(Kind::Corrupt, "the store returns an object that was never stored"))
        }
    });
    findings
}

/// Whether the bucket locks new objects by itself; `None` if the store does not say.
async fn lock(store: &S3Store) -> Option<Finding> {
    let output = store.look(&Key::Doctor.to_string(), None).await.ok()?;
    let Some(mode) = output.object_lock_mode() else {
        return Some(Finding::good("object lock", "new objects are not locked by themselves"));
    };
    let until = output.object_lock_retain_until_date().and_then(|end| Timestamp::from_second(end.secs()).ok());
    let until = until.map_or(String::new(), |end| format!(" until {}", end.strftime("%F %T%:z")));
    Some(Finding::limited(
        "object lock",
        format!("new objects are locked ({mode}){until}: nothing can be removed for good before"),
        "Nothing, if that is meant: it is the default retention of the bucket.",
    ))
}

/// Takes the probe away, where that may be done.
async fn deleting(store: &S3Store) -> Finding {
    let outcome = store.delete(&[Key::Doctor.to_string()]).await;
    let without = "this identity cannot remove what is no longer needed, nor the probe that was just stored";
    right("delete", outcome, "s3:DeleteObject", without)
}
