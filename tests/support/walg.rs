//! WAL-G, as its formats are described (docs/legacy-backups.md): base backups of a real server, full ones and deltas. WAL-G
//! itself has no part in it, and nor has Walden's own code.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use super::cluster::{Cluster, connect};
use super::forge::{SYSTEM_ID, Segment, control_file};
use super::legacy::{secretstream, through};
use super::scene::small;

const PAGE: usize = 8192;

/// Bytes of the files in one archive, so that there are several.
const ARCHIVE: u64 = 8 << 20;

/// Excluded with all that is in them, but not themselves (`ExcludedFilenames` in WAL-G's bundle.go).
const EMPTIED: [&str; 9] = [
    "log",
    "pg_wal",
    "pgsql_tmp",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_stat_tmp",
    "pg_subtrans",
];
const EXCLUDED: [&str; 4] = ["postmaster.pid", "postmaster.opts", "recovery.conf", "standby.signal"];

/// What its sentinels look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With the list of files in the sentinel.
    Inline,
    /// Version 1.
    First,
    /// Version 2, as today.
    Second,
    /// Version 2, without a list of files.
    Unlisted,
    /// Version 2 as WAL-RUS writes it: archives are listed without the extension of their codec.
    Rus,
}

/// A WAL-G that stores in a directory.
#[derive(Clone, Debug)]
pub struct WalG {
    pub root: PathBuf,
    /// The extension, and the program that compresses so.
    pub codec: (&'static str, &'static [&'static str]),
    pub form: Form,
    /// With this key of libsodium, or not at all.
    pub key: Option<[u8; 32]>,
}

/// A backup that it has taken.
#[derive(Clone, Debug)]
pub struct Taken {
    pub name: String,
    pub start: u64,
    full: String,
    count: u32,
    mtimes: BTreeMap<String, i128>,
}

/// The archives of a backup in the making.
struct Archives<'a> {
    walg: &'a WalG,
    name: String,
    open: tar::Builder<Vec<u8>>,
    members: Vec<String>,
    sets: Map<String, Value>,
    stored: u64,
}

impl<'a> Archives<'a> {
    fn of(walg: &'a WalG, name: &str) -> Archives<'a> {
        let open = tar::Builder::new(Vec::new());
        Archives { walg, name: name.to_owned(), open, members: Vec::new(), sets: Map::new(), stored: 0 }
    }

    /// What is stored when all else is there.
    fn last(&mut self, control: &[u8], label: &str, map: &str) {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "/global/pg_control", 0o600, tar::EntryType::Regular, control);
        self.put("pg_control.tar", &tar.into_inner().unwrap());
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "backup_label", 0o600, tar::EntryType::Regular, label.as_bytes());
        append(&mut tar, "tablespace_map", 0o600, tar::EntryType::Regular, map.as_bytes());
        let name = self.put("backup_label.tar", &tar.into_inner().unwrap());
        self.sets.insert(name, json!(["tablespace_map", "backup_label"]));
    }

    fn put(&mut self, tar: &str, bytes: &[u8]) -> String {
        let name = format!("{tar}{}", self.walg.codec.0);
        let bytes = self.walg.packed(bytes);
        self.stored += bytes.len() as u64;
        self.walg.store(&format!("basebackups_005/{}/tar_partitions/{name}", self.name), &bytes);
        if self.walg.form == Form::Rus { tar.to_owned() } else { name }
    }

    fn close(&mut self) {
        let open = std::mem::replace(&mut self.open, tar::Builder::new(Vec::new()));
        if self.members.is_empty() {
            return;
        }
        let bytes = open.into_inner().unwrap();
        let tar = format!("part_{:03}.tar", self.sets.len() + 1);
        let name = self.put(&tar, &bytes);
        self.sets.insert(name, json!(std::mem::take(&mut self.members)));
    }

    fn add(&mut self, path: &str, mode: u32, kind: tar::EntryType, content: &[u8]) {
        append(&mut self.open, path, mode, kind, content);
        self.members.push(path.to_owned());
        if self.open.get_ref().len() as u64 > ARCHIVE {
            self.close();
        }
    }
}

/// Adds a member whose name may begin with a slash, as Go's does.
pub fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    assert!(path.len() < 100, "{path}");
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(mode);
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// An increment of a file: the pages that are as new as `since`, or empty.
pub fn increment(content: &[u8], since: u64) -> Vec<u8> {
    let changed: Vec<(u32, &[u8])> =
        (0..).zip(content.chunks(PAGE)).filter(|(_, page)| is_since(page, since)).collect();
    let mut bytes = b"wi1\x55".to_vec();
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend((changed.len() as u32).to_le_bytes());
    changed.iter().for_each(|(block, _)| bytes.extend(block.to_le_bytes()));
    changed.iter().for_each(|(_, page)| bytes.extend(*page));
    bytes
}

fn is_since(page: &[u8], since: u64) -> bool {
    let word = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().unwrap()));
    page[14..16] == [0, 0] || word(0) << 32 | word(4) >= since
}

fn is_paged(path: &str, size: usize) -> bool {
    let name = path.rsplit('/').next().unwrap();
    let numbers = name.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    (path.starts_with("/base/") || path.starts_with("/pg_tblspc/")) && numbers && size > 0 && size.is_multiple_of(PAGE)
}

impl WalG {
    pub fn store(&self, key: &str, bytes: &[u8]) {
        let path = self.root.join(key);
        let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|above| !above.exists()).collect();
        missing.reverse();
        for above in missing {
            fs::create_dir(above).unwrap();
            fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, bytes).unwrap();
    }

    /// Compressed, and then encrypted.
    fn packed(&self, bytes: &[u8]) -> Vec<u8> {
        let bytes = through(self.codec.1, bytes);
        self.key.map_or(bytes.clone(), |key| secretstream(&bytes, key))
    }

    /// What a server archives with.
    pub fn archive_command(&self) -> String {
        let to = format!("{}/wal_005/%f{}", self.root.display(), self.codec.0);
        let how = self.codec.1.join(" ");
        format!("mkdir -p {}/wal_005 && {how} <%p >{to}.new && mv {to}.new {to}", self.root.display())
    }

    /// Takes a backup: a full one, or a delta of another.
    pub fn back_up(&self, cluster: &Cluster, from: Option<&Taken>) -> Taken {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.take(cluster, from))
    }

    async fn take(&self, cluster: &Cluster, from: Option<&Taken>) -> Taken {
        let client = connect(&cluster.socket()).await.unwrap();
        let new = cluster.postgres().major >= 15;
        let began = if new { "pg_backup_start('walg', true)" } else { "pg_start_backup('walg', true, false)" };
        let began_at = Timestamp::now();
        let row = one(&client, &format!("SELECT lsn - '0/0'::pg_lsn, pg_walfile_name(lsn) FROM {began} AS lsn")).await;
        let (start, segment): (u64, String) = (row[0].parse().unwrap(), row[1].clone());
        let name = match from {
            Some(base) => format!("base_{segment}_D_{}", &base.name[5..29]),
            None => format!("base_{segment}"),
        };
        let mut archives = Archives::of(self, &name);
        let mut walk = Walk { from, files: Map::new(), mtimes: BTreeMap::new(), spec: Vec::new() };
        walk.directory(&cluster.data(), "", &mut archives);
        archives.close();
        let control = fs::read(cluster.data().join("global/pg_control")).unwrap();
        let stopped = if new { "pg_backup_stop(true)" } else { "pg_stop_backup(false, true)" };
        let row =
            one(&client, &format!("SELECT lsn - '0/0'::pg_lsn, labelfile, coalesce(spcmapfile, '') FROM {stopped}"))
                .await;
        archives.last(&control, &row[1], &row[2]);
        let system: u64 = one(&client, "SELECT system_identifier FROM pg_control_system()").await[0].parse().unwrap();
        let major = cluster.postgres().major;
        let mut sentinel = json!({
            "LSN": start, "PgVersion": u32::from(major) * 10_000 + 3, "FinishLSN": row[0].parse::<u64>().unwrap(),
            "SystemIdentifier": system, "UncompressedSize": archives.stored * 3, "CompressedSize": archives.stored,
            "Spec": walk.spec(&cluster.data()), "UserData": null,
        });
        if let Some(base) = from {
            sentinel["DeltaLSN"] = base.start.into();
            sentinel["DeltaFrom"] = base.name.as_str().into();
            sentinel["DeltaFullName"] = base.full.as_str().into();
            sentinel["DeltaCount"] = (base.count + 1).into();
        }
        let (files, sets) = (Value::Object(walk.files), Value::Object(archives.sets));
        self.finish(&name, sentinel, files, sets, (began_at, Timestamp::now()));
        let full = from.map_or(name.clone(), |base| base.full.clone());
        Taken { name, start, full, count: from.map_or(0, |base| base.count + 1), mtimes: walk.mtimes }
    }
}

/// What a forged backup has of a file.
#[derive(Clone, Debug)]
pub enum Has {
    /// All of it.
    Whole(Vec<u8>),
    /// An increment, as [`increment`] makes it.
    Pages(Vec<u8>),
    /// Nothing: it is as in the backup before.
    Same,
}

/// A backup of no server: of forged files, in a cluster with segments of 1 MiB. It begins and ends in one segment.
#[derive(Clone, Debug)]
pub struct Forged {
    /// The number of that segment.
    pub number: u64,
    /// That of the backup before, and its name.
    pub from: Option<(u64, String)>,
    /// Does its name have that of all deltas before it, as WAL-RUS's do?
    pub names_all: bool,
    pub files: Vec<(&'static str, Has)>,
}

impl Forged {
    pub fn segment(&self) -> Segment {
        small(self.number)
    }

    pub fn start(&self) -> u64 {
        (self.number << 20) + 0x28
    }

    pub fn name(&self) -> String {
        let segment = self.segment().name();
        match &self.from {
            Some((_, name)) if self.names_all => format!("base_{segment}_D_{}", &name["base_".len()..]),
            Some((number, _)) => format!("base_{segment}_D_{}", small(*number).name()),
            None => format!("base_{segment}"),
        }
    }

    pub fn label(&self) -> String {
        let (start, segment) = (self.start(), self.segment().name());
        format!(
            "START WAL LOCATION: 0/{start:X} (file {segment})\nCHECKPOINT LOCATION: 0/{:X}\nBACKUP METHOD: streamed\n\
             BACKUP FROM: primary\nSTART TIME: 2024-05-01 10:00:00 UTC\nLABEL: walg\nSTART TIMELINE: 1\n",
            start + 0x38
        )
    }
}

impl WalG {
    /// Stores a forged backup, two files to an archive, and the segment that its recovery needs.
    pub fn forge(&self, backup: &Forged) {
        let name = backup.name();
        let mut archives = Archives::of(self, &name);
        let mut files = Map::new();
        let about = |pages: bool, same: bool| json!({ "IsIncremented": pages, "IsSkipped": same, "MTime": "2024-05-01T10:00:00Z" });
        for directory in ["", "/base", "/base/5", "/global", "/pg_wal", "/pg_tblspc"] {
            archives.add(directory, 0o700, tar::EntryType::Directory, b"");
            files.insert(directory.to_owned(), about(false, false));
        }
        for (path, has) in &backup.files {
            let (pages, same) = (matches!(has, Has::Pages(_)), matches!(has, Has::Same));
            if let Has::Whole(content) | Has::Pages(content) = has {
                archives.add(path, 0o600, tar::EntryType::Regular, content);
                if archives.members.len() >= 2 {
                    archives.close();
                }
            }
            files.insert((*path).to_owned(), about(pages, same));
        }
        archives.close();
        archives.last(&control(SYSTEM_ID), &backup.label(), "");
        let mut sentinel = json!({
            "LSN": backup.start(), "PgVersion": 150_003, "FinishLSN": backup.start() + 0x100, "SystemIdentifier": SYSTEM_ID,
            "UncompressedSize": 1, "CompressedSize": archives.stored, "Spec": null, "UserData": { "free": ["form"] },
        });
        if let Some((number, name)) = &backup.from {
            sentinel["DeltaLSN"] = ((number << 20) + 0x28).into();
            sentinel["DeltaFrom"] = name.as_str().into();
            sentinel["DeltaFullName"] = name.as_str().into();
            sentinel["DeltaCount"] = 1.into();
            if self.form == Form::Rus {
                sentinel["IncrementFormat"] = "wi1".into();
            }
        }
        let finished = Timestamp::from_second(1_714_557_600 + backup.number as i64 * 3600).unwrap();
        self.finish(&name, sentinel, Value::Object(files), Value::Object(archives.sets), (finished, finished));
        self.wal(backup.number);
    }

    /// Stores a segment.
    pub fn wal(&self, number: u64) {
        let segment = small(number);
        let bytes = self.packed(&segment.bytes());
        self.store(&format!("wal_005/{}{}", segment.name(), self.codec.0), &bytes);
    }

    fn finish(
        &self,
        name: &str,
        mut sentinel: Value,
        files: Value,
        sets: Value,
        (began, ended): (Timestamp, Timestamp),
    ) {
        if matches!(self.form, Form::Second | Form::Unlisted | Form::Rus) {
            let second = json!({ "Version": 2, "StartTime": began, "FinishTime": ended, "DateFmt": "x",
                "Hostname": "h", "DataDir": "/data", "IsPermanent": false, "Timeline": 1 });
            sentinel.as_object_mut().unwrap().extend(second.as_object().unwrap().clone());
        }
        match self.form {
            Form::Inline => (sentinel["Files"], sentinel["TarFileSets"]) = (files, sets),
            Form::Unlisted => sentinel["FilesMetadataDisabled"] = true.into(),
            Form::First | Form::Second | Form::Rus => {
                let list =
                    json!({ "Files": files, "TarFileSets": sets, "DatabasesByNames": { "postgres": { "oid": 5 } } });
                self.store(&format!("basebackups_005/{name}/files_metadata.json"), list.to_string().as_bytes());
            }
        }
        self.store(&format!("basebackups_005/{name}_backup_stop_sentinel.json"), sentinel.to_string().as_bytes());
    }
}

/// `global/pg_control` of a cluster that was built as usual.
pub fn control(system_id: u64) -> Vec<u8> {
    let mut bytes = control_file(15, system_id, 1 << 20);
    bytes[220..224].copy_from_slice(&131_072u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    bytes
}

struct Walk<'a> {
    from: Option<&'a Taken>,
    files: Map<String, Value>,
    mtimes: BTreeMap<String, i128>,
    /// Tablespaces: number and place.
    spec: Vec<(String, PathBuf)>,
}

impl Walk<'_> {
    fn note(&mut self, path: &str, incremented: bool, skipped: bool) {
        let about = json!({ "IsIncremented": incremented, "IsSkipped": skipped, "MTime": "2024-05-01T10:00:00Z" });
        self.files.insert(path.to_owned(), about);
    }

    fn directory(&mut self, directory: &Path, path: &str, archives: &mut Archives<'_>) {
        let mode = directory.metadata().unwrap().mode() & 0o7777;
        // The links to tablespaces are in no archive, only what is behind them.
        if !self.spec.iter().any(|(oid, _)| path == format!("/pg_tblspc/{oid}")) {
            archives.add(path, mode, tar::EntryType::Directory, b"");
            self.note(path, false, false);
        }
        if EMPTIED.contains(&path.rsplit('/').next().unwrap()) {
            return;
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            let inner = format!("{path}/{name}");
            if path == "/pg_tblspc" && entry.is_symlink() {
                self.spec.push((name, fs::read_link(&entry).unwrap()));
                self.directory(&entry, &inner, archives);
            } else if entry.is_dir() {
                self.directory(&entry, &inner, archives);
            } else if !EXCLUDED.contains(&name.as_str()) && name != "pg_control" {
                self.file(&entry, &inner, archives);
            }
        }
    }

    fn file(&mut self, file: &Path, path: &str, archives: &mut Archives<'_>) {
        // It may have been deleted since the directory was read.
        let Ok(metadata) = file.metadata() else { return };
        let Ok(content) = fs::read(file) else { return };
        let mtime = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        self.mtimes.insert(path.to_owned(), mtime);
        let (mode, kind) = (metadata.mode() & 0o7777, tar::EntryType::Regular);
        match self.from.and_then(|base| Some((base, base.mtimes.get(path)?))) {
            Some((_, before)) if *before == mtime => self.note(path, false, true),
            Some((base, _)) if is_paged(path, content.len()) => {
                archives.add(path, mode, kind, &increment(&content, base.start));
                self.note(path, true, false);
            }
            _ => {
                archives.add(path, mode, kind, &content);
                self.note(path, false, false);
            }
        }
    }

    fn spec(&self, data: &Path) -> Value {
        if self.spec.is_empty() {
            return Value::Null;
        }
        let names: Vec<&String> = self.spec.iter().map(|(oid, _)| oid).collect();
        let mut spec = json!({ "base_prefix": data, "tablespaces": names });
        for (oid, place) in &self.spec {
            spec[oid] = json!({ "loc": place, "link": format!("pg_tblspc/{oid}") });
        }
        spec
    }
}

async fn one(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap();
    let row = messages.into_iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.unwrap();
    (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
}
