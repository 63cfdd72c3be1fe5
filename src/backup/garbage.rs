//! What failed backups and examinations of the store have left in an archive, and which of it may go. Pure.
//!
//! Age decides: what something was stored of lately may be a backup that is being taken, and from outside nobody can tell
//! it from one that has just died.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::layout::{BackupId, Key};
use crate::postgres::control::SystemId;

/// Objects that belong to nothing that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Of what.
    pub of: Of,
    /// How many objects.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// When the newest of them was stored, by the store's clock; of no meaning for [`Of::Writers`].
    pub newest: Timestamp,
}

/// What something has remained of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// A base backup that was begun and has no short manifest.
    Backup(SystemId, BackupId),
    /// A test or an examination of the store; this is its object.
    Probe(Key),
    /// Writers into a directory that were killed: files that never got a name. Only those that are old are found.
    Writers,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Of::Backup(system, id) => write!(f, "backup {id} of cluster {system}"),
            Of::Probe(key) => write!(f, "{key}"),
            Of::Writers => f.write_str("files that never got a name"),
        }
    }
}

/// What goes, and what stays for now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The moment for which it was made, by the store's clock.
    pub now: Timestamp,
    /// What is deleted.
    pub goes: Vec<Remains>,
    /// What is too young for that.
    pub stays: Vec<Remains>,
}

/// Sorts what was found: whatever nothing was stored of for `older_than` goes.
pub fn plan(found: Vec<Remains>, now: Timestamp, older_than: SignedDuration) -> Plan {
    let old = |remains: &Remains| remains.of == Of::Writers || now.duration_since(remains.newest) >= older_than;
    let (goes, stays) = found.into_iter().filter(|remains| remains.objects > 0).partition(old);
    Plan { now, goes, stays }
}

/// Objects and bytes of all of these.
pub fn sum<'a>(remains: impl IntoIterator<Item = &'a Remains>) -> (u64, u64) {
    remains.into_iter().fold((0, 0), |(objects, bytes), one| (objects + one.objects, bytes + one.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_remains() -> impl Strategy<Value = Remains> {
        let of = prop_oneof![Just(Of::Writers), Just(Of::Probe(Key::Probe)), Just(Of::Probe(Key::Doctor))];
        (of, 0u64..5, 0u64..1000, -10_000i64..1000).prop_map(|(of, objects, bytes, newest)| {
            let newest = Timestamp::from_second(1_800_000_000 + newest).unwrap();
            Remains { of, objects, bytes, newest }
        })
    }

    proptest! {
        #[test]
        fn what_is_young_or_of_the_future_stays_and_nothing_is_lost(found in prop::collection::vec(any_remains(), 0..20), older_than in 0i64..10_000) {
            let now = Timestamp::from_second(1_800_000_000).unwrap();
            let plan = plan(found.clone(), now, SignedDuration::from_secs(older_than));
            let (goes, stays) = (sum(&plan.goes), sum(&plan.stays));
            prop_assert_eq!(sum(found.iter().filter(|one| one.objects > 0)), (goes.0 + stays.0, goes.1 + stays.1));
            for one in plan.goes.iter().filter(|one| one.of != Of::Writers) {
                prop_assert!(now.duration_since(one.newest).as_secs() >= older_than);
            }
            for one in &plan.stays {
                prop_assert!(now.duration_since(one.newest).as_secs() < older_than);
            }
        }
    }
}
