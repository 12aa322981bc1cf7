//! A run: a server with its load and its fault, its recording, and what the doctor says of it.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use proactor::os;
use proactor_compare::disturbance::HostState;
use proactor_trace::format::{HEADER, MAY_SLEEP, RECORD};
use proactor_trace::{Call, Kind, RecordKind};
use serde_json::Value;

use crate::cases::{Case, Injected, words};
use crate::server::{Server, commands};

/// How often a run is made, until none disturbs it, and for how many seconds each waits before for
/// the others to rest.
const REPEATS: usize = 6;
const WAITS: usize = 60;
/// How long a server is under load.
const TIME: &str = "500ms";

/// What `trace doctor` says, as far as it is needed.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    /// The names of what it cannot see.
    pub(crate) not_visible: Vec<String>,
}

/// A finding, and whether it is wrong or costly.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) name: String,
    pub(crate) is_bad: bool,
}

/// Makes a run that nothing disturbs, within some tries. The error is what disturbed the last one;
/// `None` if the fault cannot be injected.
pub(crate) fn undisturbed(case: &Case, is_busy: bool) -> Result<Report, Option<String>> {
    let mut why = None;
    for _ in 0..REPEATS {
        let folder = tempfile::tempdir().expect("a folder");
        let (report, disturbed) = watched(|| run(case, folder.path()));
        let report = report.ok_or(None)?;
        why = disturbed.filter(|_| !is_busy);
        if why.is_none() {
            return Ok(report);
        }
        let rest = || watched(|| thread::sleep(Duration::from_secs(1))).1;
        (0..WAITS).find(|_| rest().is_none());
    }
    Err(why)
}

/// Does something. Returns what disturbed it, too.
fn watched<T>(make: impl FnOnce() -> T) -> (T, Option<String>) {
    // The clients share the CPUs with the server: their time on them is no cause.
    const ON: Duration = Duration::from_secs(1);
    let cpus = os::usable_cpus();
    let before = HostState::read(&cpus);
    let made = make();
    (made, HostState::read(&cpus).since(&before).cause(ON, ON))
}

/// Makes a run, and has its recording judged. Returns `None` if the fault cannot be injected.
fn run(case: &Case, folder: &Path) -> Option<Report> {
    let file = folder.join("trace");
    let group = match case.injected {
        Injected::Quota(percent) => Some(Group::new(percent)?),
        _ => None,
    };
    let (mut server, address) = Server::start(case, &file)?;
    let pid = server.0.id();
    if let Some(group) = &group {
        fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
    }
    if let Injected::Descriptors(spare) = case.injected {
        leave_descriptors(pid, spare);
    }
    let heavy = matches!(case.injected, Injected::Heavy).then(|| words("-c 1 -l 65536"));
    let start = |options: &Vec<String>| {
        let mut load = commands();
        load.args(["load", &address.to_string(), "--timeout", "1s"]).args(options);
        if !options.iter().any(|option| option == "-t") {
            load.args(["-t", TIME]);
        }
        load.spawn().expect("a client")
    };
    let loads: Vec<Child> = heavy.iter().chain([&case.load]).map(start).collect();
    let unread: Vec<TcpStream> = match case.injected {
        Injected::Unread => (0..3).map(|_| unread(address)).collect(),
        Injected::Stops(times, span) => {
            // How long it serves and how long it is stopped is the fault: nothing waits for it.
            for _ in 0..times {
                thread::sleep(Duration::from_millis(60));
                signal(pid, libc::SIGSTOP);
                thread::sleep(span);
                signal(pid, libc::SIGCONT);
            }
            Vec::new()
        }
        _ => Vec::new(),
    };
    for mut load in loads {
        let status = load.wait().expect("it is a child");
        assert_ne!(status.code(), Some(2), "wrong usage: {}", case.name());
    }
    // What the clients leave behind is not part of the run.
    signal(pid, if unread.is_empty() { libc::SIGTERM } else { libc::SIGKILL });
    server.0.wait().expect("it is a child");
    edit(&file, case.injected);
    Some(judge(case, &file))
}

/// Asks the command for its findings.
fn judge(case: &Case, file: &Path) -> Report {
    let mut command = commands();
    command.args(["trace", "doctor", "--json"]).arg(file).stdout(Stdio::piped());
    let output = command.output().expect("the command");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(said["messages"].as_u64() > Some(0), "no client is served: {}", case.name());
    let list = |key: &str| said[key].as_array().expect("a list").clone();
    let name = |one: &Value| one["name"].as_str().expect("a name").to_owned();
    let finding = |one: &Value| Finding { name: name(one), is_bad: one["severity"] != "note" };
    let findings = list("findings").iter().map(finding).collect();
    Report { findings, not_visible: list("not_visible").iter().map(name).collect() }
}

/// Writes what a server that works does not do into its recording.
fn edit(file: &Path, injected: Injected) {
    const CQE: u8 = RecordKind::Cqe as u8;
    const IMPLIED: u8 = RecordKind::Implied as u8;
    const CALL_END: u8 = RecordKind::CallEnd as u8;
    if !matches!(injected, Injected::Error | Injected::Leak) {
        return;
    }
    let mut bytes = fs::read(file).expect("the recording");
    let (slots, _) = bytes[HEADER..].as_chunks_mut::<RECORD>();
    // The kind of an operation is the last byte of its token; a call has a byte of its own.
    let is_send = |slot: &&mut [u8; RECORD]| {
        [CQE, IMPLIED].contains(&slot[28]) && slot[15] == Kind::Send as u8
    };
    let receives = |slot: &[u8; RECORD]| match slot[28] {
        CQE => slot[15] == Kind::Recv as u8,
        CALL_END => slot[29] & !MAY_SLEEP == Call::Recv as u8,
        _ => false,
    };
    let is_message = |slot: &&mut [u8; RECORD]| {
        let [.., high] = slot[16..20] else { return false };
        receives(slot) && slot[16..20] != [0; 4] && high == 0
    };
    match injected {
        Injected::Error => {
            let slot = slots.iter_mut().filter(is_message).nth(40).expect("a receive");
            slot[16..20].copy_from_slice(&(-libc::EIO).to_ne_bytes());
        }
        _ => {
            let slot = slots.iter_mut().filter(is_send).nth(40).expect("a send");
            slot[28] = RecordKind::Mark as u8;
        }
    }
    fs::write(file, bytes).expect("the recording");
}

/// A cgroup with a quota. It is removed when it is dropped.
struct Group(PathBuf);

impl Group {
    fn new(percent: u32) -> Option<Group> {
        let name = format!("proactor-doctor-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpu");
        let root = if v1.exists() { v1 } else { Path::new("/sys/fs/cgroup") };
        let group = Group(root.join(name));
        fs::create_dir(&group.0).ok()?;
        let quota = percent * 1000;
        let set = match v1.exists() {
            true => fs::write(group.0.join("cpu.cfs_quota_us"), quota.to_string()),
            false => fs::write(group.0.join("cpu.max"), format!("{quota} 100000")),
        };
        set.ok().map(|()| group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Takes the right of a child to more than so many further descriptors.
fn leave_descriptors(pid: u32, spare: u64) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64;
    let limit = libc::rlimit { rlim_cur: open + spare, rlim_max: open + spare };
    // SAFETY: `limit` is read during the call, and nothing is written.
    let set =
        unsafe { libc::prlimit(pid as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(set, 0, "the limit of a child can be lowered");
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: takes two numbers; the process is a child that was not waited for.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// A client that sends as much as goes, ends, and reads nothing.
fn unread(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("the server listens");
    client.set_write_timeout(Some(Duration::from_millis(50))).expect("no zero");
    while client.write(&[b'x'; 1 << 16]).is_ok() {}
    client.shutdown(Shutdown::Write).expect("it is connected");
    client
}
