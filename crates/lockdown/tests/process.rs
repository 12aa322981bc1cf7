//! What a process has given up, tried in a process of its own: it cannot be taken back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use io_uring::{IoUring, opcode};
#[cfg(target_arch = "x86_64")]
use proactor::os::probe::Probe;
use proactor_lockdown::{UserSpec, forbid_files, forbid_rings};

#[path = "../../../tests/skip/mod.rs"]
mod skip;

const CHILD: &str = "PROACTOR_LOCKDOWN_TEST";

/// Runs the body of the test with this name in a new process, and fails with it.
fn in_a_process(name: &str, body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, name);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    // The harness has printed the name of the test before it.
    text.lines().filter_map(|line| Some(line.split_once("left out: ")?.1)).for_each(skip::skip);
}

/// Says to the parent that the test cannot run here.
fn leave_out(reason: &str) {
    println!("left out: {reason}");
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

/// Returns the result of a no-op on a new ring.
fn use_a_ring() -> io::Result<i32> {
    let mut ring = IoUring::new(2)?;
    // SAFETY: the entry names no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.expect("the queue is empty");
    ring.submit_and_wait(1)?;
    Ok(ring.completion().next().expect("it was waited for").result())
}

#[test]
fn no_further_ring_can_be_used_in_any_thread_or_child() {
    in_a_process("no_further_ring_can_be_used_in_any_thread_or_child", || {
        if let Err(error) = use_a_ring() {
            return leave_out(&format!("io_uring is refused: {error}"));
        }
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let before = std::thread::spawn(move || (wait.recv(), use_a_ring()).1);
        let by = forbid_rings(true).unwrap();
        go.send(()).unwrap();
        let after = std::thread::spawn(use_a_ring);
        for used in [use_a_ring(), before.join().unwrap(), after.join().unwrap()] {
            let error = used.map_or_else(|error| error.raw_os_error(), |result| Some(-result));
            let expected = if by == "seccomp" { libc::EPERM } else { libc::EACCES };
            assert_eq!(error, Some(expected), "{by}");
        }
        assert_eq!(status("NoNewPrivs:"), "1");
        forbid_rings(true).expect("a second time is no error");
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_probe_sees_the_refusal_of_a_ring_whichever_came_first() {
    in_a_process("a_probe_sees_the_refusal_of_a_ring_whichever_came_first", || {
        for probe_is_first in [true, false] {
            let probe = Probe::new().unwrap();
            let calls = [libc::SYS_io_uring_setup];
            if probe_is_first {
                probe.begin(&calls).unwrap();
            }
            // Without a ring of its own, the process takes the filter on each kernel.
            assert_eq!(forbid_rings(false).unwrap(), "seccomp");
            if !probe_is_first {
                probe.begin(&calls).unwrap();
            }
            let error = use_a_ring().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
            let seen = probe.calls().iter().any(|call| call.result == -i64::from(libc::EPERM));
            assert!(seen, "{:?}", probe.calls());
        }
    });
}

#[test]
fn no_file_is_opened_and_no_address_reached_but_what_is_open_stays() {
    in_a_process("no_file_is_opened_and_no_address_reached_but_what_is_open_stays", || {
        let folder = tempfile::tempdir().unwrap();
        let [mine, other] = ["mine", "other"].map(|name| folder.path().join(name));
        fs::create_dir(&mine).unwrap();
        fs::create_dir(&other).unwrap();
        let mut open = File::create(mine.join("open")).unwrap();
        File::create(other.join("file")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let by = match forbid_files(std::slice::from_ref(&mine)) {
            Ok(by) => by,
            Err(reason) => return leave_out(&reason),
        };
        let denied = |result: io::Result<()>, what: &str| {
            let error = result.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{what}: {error}");
        };
        let paths = ["/etc/passwd".into(), "/proc/self/status".into(), mine.join("open")];
        for path in paths {
            denied(File::open(&path).map(drop), &path.display().to_string());
        }
        denied(File::create(mine.join("new")).map(drop), "a new file");
        denied(fs::read_dir(&mine).map(drop), "a folder");
        denied(Command::new("/bin/true").spawn().map(drop), "a program");
        denied(fs::remove_file(other.join("file")), "the removal of a file elsewhere");
        std::thread::spawn(|| File::open("/etc/passwd")).join().unwrap().expect_err("a thread");
        open.write_all(b"x").expect("it is open");
        open.set_len(0).expect("it is open");
        fs::remove_file(mine.join("open")).expect("files may be removed there");
        if by.trim_start_matches("Landlock ABI ").parse::<u32>().unwrap() >= 4 {
            denied(TcpStream::connect(address).map(drop), "a connect");
            denied(TcpListener::bind("127.0.0.1:0").map(drop), "a bind");
        }
        assert_eq!(listener.local_addr().unwrap(), address);
        std::mem::forget(folder);
    });
}

#[test]
fn a_process_of_another_user_has_no_privileges_left() {
    in_a_process("a_process_of_another_user_has_no_privileges_left", || {
        if !is_root() {
            return leave_out("only root can become another user");
        }
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
        "65534:65533".parse::<UserSpec>().unwrap().assume().unwrap();
        assert_eq!(status("Uid:"), "65534\t65534\t65534\t65534");
        assert_eq!(status("Gid:"), "65533\t65533\t65533\t65533");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(status(set), "0000000000000000", "{set}");
        }
        let groups = status("Groups:");
        assert!(groups.split(' ').all(|group| group != "0"), "{groups}");
        assert_eq!(status("NoNewPrivs:"), "1");
        assert!(nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_err());
        let kept = nix::sys::prctl::get_pdeathsig().unwrap();
        assert_eq!(kept, Some(nix::sys::signal::Signal::SIGKILL));
        // As where systemd has set the ids.
        "65534:65533".parse::<UserSpec>().unwrap().assume().unwrap();
        let error = "65533:65533".parse::<UserSpec>().unwrap().assume().unwrap_err().to_string();
        let expected = "cannot become user 65533:65533 (uid 65533, gid 65533): ";
        assert!(error.starts_with(expected) && error.contains("--user needs root"), "{error}");
    });
}

#[test]
fn a_user_is_named_by_name_or_number() {
    let root: UserSpec = "root".parse().unwrap();
    assert_eq!((root.ids(), root.to_string()), ((0, 0), "user root (uid 0, gid 0)".to_owned()));
    assert_eq!("0:12".parse::<UserSpec>().unwrap().ids(), (0, 12));
    assert_eq!("123456:root".parse::<UserSpec>().unwrap().ids(), (123_456, 0));
    for (wrong, why) in [
        ("no-such-user", r#"there is no user "no-such-user""#),
        ("", r#"there is no user """#),
        ("root:no-such-group", r#"there is no group "no-such-group""#),
        ("123456", "write its group too, 123456:GROUP"),
    ] {
        let error = wrong.parse::<UserSpec>().unwrap_err();
        assert!(error.contains(why), "{wrong}: {error}");
    }
}
