//! Whom the restored files belong to, where that is not whoever restores them.
//!
//! Looks names up and gives files away; never decides whether that is needed.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use crate::config::target::OwnerName;
use crate::error::{Context, Error, Kind, Result};

/// A user and a group of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// Looks the names up; a number that is no name is taken for itself, as chown(1) does.
    ///
    /// # Errors
    /// [`Kind::Usage`] if there is no such user or group, [`Kind::Refused`] for root, as whom PostgreSQL does not run.
    pub(super) fn find(name: &OwnerName) -> Result<Owner> {
        let known = uzers::get_user_by_name(&name.user);
        let number = || name.user.parse().ok();
        let known = known.map(|user| (user.uid(), Some(user.primary_group_id()))).or_else(|| {
            let uid = number()?;
            Some((uid, uzers::get_user_by_uid(uid).map(|user| user.primary_group_id())))
        });
        let Some((uid, own_group)) = known else {
            return Err(Error::new(Kind::Usage, format!("this machine has no user \"{}\"", name.user))
                .hint("Name the user that runs PostgreSQL: --owner postgres."));
        };
        let gid = match &name.group {
            Some(group) => uzers::get_group_by_name(group).map(|group| group.gid()).or_else(|| group.parse().ok()),
            None => own_group,
        };
        let gid = gid.ok_or_else(|| match &name.group {
            Some(group) => Error::new(Kind::Usage, format!("this machine has no group \"{group}\""))
                .hint("Leave the group out for the user's own: --owner postgres."),
            None => Error::new(Kind::Usage, format!("the group of user {} is not known", name.user))
                .hint("Name the group too: --owner USER:GROUP."),
        })?;
        if uid == 0 {
            return Err(Error::new(Kind::Refused, "a cluster cannot belong to root")
                .detail("PostgreSQL does not run as root, and not on files of another owner")
                .hint("Name the user that runs PostgreSQL: --owner postgres."));
        }
        Ok(Owner { uid, gid })
    }

    /// Whoever runs this.
    pub(super) fn ourselves() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Gives `path` itself away, a link and not what it points to.
    pub(super) fn take(self, path: &Path) -> Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))
            .during(|| format!("could not give \"{}\" to user {}", path.display(), self.uid))
    }

    /// Gives a directory with everything in it away, the directory itself last: until then nobody else gets in to put a
    /// link in the way. Links are not followed.
    pub(super) fn take_all(self, directory: &Path) -> Result<()> {
        let what = |path: &Path| format!("could not read \"{}\"", path.display());
        let mut open: Vec<(PathBuf, bool)> = vec![(directory.to_owned(), false)];
        while let Some((path, seen)) = open.pop() {
            if seen {
                self.take(&path)?;
                continue;
            }
            open.push((path.clone(), true));
            for entry in fs::read_dir(&path).during(|| what(&path))? {
                let entry = entry.during(|| what(&path))?;
                match entry.file_type().during(|| what(&path))?.is_dir() {
                    true => open.push((entry.path(), false)),
                    false => self.take(&entry.path())?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: &str, group: Option<&str>) -> Result<Owner> {
        Owner::find(&OwnerName { user: user.into(), group: group.map(str::to_owned) })
    }

    #[test]
    fn names_come_before_numbers_and_root_owns_no_cluster() {
        let nobody = find("nobody", None).unwrap();
        assert_eq!(find(&nobody.uid.to_string(), None).unwrap(), nobody);
        assert_eq!(find("nobody", Some("4711")).unwrap().gid, 4711);
        assert_eq!(find("1234567", Some("root")).unwrap().uid, 1234567);
        for (user, group, kind) in [
            ("no such user", None, Kind::Usage),
            ("nobody", Some("no such group"), Kind::Usage),
            ("1234567", None, Kind::Usage),
            ("root", None, Kind::Refused),
            ("0", Some("0"), Kind::Refused),
        ] {
            assert_eq!(find(user, group).unwrap_err().kind(), kind, "{user}");
        }
    }
}
