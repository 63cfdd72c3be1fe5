//! The paths of files in their archives. Pure.
//!
//! WAL-E writes them relative to the data directory, WAL-G with a slash before, PostgreSQL itself, in a backup that it has
//! sent to WAL-G, with `./`. All of them are the same path here, and none leads out of the data directory.

use crate::error::{Error, Kind, Result};

/// The path relative to the data directory; `None` for the data directory itself.
///
/// # Errors
/// [`Kind::Corrupt`] for one that leads out of it, or is no text.
pub fn relative(path: &[u8]) -> Result<Option<String>> {
    let refused = |detail: &str| {
        let shown = String::from_utf8_lossy(path);
        Err(Error::new(Kind::Corrupt, format!("\"{}\" is no path in a data directory", shown.escape_debug()))
            .detail(detail))
    };
    let Ok(text) = std::str::from_utf8(path) else { return refused("it is not UTF-8") };
    if text.contains('\0') {
        return refused("it has a zero byte");
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return refused("it leads out of it");
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// The number of the tablespace in which a path lies, or which it is: `pg_tblspc/16400/…`. `None` for all others; PostgreSQL
/// gives these entries no other names.
pub fn tablespace(path: &str) -> Option<u32> {
    let rest = path.strip_prefix("pg_tblspc/")?;
    rest.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn the_ways_to_write_a_path() {
        for (path, expected) in [
            ("/base/1/1259", Some("base/1/1259")),
            ("base/1/1259", Some("base/1/1259")),
            ("./base/1/", Some("base/1")),
            ("backup_label", Some("backup_label")),
            ("", None),
            ("/", None),
            ("./", None),
        ] {
            assert_eq!(relative(path.as_bytes()).unwrap().as_deref(), expected, "{path}");
        }
        for path in [&b"../x"[..], b"/base/../../x", b"..", b"base/\xff", b"base/\0x"] {
            assert_eq!(relative(path).unwrap_err().kind(), Kind::Corrupt);
        }
        assert_eq!(
            (tablespace("pg_tblspc/16400/PG_14_1/5/1"), tablespace("pg_tblspc/16400")),
            (Some(16400), Some(16400))
        );
        assert_eq!((tablespace("pg_tblspc"), tablespace("base/16400")), (None, None));
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_stays_within(path in prop::collection::vec(any::<u8>(), 0..20), dots in "[./a]{0,12}") {
            for bytes in [&path[..], dots.as_bytes()] {
                if let Ok(Some(path)) = relative(bytes) {
                    prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
                }
            }
        }
    }
}
