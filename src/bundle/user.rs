//! Who a container's program runs as: `USER[:GROUP]` by an image's own `/etc/passwd` and `/etc/group`, as runc and docker read them.

use crate::{Error, ErrorKind, Result};

/// A user by numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// Groups that it is in: its own first, so that a file's group is never passed over, and then those that list it.
    pub groups: Vec<u32>,
}

/// Most groups that Linux gives a process.
const MAX_GROUPS: usize = 65_536;

impl User {
    /// Who `text` names: nothing (root), a name or a number, and behind a colon a group's.
    ///
    /// A name must be in `users` or `groups`, a number need not. Without a group it is the user's own, and those that list its name come with it.
    ///
    /// # Errors
    /// `Input` where a name is not there, or a number none.
    pub fn find(text: &str, users: &[u8], groups: &[u8]) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            None => (text, ""),
            Some((_, group)) if group.contains(':') => return Err(refused(text, "not of the form USER[:GROUP]")),
            Some(parts) => parts,
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry = entries(users).find(|fields| is_called(fields, user) && number(fields, 3).is_some());
        let (name, uid, own) = match (&entry, parse(user)) {
            (Some(fields), _) => (Some(fields[0]), number(fields, 2), number(fields, 3)),
            (None, uid) => (None, uid, Some(0)),
        };
        let uid = uid.ok_or_else(|| refused(text, "the image's /etc/passwd has no such user"))?;
        if group.is_empty() {
            let gid = own.unwrap_or_default();
            let listing = |fields: &Vec<&[u8]>| {
                let members = fields.get(3).copied().unwrap_or_default();
                name.is_some_and(|name| members.split(|byte| *byte == b',').any(|member| member == name))
            };
            let mut all = vec![gid];
            for group in entries(groups).filter(listing).filter_map(|fields| number(&fields, 2)).take(MAX_GROUPS) {
                if !all.contains(&group) {
                    all.push(group);
                }
            }
            return Ok(Self { uid, gid, groups: all });
        }
        let entry = entries(groups).find(|fields| is_called(fields, group));
        let gid = entry.map_or_else(|| parse(group), |fields| number(&fields, 2));
        let gid = gid.ok_or_else(|| refused(text, "the image's /etc/group has no such group"))?;
        Ok(Self { uid, gid, groups: vec![gid] })
    }
}

fn refused(text: &str, reason: &str) -> Error {
    Error::new(ErrorKind::Input, format!("user `{text}`: {reason}"))
}

/// The lines' fields; a line without a name and a number is none.
fn entries(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = file.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>());
    lines.filter(|fields| !fields[0].is_empty() && number(fields, 2).is_some())
}

fn is_called(fields: &[&[u8]], text: &str) -> bool {
    fields[0] == text.as_bytes() || (parse(text).is_some() && number(fields, 2) == parse(text))
}

fn number(fields: &[&[u8]], at: usize) -> Option<u32> {
    fields.get(at).and_then(|field| std::str::from_utf8(field).ok()).and_then(parse)
}

/// Digits alone; the last number means "none" to Linux.
fn parse(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# no line\nbroken:x:y:1\nwww:x:33:34::/:/bin/false\n1234:x:77:78::/:\nx:x:5:9";
    const GROUPS: &[u8] =
        b"root:x:0:\nbin:x:1:root,daemon\nwww:x:34:www\nmedia:x:44:other,www\nwwwx:x:45:wwww\n\nlast:x:46:www";

    fn found(text: &str) -> Option<(u32, u32, Vec<u32>)> {
        User::find(text, USERS, GROUPS).ok().map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn users_are_found_as_runc_finds_them() {
        for (text, user) in [
            ("", (0, 0, vec![0, 1])),
            ("root", (0, 0, vec![0, 1])),
            ("www", (33, 34, vec![34, 44, 46])),
            ("33", (33, 34, vec![34, 44, 46])),
            ("www:media", (33, 44, vec![44])),
            ("www:0", (33, 0, vec![0])),
            ("1000", (1000, 0, vec![0])),
            ("1000:1001", (1000, 1001, vec![1001])),
            (":media", (0, 44, vec![44])),
            // By its name, not its number.
            ("1234", (77, 78, vec![78])),
            ("www:", (33, 34, vec![34, 44, 46])),
            ("x", (5, 9, vec![9])),
        ] {
            assert_eq!(found(text), Some(user), "{text}");
        }
        for text in
            ["nobody", "broken", "#", "www:nobody", "a:b:c", "-1", "+1", "4294967295", "4294967296", "0x10", "www:-1"]
        {
            assert_eq!(found(text), None, "{text}");
        }
        assert_eq!(User::find("7", b"", b"").unwrap(), User { uid: 7, gid: 0, groups: vec![0] });
        assert!(User::find("www", b"\xff\xfe:::\n:::\nwww", b"").is_err());
    }
}
