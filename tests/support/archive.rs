//! Archives that nobody has taken: backups with a short manifest that Walden reads and parts that are never read, and WAL
//! that is only listed. Sealed by docs/format.md and not with Walden's code.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::place::Place;

/// The hour in which the test program began: the next one may begin before it ends.
static NOW: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::from_second(Timestamp::now().as_second() / 3600 * 3600).unwrap());

/// A backup; the numbers are those of segments of 16 MiB.
#[derive(Clone, Debug)]
pub struct Forged {
    pub system: u64,
    pub timeline: u32,
    pub start: u64,
    pub stop: u64,
    pub hours_ago: i64,
    pub postgres: u16,
    pub pinned: bool,
    pub damaged: bool,
    pub parts: u32,
}

impl Forged {
    /// One of timeline 1 that took a segment.
    pub fn new(system: u64, start: u64, hours_ago: i64) -> Forged {
        let (postgres, pinned, damaged) = (15, false, false);
        Forged { system, timeline: 1, start, stop: start, hours_ago, postgres, pinned, damaged, parts: 3 }
    }

    pub fn started(&self) -> Timestamp {
        *NOW - SignedDuration::from_hours(self.hours_ago)
    }

    pub fn id(&self) -> String {
        format!("{}-{}", self.started().strftime("%Y%m%dT%H%M%SZ"), segment(self.timeline, self.start))
    }

    fn key(&self, name: &str) -> String {
        format!("{}/backup/{}/{name}", self.system, self.id())
    }

    /// The keys of its objects, the short manifest last.
    pub fn keys(&self) -> Vec<String> {
        let parts = (0..self.parts).map(|part| self.key(&format!("v0/{part:06}")));
        parts.chain(["files", "backup.json"].map(|name| self.key(name))).collect()
    }

    pub fn manifest(&self) -> Vec<u8> {
        let lsn = |number: u64, offset: u64| format!("{:X}/{:X}", number >> 8, ((number & 0xFF) << 24) + offset);
        let mut value = json!({
            "format": 1, "walden": "0.1.0", "id": self.id(), "system_id": self.system.to_string(),
            "postgres": self.postgres, "started": self.started(),
            "finished": self.started() + SignedDuration::from_mins(5),
            "timeline": self.timeline, "start": lsn(self.start, 0x28), "stop": lsn(self.stop, 0x1000),
            "segment_size": 16 << 20, "data_checksums": true, "directory_mode": 448, "files": 1, "plain_size": 12,
            "stored_size": 12, "tablespaces": [], "files_blake3": "0",
        });
        if self.pinned {
            value["keep"] = true.into();
        }
        if self.damaged {
            value["pages"] = json!({ "checked": 10, "damaged": 1, "list": [] });
        }
        seal(&value)
    }

    /// Its objects.
    pub fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let content = |key: &str| if key.ends_with(".json") { self.manifest() } else { b"twelve bytes".to_vec() };
        self.keys().into_iter().map(|key| (key.clone(), content(&key))).collect()
    }

    pub fn store(&self, place: &Place) {
        self.objects().iter().for_each(|(key, content)| place.put(key, content));
    }
}

/// docs/format.md, "walden.json".
fn seal(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    let body = format!("{},\n", text.strip_suffix('}').unwrap());
    let sum: String = Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}\"sha256\":\"{sum}\"}}\n").into_bytes()
}

pub fn segment(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number >> 8, number & 0xFF)
}

pub fn wal_key(system: u64, timeline: u32, name: &str) -> String {
    format!("{system}/wal/{timeline:08X}/{name}")
}

/// The keys of these segments.
pub fn wal_keys(system: u64, timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|number| wal_key(system, timeline, &segment(timeline, number))).collect()
}

/// Stores segments, and returns their keys.
pub fn store_wal(place: &Place, system: u64, timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    let keys = wal_keys(system, timeline, numbers);
    for key in &keys {
        place.put(key, b"twelve bytes");
    }
    keys
}
