//! What the names in a data directory mean for a backup: PostgreSQL's own rules
//! (src/backend/backup/basebackup.c; documentation, "Backing Up the Data Directory").
//!
//! Pure: looks at names only.

use crate::postgres::relation::{FileName, Fork, is_number};

/// Files that are never part of a backup, wherever they lie (`excludeFiles`), and `.DS_Store`, which macOS leaves.
const LEFT_OUT: [&str; 8] = [
    ".DS_Store",
    "backup_label",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
];

/// The same by the beginning of their names: relation caches, temporary files and their directories
/// (`PG_TEMP_FILE_PREFIX`), and what a restore of ours that was killed at its very end may have left.
const LEFT_OUT_PREFIXES: [&str; 3] = ["pg_internal.init", "pgsql_tmp", ".walden-"];

/// Directories that must be there when a server starts, and empty (`excludeDirContents`).
const EMPTIED: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Is this file or directory no part of a backup? Goes beyond PostgreSQL in one point: signal files stay, for they say
/// what this server does, not what the restored one shall do.
pub fn is_left_out(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    LEFT_OUT.contains(&name)
        || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || (path == name && name.ends_with(".signal"))
}

/// Is this a directory of which only the entry belongs in a backup?
pub(super) fn is_emptied(name: &str) -> bool {
    EMPTIED.contains(&name)
}

/// Is this where the files of one database lie: `base/5`, or `pg_tblspc/16385/PG_15_202209061/5`?
pub(super) fn is_database_directory(path: &str, tablespace_directory: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["base", database] => is_number(database),
        ["pg_tblspc", _, directory, database] => *directory == tablespace_directory && is_number(database),
        _ => false,
    }
}

/// Is this a file of a relation of a session's own: `t3_16384`, `t3_16384_fsm.1` (`looks_like_temp_rel_name` in
/// src/backend/storage/file/fd.c)?
pub(super) fn is_temporary_relation(name: &str) -> bool {
    let parsed = || {
        let (session, rest) = name.strip_prefix('t')?.split_once('_')?;
        is_number(session).then_some(())?;
        relation_file(rest)
    };
    parsed().is_some()
}

/// The number of the relation whose file this is, and whether the file is its `init` fork, which only unlogged relations
/// have.
pub(super) fn relation_file(name: &str) -> Option<(&str, bool)> {
    FileName::parse(name).map(|file| (file.number, file.fork == Fork::Init))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERSION: &str = "PG_15_202209061";

    #[test]
    fn names_that_are_left_out() {
        for name in ["postmaster.pid", "pgsql_tmp", "pgsql_tmp1234.5", "pg_internal.init", "pg_internal.init.77"] {
            assert!(is_left_out(&format!("base/5/{name}")), "{name}");
        }
        for name in ["postmaster.pid.old", "backup_label.old", "tablespace_map.old", "PG_VERSION", "pg_internal"] {
            assert!(!is_left_out(name), "{name}");
        }
    }

    #[test]
    fn signal_files_are_left_out_where_postgresql_looks_for_them() {
        assert!(is_left_out("standby.signal"));
        assert!(is_left_out("recovery.signal"));
        assert!(!is_left_out("my/own.signal"));
    }

    #[test]
    fn only_databases_hold_relations() {
        for path in ["base/5", "pg_tblspc/16385/PG_15_202209061/5"] {
            assert!(is_database_directory(path, VERSION), "{path}");
        }
        for path in ["", "base", "global", "base/pgsql_tmp", "pg_tblspc/16385/PG_14_202107181/5", "base/5/6", "x/5"] {
            assert!(!is_database_directory(path, VERSION), "{path}");
        }
    }

    #[test]
    fn names_that_are_not_those_of_relations() {
        for name in
            ["", "PG_VERSION", "16384_", "16384.", "16384_x", "16384.1.2", "16384_main", "x16384", "12345678901"]
        {
            assert_eq!(relation_file(name), None, "{name}");
        }
        for name in ["t", "t_1", "t3", "t3_", "t3_x", "tx_1", "3_16384", "t3_16384_x", "t3_16384."] {
            assert!(!is_temporary_relation(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_file_of_a_relation_is_known(
            number in "[0-9]{1,10}",
            session in 0u32..9999,
            fork in prop::sample::select(vec!["", "_fsm", "_vm", "_init"]),
            segment in prop::option::of(1u32..100),
        ) {
            let segment = segment.map(|segment| format!(".{segment}")).unwrap_or_default();
            let name = format!("{number}{fork}{segment}");
            prop_assert_eq!(relation_file(&name), Some((number.as_str(), fork == "_init")));
            prop_assert!(!is_temporary_relation(&name));
            let temporary = format!("t{session}_{name}");
            prop_assert!(is_temporary_relation(&temporary));
            prop_assert_eq!(relation_file(&temporary), None);
        }
    }
}
