//! Another user than root, for a process that needed root only to start.

use std::io;
use std::path::Path;
use std::str::FromStr;

use rustix::fs::{AtFlags, CWD, chownat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{Error, ErrorKind, Result};

/// A user and a group of this machine, by numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl FromStr for User {
    type Err = String;

    /// `NAME`, `UID` or `UID:GID`. A name is looked up in /etc/passwd; the group is the user's own unless it is given.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?, fields.get(3)?);
            (fields[0] == user || *uid == user).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
        });
        let (uid, gid) = match (found, user.parse(), group) {
            (Some((uid, _)), _, Some(group)) | (None, Ok(uid), Some(group)) => {
                (uid, group.parse().map_err(|_| format!("`{group}` is not a group number"))?)
            }
            (Some(found), ..) => found,
            (None, Ok(_), None) => {
                return Err(format!("/etc/passwd has no user {user}: give its group as well, UID:GID"));
            }
            (None, Err(_), _) => return Err(format!("/etc/passwd has no user `{user}`; use NAME, UID or UID:GID")),
        };
        if uid == 0 {
            return Err("user 0 is root; without --user nothing else than root is needed".to_owned());
        }
        Ok(Self { uid, gid })
    }
}

impl User {
    /// Runs `work` with this user's rights on files, on the calling thread, so that what it makes is this user's.
    ///
    /// # Errors
    /// `Denied` without root.
    pub fn with_its_rights<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let (uid, gid) = self.ids();
        set_thread_res_gid(None, gid, None).map_err(|error| self.denied(error.into()))?;
        set_thread_res_uid(None, uid, None).map_err(|error| self.denied(error.into()))?;
        let done = work();
        set_thread_res_uid(None, Uid::ROOT, None).map_err(|error| self.denied(error.into()))?;
        set_thread_res_gid(None, Gid::ROOT, None).map_err(|error| self.denied(error.into()))?;
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        Ok(done)
    }

    /// Gives it the file, socket or directory `path`, not what a link there names.
    ///
    /// # Errors
    /// Those of chown(2).
    pub fn give(&self, path: &Path) -> Result<()> {
        let (uid, gid) = self.ids();
        chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| Error::file(path, error.into()))
    }

    /// Makes the calling thread run as this user from now on, without a way back. Async-signal-safe.
    pub(super) fn become_it_on_this_thread(&self) -> std::result::Result<(), Errno> {
        let (uid, gid) = self.ids();
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // With another user a process can become dumpable again.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
    }

    /// Whether these are the lines of /proc/PID/status of a thread that became this user.
    pub(super) fn is_shown(&self, uids: &str, gids: &str, groups: &str) -> bool {
        let all = |ids: &str, id: u32| ids.split_whitespace().all(|text| text.parse() == Ok(id));
        all(uids, self.uid) && all(gids, self.gid) && groups.is_empty()
    }

    fn ids(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    fn denied(&self, error: io::Error) -> Error {
        Error::caused(ErrorKind::Denied, format!("--user: to run as {}:{}, start as root", self.uid, self.gid), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers_and_never_root() {
        assert_eq!("65000:7".parse(), Ok(User { uid: 65000, gid: 7 }));
        let daemon: User = "daemon".parse().unwrap();
        assert_eq!(daemon, "1".parse().unwrap());
        assert_eq!(User { gid: 7, ..daemon }, "daemon:7".parse().unwrap());
        for bad in ["", "root", "0", "0:1", "no-such-user", "65000", "65000:", "-1:1", "daemon:x"] {
            assert!(bad.parse::<User>().is_err(), "{bad}");
        }
    }
}
