//! A terminal with a server at it: what one types and sees there.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use super::{Process, TIMEOUT};

/// Returns both ends of a new terminal. Programs that other tests start inherit neither: a terminal
/// of which any process has the master is not gone.
pub(crate) fn open() -> (OwnedFd, OwnedFd) {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes numbers alone; what it returns is a new descriptor or -1.
    let master = match unsafe { libc::posix_openpt(flags) } {
        -1 => panic!("posix_openpt: {}", Error::last_os_error()),
        // SAFETY: the kernel has just given us this descriptor.
        master => unsafe { OwnedFd::from_raw_fd(master) },
    };
    // SAFETY: takes a number alone.
    assert_eq!(unsafe { libc::unlockpt(master.as_raw_fd()) }, 0);
    // SAFETY: takes numbers alone; what it returns is a new descriptor or -1.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    assert_ne!(slave, -1, "TIOCGPTPEER: {}", Error::last_os_error());
    // SAFETY: the kernel has just given us this descriptor.
    (master, unsafe { OwnedFd::from_raw_fd(slave) })
}

/// A pseudo-terminal, and the server that has it as standard input and output. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Terminal {
    child: Child,
    master: File,
    /// The server's side, so that its flags can be looked at.
    slave: OwnedFd,
    screen: Receiver<Vec<u8>>,
    /// What was seen and not expected yet.
    seen: String,
}

impl Terminal {
    /// Starts this program at a new terminal, in the mode that shells leave it in.
    pub(crate) fn start(program: &str, args: &[&str]) -> Terminal {
        let (master, slave) = open();
        let master = File::from(master);
        let mut command = Command::new(program);
        let end = || Stdio::from(slave.try_clone().expect("a descriptor is left"));
        command.args(args).stdin(end()).stdout(end()).stderr(Stdio::null());
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and
        // touches no memory.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                -1 => Err(Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let child = command.spawn().expect("it starts");
        let (shown, screen) = channel();
        let mut its = master.try_clone().expect("a descriptor is left");
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = its.read(&mut bytes) {
                if shown.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, master, slave, screen, seen: String::new() }
    }

    /// Writes keys to the terminal.
    pub(crate) fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until `text` is on the screen. Returns the text before it.
    #[track_caller]
    pub(crate) fn see(&mut self, text: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some((before, after)) = self.seen.split_once(text) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.seen = after;
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {text:?} ({error}), but {:?}", self.seen),
            }
        }
    }

    /// The flags of the terminal's open file, which others share.
    pub(crate) fn flags(&self) -> i32 {
        // SAFETY: no memory is involved.
        unsafe { libc::fcntl(self.slave.as_raw_fd(), libc::F_GETFL) }
    }

    /// Returns the server process.
    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Waits for its end; answers its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        super::eventually("the server ends", || {
            self.child.try_wait().expect("a child can be waited for")
        })
        .code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
