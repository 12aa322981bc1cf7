//! Why io_uring is refused: which call, with which error, and by what most likely.
//!
//! The error alone proves nothing. A seccomp filter may return any error for any of the three
//! calls, the kernel itself returns `EPERM` for a sysctl and for a security module, and `ENOMEM`
//! for locked memory and for other memory. So a cause is concluded from the call, the error and
//! what /proc says of this process, and reported together with that evidence (kernel-notes §14).

use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;

use proactor_record::errno::Errno;
use proactor_record::numbered;

use crate::os;
use crate::os::procfs::{self, read};
use crate::version::{OLDEST_VERSION, Version, release};

/// What a trial in another process has found, for every trial in this one.
static REMEMBERED: OnceLock<Refusal> = OnceLock::new();
/// The evidence that was read first, for when no descriptor is left to read it again.
static FIRST: OnceLock<Evidence> = OnceLock::new();

/// The call that makes a ring.
pub const SETUP: &str = "io_uring_setup";
/// The call that submits and waits.
pub const ENTER: &str = "io_uring_enter";
/// The call that asks for features, and registers buffers and files.
pub const REGISTER: &str = "io_uring_register";
/// The call that maps the queues of a ring, and its buffers.
pub const MMAP: &str = "mmap";

numbered! {
    /// What refuses a call most likely. The names are those in JSON.
    Cause {
        /// The kernel is older than what the server needs.
        Old = 0, "kernel-too-old";
        /// The sysctl `kernel.io_uring_disabled` is not 0.
        Sysctl = 1, "sysctl";
        /// A seccomp filter of this process.
        Seccomp = 2, "seccomp";
        /// A security module of the kernel, such as SELinux.
        SecurityModule = 3, "security-module";
        /// A sandbox of a kind that cannot be read.
        Sandbox = 4, "sandbox";
        /// The kernel was built without io_uring.
        NotBuilt = 5, "not-in-kernel";
        /// The limit of locked memory.
        Memlock = 6, "memlock";
        /// The memory of the kernel, or the address space of this process.
        Memory = 7, "memory";
        /// The limit of descriptors.
        Descriptors = 8, "descriptors";
        /// The limit of files that are open in the whole system.
        OpenFiles = 9, "open-files";
        /// Nothing that is known here.
        Unknown = 10, "unknown";
    }
}

/// The causes by name: each in words, and the way out. `sysctl-1` and `memlock-seccomp` are causes
/// with other evidence.
const CAUSES: &str = include_str!("refusal/causes.txt");

/// A call that was refused while a ring was set up or tried.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The name of the call.
    pub call: &'static str,
    /// The name of its error, or of the signal that ended the trial.
    pub error: Box<str>,
    /// What refuses it most likely.
    pub cause: Cause,
    /// What the cause is concluded from.
    pub evidence: Box<Evidence>,
    kind: io::ErrorKind,
}

impl Refusal {
    /// Returns the refusal of a call that has just failed in this thread.
    pub fn of(call: &'static str, error: &io::Error) -> Refusal {
        Refusal::conclude(call, error, Evidence::read())
    }

    /// Remembers a refusal for good: io_uring is not tried in this process, which a filter would
    /// kill.
    pub fn remember(self) {
        let _ = REMEMBERED.set(self);
    }

    /// Succeeds unless a refusal is remembered.
    ///
    /// # Errors
    /// The refusal that is remembered.
    pub fn remembered() -> Result<(), Refusal> {
        REMEMBERED.get().cloned().map_or(Ok(()), Err)
    }

    /// Returns the refusal that is in an error of a set-up, or that of the set-up.
    pub fn of_set_up(error: &io::Error) -> Refusal {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>());
        inner.cloned().unwrap_or_else(|| Refusal::of("set-up", error))
    }

    /// Returns the refusal of a trial that a signal has ended.
    pub fn killed(signal: i32) -> Refusal {
        let (cause, error) = match signal {
            libc::SIGSYS => (Cause::Seccomp, "killed by SIGSYS".to_owned()),
            _ => (Cause::Unknown, format!("killed by signal {signal}")),
        };
        let (call, evidence) = ("a trial in a child process", Box::new(Evidence::read()));
        Refusal { call, error: error.into(), cause, evidence, kind: io::ErrorKind::Other }
    }

    fn conclude(call: &'static str, error: &io::Error, evidence: Evidence) -> Refusal {
        let errno = error.raw_os_error();
        let cause = evidence.cause(call, errno.unwrap_or(0));
        let name = errno.map_or_else(|| error.to_string(), |errno| Errno(errno).to_string());
        let evidence = Box::new(evidence);
        Refusal { call, error: name.into(), cause, evidence, kind: error.kind() }
    }

    /// Returns the cause in words, and the way out.
    pub fn words(&self) -> [String; 2] {
        self.evidence.words(self.cause, self.call)
    }

    /// Returns the cause, and the other that is as possible.
    pub fn causes(&self) -> Vec<Cause> {
        let either = self.cause == Cause::Memlock && self.evidence.has_filter();
        [self.cause].into_iter().chain(either.then_some(Cause::Seccomp)).collect()
    }
}

impl fmt::Display for Refusal {
    /// Formats one line: what is refused, by what, the evidence, and the way out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { call, error, evidence, .. } = self;
        let [why, fix] = self.words();
        write!(f, "io_uring is refused: {call}: {error}, {why} ({evidence}); {fix}")
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        io::Error::new(refusal.kind, refusal)
    }
}

/// What can be read of all that may refuse io_uring to this thread.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The release of the kernel.
    pub release: String,
    /// The version in it.
    pub version: Option<Version>,
    /// The sysctl `kernel.io_uring_disabled`; `None` on a kernel without it.
    pub disabled: Option<u32>,
    /// True if this process is exempt from `kernel.io_uring_disabled = 1`.
    pub exempt: bool,
    /// The seccomp mode: 0 for none, 2 for a filter; `None` if it cannot be read.
    pub seccomp: Option<u8>,
    /// The security modules of the kernel that may know of io_uring.
    pub modules: Vec<String>,
    /// How much this user may lock, if that is limited and the rings of this kernel count.
    pub memlock: Option<u64>,
    /// How many descriptors this process may have.
    pub nofile: Option<u64>,
}

/// CAP_IPC_LOCK and CAP_SYS_ADMIN, as bits of `CapEff`.
const IPC_LOCK: u64 = 1 << 14;
const SYS_ADMIN: u64 = 1 << 21;

impl Evidence {
    /// Reads it, or returns what was read first if no descriptor is left to read it. What cannot be
    /// read is absent.
    pub fn read() -> Evidence {
        let opened = fs::File::open("/").map(drop).map_err(|error| error.raw_os_error());
        let is_short = matches!(opened, Err(Some(libc::EMFILE | libc::ENFILE)));
        let first = FIRST.get().filter(|_| is_short);
        let evidence = first.cloned().unwrap_or_else(Evidence::of_proc);
        FIRST.get_or_init(|| evidence.clone());
        Evidence { nofile: os::descriptor_limit(), ..evidence }
    }

    fn of_proc() -> Evidence {
        // `/proc/thread-self` is this thread by whatever number that /proc has for it, or it is
        // absent: a /proc of another namespace never shows another process here.
        let status = read("/proc/thread-self/status").unwrap_or_default();
        let field = |name| procfs::field(&status, name);
        // A capability within a user namespace is none where the kernel asks for it.
        let is_real = read("/proc/thread-self/uid_map")
            .is_some_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
        let held = field("CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let has = |capability| is_real && held & capability != 0;
        let group = read("/proc/sys/kernel/io_uring_group");
        let groups =
            [field("Gid:").and_then(|ids| ids.split_whitespace().nth(1)), field("Groups:")];
        let mut groups = groups.into_iter().flatten().flat_map(str::split_whitespace);
        let modules = read("/sys/kernel/security/lsm").unwrap_or_default();
        let may_know = ["selinux", "apparmor", "smack", "bpf"];
        let modules = modules.split(',').filter(|module| may_know.contains(module));
        let version = Version::running();
        let limits = read("/proc/thread-self/limits").or_else(|| read("/proc/self/limits"));
        let memlock = limits.and_then(|limits| procfs::number(&limits, "Max locked memory"));
        let counts = version.is_none_or(counts_rings) && !has(IPC_LOCK);
        Evidence {
            release: release(),
            version,
            disabled: read("/proc/sys/kernel/io_uring_disabled").and_then(|it| it.parse().ok()),
            exempt: has(SYS_ADMIN) || group.is_some_and(|group| groups.any(|one| one == group)),
            seccomp: field("Seccomp:").and_then(|mode| mode.parse().ok()),
            modules: modules.map(str::to_owned).collect(),
            memlock: memlock.filter(|_| counts),
            nofile: None,
        }
    }

    /// Returns true if the sysctl refuses a ring to this process.
    fn is_disabled(&self) -> bool {
        self.disabled == Some(2) || self.disabled == Some(1) && !self.exempt
    }

    /// Returns true if a seccomp filter is in force for this thread.
    pub fn has_filter(&self) -> bool {
        self.seccomp == Some(2)
    }

    /// Returns what has refused a call with this error, most likely.
    fn cause(&self, call: &str, errno: i32) -> Cause {
        let has_filter = self.has_filter();
        let is_before = |version| self.version.is_some_and(|running| running < version);
        match errno {
            libc::EMFILE => Cause::Descriptors,
            libc::ENFILE => Cause::OpenFiles,
            libc::ENOMEM if call == MMAP => Cause::Memory,
            // No other call counts memory as locked.
            libc::ENOMEM if self.memlock.is_some() && [SETUP, REGISTER].contains(&call) => {
                Cause::Memlock
            }
            libc::ENOMEM if !has_filter => Cause::Memory,
            libc::EPERM if call == SETUP && self.is_disabled() => Cause::Sysctl,
            libc::ENOSYS if is_before(Version { major: 5, minor: 1 }) => Cause::Old,
            0 | libc::EINVAL if call == REGISTER && is_before(OLDEST_VERSION) => Cause::Old,
            0 => Cause::Unknown,
            _ if has_filter => Cause::Seccomp,
            libc::EPERM | libc::EACCES if self.seccomp == Some(0) => Cause::SecurityModule,
            libc::ENOSYS if call == SETUP && self.seccomp == Some(0) => Cause::NotBuilt,
            libc::EPERM | libc::EACCES | libc::ENOSYS => Cause::Sandbox,
            _ => Cause::Unknown,
        }
    }

    /// Returns a cause in words, and the way out for this call.
    fn words(&self, cause: Cause, call: &str) -> [String; 2] {
        let name = match cause {
            Cause::Sysctl if self.disabled == Some(1) => "sysctl-1",
            Cause::Memlock if self.has_filter() => "memlock-seccomp",
            cause => cause.name(),
        };
        let modules = match &self.modules[..] {
            [] => "a security module of the kernel or of its provider".to_owned(),
            modules => modules.join(" or "),
        };
        let calls = match [MMAP, "socketpair", "write"].contains(&call) {
            true => call,
            false => "io_uring_setup, io_uring_enter and io_uring_register",
        };
        let values = [
            ("{oldest}", OLDEST_VERSION.to_string()),
            ("{modules}", modules),
            ("{calls}", calls.to_owned()),
            ("{kib}", (self.memlock.unwrap_or(0) >> 10).to_string()),
            ("{nofile}", self.nofile.map_or_else(String::new, |nofile| format!(" of {nofile}"))),
        ];
        let mut rows = CAUSES.lines().map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        let row = rows.find(|row| row[0] == name).expect("a row for each cause");
        let fill = |text: &str| {
            values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
        };
        [fill(row[1]), fill(row[2])]
    }
}

impl fmt::Display for Evidence {
    /// Formats the evidence in a few words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seccomp {
            Some(mode) => write!(f, "Seccomp: {mode}")?,
            None => write!(f, "seccomp mode unreadable")?,
        }
        if let Some(disabled) = self.disabled {
            write!(f, ", kernel.io_uring_disabled = {disabled}")?;
        }
        write!(f, ", kernel {}", self.release)
    }
}

/// Returns true if the memory of rings counts against the limit of locked memory: until 5.11, and
/// from 6.14 to 7.1 (kernel-notes §14).
fn counts_rings(version: Version) -> bool {
    let Version { major, minor } = version;
    (major, minor) < (5, 12) || ((6, 14)..(7, 2)).contains(&(major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Evidence {
        let version = Some(Version { major: 6, minor: 18 });
        let (release, disabled) = ("6.18.1".to_owned(), Some(0));
        Evidence { release, version, disabled, seccomp: Some(0), ..Evidence::default() }
    }

    fn says(call: &'static str, errno: i32, evidence: &Evidence) -> (Cause, String) {
        let error = io::Error::from_raw_os_error(errno);
        let refusal = Refusal::conclude(call, &error, evidence.clone());
        let text = refusal.to_string();
        assert!(!text.contains('\n') && text.contains(call), "{text}");
        assert!(text.contains(&Errno(errno).to_string()) && text.contains("6.18.1"), "{text}");
        (refusal.cause, text)
    }

    #[test]
    fn a_filter_is_suspected_of_any_error_that_nothing_else_explains() {
        let filtered = Evidence { seccomp: Some(2), ..here() };
        for errno in [libc::EPERM, libc::ENOSYS, libc::ENOMEM, libc::EACCES, libc::EINVAL] {
            for call in [SETUP, ENTER, REGISTER] {
                let (cause, text) = says(call, errno, &filtered);
                assert_eq!(cause, Cause::Seccomp, "{text}");
                assert!(text.contains("most likely") && text.contains("Seccomp: 2"), "{text}");
            }
        }
    }

    #[test]
    fn locked_memory_is_named_for_the_calls_that_lock_it_and_a_filter_with_it() {
        let locked = Evidence { memlock: Some(64 << 10), ..here() };
        let filtered = Evidence { seccomp: Some(2), ..locked.clone() };
        for call in [SETUP, REGISTER] {
            let (cause, text) = says(call, libc::ENOMEM, &locked);
            assert!(cause == Cause::Memlock && !text.contains("filter"), "{text}");
            let (cause, text) = says(call, libc::ENOMEM, &filtered);
            assert!(cause == Cause::Memlock && text.contains("or by a seccomp filter"), "{text}");
            assert!(text.contains("`ulimit -l`, or allow io_uring_setup"), "{text}");
        }
        for (call, alone, beneath) in
            [(ENTER, Cause::Memory, Cause::Seccomp), (MMAP, Cause::Memory, Cause::Memory)]
        {
            assert_eq!(says(call, libc::ENOMEM, &locked).0, alone);
            assert_eq!(says(call, libc::ENOMEM, &filtered).0, beneath);
        }
    }

    #[test]
    fn without_a_filter_the_kernel_itself_has_refused() {
        let kind = |call, errno, evidence: &Evidence| says(call, errno, evidence).0;
        assert_eq!(kind(SETUP, libc::EPERM, &here()), Cause::SecurityModule);
        assert_eq!(kind(SETUP, libc::ENOSYS, &here()), Cause::NotBuilt);
        assert_eq!(kind(ENTER, libc::ENOSYS, &here()), Cause::Sandbox);
        assert_eq!(kind(SETUP, libc::ENOMEM, &here()), Cause::Memory);
        assert_eq!(kind("socketpair", libc::EMFILE, &here()), Cause::Descriptors);
        let (cause, text) = says(SETUP, libc::ENFILE, &here());
        assert!(cause == Cause::OpenFiles && text.contains("fs.file-max"), "{text}");
        let locked = Evidence { memlock: Some(0), ..here() };
        assert_eq!(kind(SETUP, libc::ENOMEM, &locked), Cause::Memlock);
        let unread = Evidence { seccomp: None, ..here() };
        assert_eq!(kind(SETUP, libc::EPERM, &unread), Cause::Sandbox);
        let old = Evidence { version: Some(Version { major: 5, minor: 4 }), ..here() };
        assert_eq!(kind(REGISTER, libc::EINVAL, &old), Cause::Old);
    }

    #[test]
    fn each_cause_has_words_and_a_way_out() {
        for &cause in Cause::ALL {
            for disabled in [1, 2] {
                let filtered = Evidence { disabled: Some(disabled), seccomp: Some(2), ..here() };
                for words in [here(), filtered].map(|evidence| evidence.words(cause, SETUP)) {
                    assert!(words.iter().all(|it| !it.is_empty() && !it.contains(['{', '}'])));
                }
            }
        }
    }

    #[test]
    fn the_sysctl_is_named_only_if_it_refuses_this_process() {
        for seccomp in [Some(0), Some(2), None] {
            let sysctl = |disabled, exempt| {
                let evidence = Evidence { disabled: Some(disabled), exempt, seccomp, ..here() };
                says(SETUP, libc::EPERM, &evidence)
            };
            let (cause, text) = sysctl(1, false);
            assert!(cause == Cause::Sysctl && text.contains("io_uring_group"), "{text}");
            assert_ne!(sysctl(1, true).0, Cause::Sysctl);
            assert_eq!(sysctl(2, true).0, Cause::Sysctl);
            assert_ne!(sysctl(0, false).0, Cause::Sysctl);
        }
    }

    #[test]
    fn rings_count_as_locked_memory_on_some_kernels_only() {
        let counts = |text: &str| counts_rings(text.parse().unwrap());
        assert_eq!(["5.6", "5.11", "6.14", "7.1"].map(counts), [true; 4]);
        assert_eq!(["5.12", "6.12", "6.13", "7.2"].map(counts), [false; 4]);
    }
}
