//! Names of users and groups, as the image's own `/etc/passwd` and `/etc/group` know them.
//!
//! The files come from the snapshot's view, never from the machine.

use super::copy::Owner;
use crate::dockerfile::nearest::nearest;

/// Who a step runs as.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct ExecUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    /// Home directory, `/` where the image knows none.
    pub(super) home: String,
}

/// A user or group that the image doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownOwner {
    /// A user.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    User {
        /// Its name.
        name: String,
        /// The name of the image's that is nearest.
        nearest: Option<String>,
        /// Whether the image knows no user at all.
        knows_none: bool,
    },
    /// A group.
    #[error("unable to find group {name}: no matching entries in group file")]
    Group {
        /// Its name.
        name: String,
        /// The name of the image's that is nearest.
        nearest: Option<String>,
        /// Whether the image knows no group at all.
        knows_none: bool,
    },
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The image's user database.
pub(super) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads the two files; missing ones are empty.
    pub(super) fn new(passwd: Option<&[u8]>, group: Option<&[u8]>) -> Self {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        Self {
            passwd: text(passwd),
            group: text(group),
        }
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or("");
            Some(User {
                name,
                uid,
                gid,
                home,
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or("");
            Some(Group { name, gid, members })
        })
    }

    fn group(&self, text: &str) -> Result<u32, UnknownOwner> {
        if let Some(group) = self.groups().find(|group| group.name == text) {
            return Ok(group.gid);
        }
        id(text).ok_or_else(|| UnknownOwner::Group {
            name: text.to_owned(),
            nearest: nearest(text, self.groups().map(|group| group.name)).map(str::to_owned),
            knows_none: self.groups().next().is_none(),
        })
    }

    fn unknown_user(&self, name: &str) -> UnknownOwner {
        UnknownOwner::User {
            name: name.to_owned(),
            nearest: nearest(name, self.users().map(|user| user.name)).map(str::to_owned),
            knows_none: self.users().next().is_none(),
        }
    }

    /// `--chown`: a number without a group is its own group.
    pub(super) fn owner(&self, spec: &str) -> Result<Owner, UnknownOwner> {
        let (user, group) = split(spec);
        let (uid, own_group) = if user.is_empty() {
            (0, 0)
        } else if let Some(uid) = id(user) {
            (uid, uid)
        } else {
            let user = self
                .users()
                .find(|u| u.name == user)
                .ok_or_else(|| self.unknown_user(user))?;
            (user.uid, user.gid)
        };
        let gid = match group {
            Some(group) => self.group(group)?,
            None => own_group,
        };
        Ok(Owner { uid, gid })
    }

    /// The owner of a WORKDIR: as for `--chown`, but names that the image doesn't know are root's,
    /// since programs may never have to run there.
    pub(super) fn owner_or_root(&self, spec: &str) -> Owner {
        let (user, group) = split(spec);
        let owner = self.owner(user).unwrap_or_default();
        let gid = group.and_then(|group| self.group(group).ok());
        Owner {
            gid: gid.unwrap_or(owner.gid),
            ..owner
        }
    }

    /// USER for a step: a number that the image knows takes its group, else group 0.
    pub(super) fn exec_user(&self, spec: &str) -> Result<ExecUser, UnknownOwner> {
        let (name, group) = split(spec);
        let name = if name.is_empty() { "0" } else { name };
        let number = id(name);
        let user = self
            .users()
            .find(|user| user.name == name)
            .or_else(|| self.users().find(|user| Some(user.uid) == number));
        let (uid, own_group, home) = match (&user, number) {
            (Some(user), _) => (user.uid, user.gid, user.home),
            (None, Some(uid)) => (uid, 0, ""),
            (None, None) => return Err(self.unknown_user(name)),
        };
        let mut groups = Vec::new();
        if group.is_none()
            && let Some(user) = &user
        {
            let member = |group: &Group<'_>| group.members.split(',').any(|name| name == user.name);
            groups.extend(self.groups().filter(member).map(|group| group.gid));
        }
        Ok(ExecUser {
            uid,
            gid: match group {
                Some(group) => self.group(group)?,
                None => own_group,
            },
            groups,
            home: if home.is_empty() { "/" } else { home }.to_owned(),
        })
    }
}

/// A number as an id; the highest one means "no change" to the kernel and names nobody.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::new(
            Some(b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/var/www:/bin/false\nbroken\n"),
            Some(b"root:x:0:\nweb:x:34:\nssl:x:101:web,other\n"),
        )
    }

    #[test]
    fn chown_takes_names_and_numbers() {
        for (spec, uid, gid) in [
            ("web", 33, 34),
            ("web:ssl", 33, 101),
            ("33", 33, 33),
            ("7:8", 7, 8),
            ("7:web", 7, 34),
            (":web", 0, 34),
        ] {
            assert_eq!(accounts().owner(spec), Ok(Owner { uid, gid }), "{spec}");
        }
        for (spec, uid, gid) in [("web", 33, 34), ("ghost:ssl", 0, 101), ("7:ghosts", 7, 7)] {
            assert_eq!(accounts().owner_or_root(spec), Owner { uid, gid }, "{spec}");
        }
        assert_eq!(
            accounts().owner("nobody"),
            Err(UnknownOwner::User {
                name: "nobody".into(),
                nearest: None,
                knows_none: false
            })
        );
        assert_eq!(
            accounts().owner("0:wbe"),
            Err(UnknownOwner::Group {
                name: "wbe".into(),
                nearest: Some("web".into()),
                knows_none: false
            })
        );
    }

    #[test]
    fn a_step_runs_with_the_groups_of_its_user() {
        let web = accounts().exec_user("web").unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups.as_slice(), web.home.as_str()),
            (33, 34, &[101][..], "/var/www")
        );
        let by_number = accounts().exec_user("33").unwrap();
        assert_eq!(by_number, web);
        let with_group = accounts().exec_user("web:0").unwrap();
        assert_eq!((with_group.gid, with_group.groups.len()), (0, 0));
        let unknown = accounts().exec_user("1234").unwrap();
        assert_eq!(
            (unknown.uid, unknown.gid, unknown.home.as_str()),
            (1234, 0, "/")
        );
        assert_eq!(accounts().exec_user("").unwrap().home, "/root");
        assert!(accounts().exec_user("ghost").is_err());
        assert!(accounts().exec_user("4294967295").is_err());
    }

    #[test]
    fn an_image_without_accounts_has_root_and_numbers() {
        let none = Accounts::new(None, None);
        assert_eq!(none.exec_user("").unwrap().uid, 0);
        assert_eq!(none.owner("5").unwrap(), Owner { uid: 5, gid: 5 });
    }
}
