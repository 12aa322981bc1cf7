//! The user that a server runs as, once its sockets are open.

use std::fmt;
use std::io;
use std::str::FromStr;

use caps::CapSet;
use nix::sys::prctl;
use nix::unistd::{self, Gid, Group, Uid, User};

/// A user and a group, by name or number: `echo`, `www-data:adm`, `1000:1000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    text: String,
    uid: Uid,
    gid: Gid,
    /// The name of the user, whose supplementary groups are taken; `None` if only a number is
    /// known.
    name: Option<String>,
}

impl UserSpec {
    /// Returns the numbers of the user and of the group.
    pub fn ids(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Makes this process one of this user, without any capability, and for good: its groups, the
    /// real, effective and saved ids, all sets of capabilities, and `no_new_privs`. A process that
    /// has these ids already gives up its capabilities.
    ///
    /// # Errors
    /// The process has not the right to do so, or could take some of it back.
    pub fn assume(&self) -> io::Result<()> {
        let needs_root = |error: nix::Error| {
            let error = io::Error::from(error);
            let why = "--user needs root (CAP_SETUID and CAP_SETGID)";
            io::Error::new(error.kind(), format!("cannot become {self}: {error}: {why}"))
        };
        // The kernel forgets it when the ids change.
        let at_parents_death = prctl::get_pdeathsig()?;
        // Without CAP_SETPCAP it cannot be emptied; then `no_new_privs` keeps the process from
        // gaining what is in it.
        let _ = caps::clear(None, CapSet::Bounding);
        if !self.is_current()? {
            match &self.name {
                Some(name) => {
                    let name = std::ffi::CString::new(name.as_str())?;
                    unistd::initgroups(&name, self.gid)
                }
                None => unistd::setgroups(&[self.gid]),
            }
            .and_then(|()| unistd::setresgid(self.gid, self.gid, self.gid))
            .and_then(|()| unistd::setresuid(self.uid, self.uid, self.uid))
            .map_err(needs_root)?;
        }
        for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
            caps::clear(None, set).map_err(io::Error::other)?;
        }
        prctl::set_no_new_privs()?;
        prctl::set_pdeathsig(at_parents_death)?;
        self.verify()
    }

    /// Returns true if this process has these ids, as where systemd has set them.
    fn is_current(&self) -> io::Result<bool> {
        let (users, groups) = (unistd::getresuid()?, unistd::getresgid()?);
        let (uid, gid) = (self.uid, self.gid);
        let users = [users.real, users.effective, users.saved] == [uid; 3];
        Ok(users && [groups.real, groups.effective, groups.saved] == [gid; 3])
    }

    /// Checks that the process has what it should have, and that it cannot become root again.
    fn verify(&self) -> io::Result<()> {
        let held = [CapSet::Permitted, CapSet::Effective, CapSet::Ambient];
        let has_none = |set: &CapSet| caps::read(None, *set).is_ok_and(|caps| caps.is_empty());
        let is_final =
            self.uid.is_root() || unistd::setresuid(self.uid, Uid::from_raw(0), self.uid).is_err();
        match self.is_current()? && held.iter().all(has_none) && is_final {
            true => Ok(()),
            false => Err(io::Error::other(format!("{self}: the privileges are not gone"))),
        }
    }
}

impl FromStr for UserSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<UserSpec, String> {
        let (user, group) =
            text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let failed = |error: nix::Error| format!("cannot look it up: {error}");
        let number = user.parse().ok().map(Uid::from_raw);
        let entry = number.map_or_else(|| User::from_name(user), User::from_uid).map_err(failed)?;
        let uid = entry.as_ref().map(|entry| entry.uid).or(number);
        let uid = uid.ok_or_else(|| format!("there is no user {user:?}"))?;
        let gid = match (group, &entry) {
            (Some(group), _) => group_id(group)?,
            (None, Some(entry)) => entry.gid,
            (None, None) => {
                return Err(format!("user {user} has no entry: write its group too, {user}:GROUP"));
            }
        };
        Ok(UserSpec { text: text.to_owned(), uid, gid, name: entry.map(|entry| entry.name) })
    }
}

/// Returns the number of a group that is written as a name or a number.
fn group_id(text: &str) -> Result<Gid, String> {
    if let Ok(number) = text.parse() {
        return Ok(Gid::from_raw(number));
    }
    let group = Group::from_name(text).map_err(|error| format!("cannot look it up: {error}"))?;
    group.map(|group| group.gid).ok_or_else(|| format!("there is no group {text:?}"))
}

impl fmt::Display for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uid, gid) = self.ids();
        write!(f, "user {} (uid {uid}, gid {gid})", self.text)
    }
}
