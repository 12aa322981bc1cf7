//! The file of a Unix socket: replaced only if nothing listens there, and removed only by the
//! server that made it.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::os;

/// How long another server may take to look at a path and to bind it.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// The permissions and the owner of the file of a Unix socket; `None` is what bind(2) makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// The permissions of the file; to connect is to write.
    pub mode: Option<u32>,
    /// The numbers of the user and the group that own the file.
    pub owner: Option<(u32, u32)>,
}

/// The file of a Unix socket, removed on drop if it is still the one at its path.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    file: File,
    folder: Option<File>,
}

impl SocketFile {
    /// Makes the file by `bind`, in place of one for which `is_dead` is true, and has it used as
    /// `access` says. Then the socket is made to listen by `listen`: no client can connect before.
    ///
    /// Servers look at a path and bind it one after another: they lock its folder. Else two that
    /// begin together could both find the file of one that has ended, and the second would remove
    /// that of the first (kernel-notes §84).
    pub(super) fn make(
        path: &Path,
        access: &FileAccess,
        is_dead: impl FnOnce() -> io::Result<bool>,
        bind: impl FnOnce() -> io::Result<()>,
        listen: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<SocketFile> {
        let folder = open_folder(path);
        folder.as_ref().map_or(Ok(()), lock)?;
        remove_if_dead(path, is_dead)?;
        bind()?;
        let made = SocketFile { path: path.to_owned(), file: pin(path)?, folder };
        made.grant(access)?;
        listen()?;
        made.folder.as_ref().map_or(Ok(()), File::unlock)?;
        Ok(made)
    }

    /// Sets the permissions and the owner. Not by the path: another process may replace the file.
    fn grant(&self, access: &FileAccess) -> io::Result<()> {
        if *access == FileAccess::default() {
            return Ok(());
        }
        let meta = self.file.metadata()?;
        // A second name could be that of a socket of another server.
        if !meta.file_type().is_socket() || meta.nlink() != 1 {
            return Err(io::Error::other("another process has replaced the file"));
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        if let Some(mode) = access.mode {
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        let Some((user, group)) = access.owner else { return Ok(()) };
        chown(&path, Some(user), Some(group)).map_err(|error| {
            let text = format!("cannot give the file to user {user}, group {group}: {error}");
            io::Error::new(error.kind(), text)
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let removed = self.folder.as_ref().map_or(Ok(()), lock);
        if let Err(error) = removed.and_then(|()| remove_same(&self.path, &self.file)) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the file of a Unix socket stays");
        }
    }
}

/// Removes the file at `path` if it is a socket that is dead. Any other file is an error, and
/// stays.
fn remove_if_dead(path: &Path, is_dead: impl FnOnce() -> io::Result<bool>) -> io::Result<()> {
    let refused = |what| Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    let refused_link = |target: PathBuf, what| {
        refused(format!("the file is a symbolic link to {}, {what}", target.display()))
    };
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => return refused("the file exists and is no socket".to_owned()),
        Err(_) => match fs::read_link(path) {
            Ok(target) => return refused_link(target, "which does not exist"),
            // Most likely there is no file; bind reports other errors.
            Err(_) => return Ok(()),
        },
    }
    let file = pin(path)?;
    match (is_dead()?, fs::read_link(path)) {
        (false, _) => Ok(()), // Bind reports that it is in use.
        (true, Ok(target)) => refused_link(target, "a socket without a listener"),
        (true, Err(_)) => remove_same(path, &file),
    }
}

/// Opens the file of a socket, or a symbolic link to it, as a file and not as a socket. While it is
/// open, no other file has its inode number.
fn pin(path: &Path) -> io::Result<File> {
    os::open_path(path).map(File::from)
}

/// Removes the file at `path` if it is `file`: another process may have removed or replaced it.
fn remove_same(path: &Path, file: &File) -> io::Result<()> {
    let id = |file: fs::Metadata| (file.dev(), file.ino());
    let there = fs::symlink_metadata(path).ok().map(id);
    match there == Some(id(file.metadata()?)) {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// Opens the folder of a file; `None` if it may not be read, and so not be locked.
fn open_folder(path: &Path) -> Option<File> {
    let folder = Path::new(".").join(path.parent()?);
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(folder).ok()
}

/// Locks a folder: flock(2). A file system without locks is no error.
fn lock(folder: &File) -> io::Result<()> {
    let begin = Instant::now();
    while let Err(TryLockError::WouldBlock) = folder.try_lock() {
        if begin.elapsed() > LOCK_TIME {
            let text = "another process has locked the folder (see /proc/locks)";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Barrier;

    use super::*;
    use crate::address::Address;
    use crate::skip;

    #[test]
    fn of_servers_that_begin_at_once_on_the_path_of_a_dead_one_one_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for round in 0..60 {
            if round % 2 == 0 {
                drop(UnixListener::bind(&path).unwrap());
            }
            let (begin, all) = (Barrier::new(3), Address::Unix(path.clone()));
            let listen = || {
                begin.wait();
                all.listen()
            };
            let results = std::thread::scope(|scope| {
                [(); 3].map(|()| scope.spawn(listen)).map(|thread| thread.join().unwrap())
            });
            let listening: Vec<_> = results.iter().filter(|result| result.is_ok()).collect();
            assert_eq!(listening.len(), 1, "round {round}: {results:?}");
            all.connect(Duration::from_secs(20)).expect("it can be reached");
            drop(results);
            assert!(!path.exists(), "round {round}: the file goes with its server");
        }
    }

    #[test]
    fn a_path_is_asked_bound_and_made_to_listen_under_one_lock_and_removed_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let other = File::open(dir.path()).unwrap();
        let assert_locked = |when| {
            let locked = matches!(other.try_lock(), Err(TryLockError::WouldBlock));
            assert!(locked, "{when}, another server may take the path");
        };
        let is_dead = || {
            assert_locked("while it is asked");
            Ok(true)
        };
        let bind = || {
            assert_locked("before it is bound");
            UnixListener::bind(&path).map(drop)
        };
        let listen = || {
            assert_locked("before it listens");
            Ok(())
        };
        let made = SocketFile::make(&path, &FileAccess::default(), is_dead, bind, listen).unwrap();
        other.try_lock().expect("it is free while the server serves");
        std::thread::scope(|scope| {
            let removed = scope.spawn(move || drop(made));
            std::thread::sleep(Duration::from_millis(20)); // It would be removed by then.
            assert!(path.exists() && !removed.is_finished(), "another server looks at the path");
            other.unlock().unwrap();
        });
        assert!(!path.exists());
    }

    #[test]
    fn the_file_has_its_permissions_and_its_owner_before_a_client_can_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let is_root = fs::metadata(dir.path()).unwrap().uid() == 0;
        let owner = is_root.then_some((65534, 65533));
        let access = FileAccess { mode: Some(0o620), owner };
        let bind = || UnixListener::bind(&path).map(drop);
        let looked = std::cell::Cell::new(None);
        let listen = || {
            let meta = fs::metadata(&path)?;
            looked.set(Some((meta.mode() & 0o7777, (meta.uid(), meta.gid()))));
            Ok(())
        };
        let made = SocketFile::make(&path, &access, || Ok(true), bind, listen).unwrap();
        let (mode, found) = looked.get().expect("it was made to listen");
        assert_eq!(mode, 0o620);
        match owner {
            Some(owner) => assert_eq!(found, owner),
            None => skip::skip("only root can give a file to another user"),
        }
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_took_the_place_of_the_own_one_is_not_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other] = ["s", "other"].map(|name| dir.path().join(name));
        let _listens = UnixListener::bind(&other).unwrap();
        let mode = |path| fs::metadata(path).unwrap().mode();
        let before = mode(&other);
        let access = FileAccess { mode: Some(0o666), owner: None };
        let bind = || fs::hard_link(&other, &path);
        let error = SocketFile::make(&path, &access, || Ok(true), bind, || Ok(())).unwrap_err();
        assert!(error.to_string().contains("has replaced the file"), "{error}");
        assert_eq!(mode(&other), before);
    }
}
