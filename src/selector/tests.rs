//! One set of scenarios, every selector.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::keys::{ConnId, ListenerId};
use crate::os::SELECT_LIMIT;
use crate::os::testing::{duplicate_from, interrupt_me, overflow_my_signals};

const KEY: Key = Key(7);

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().expect("two descriptors")
}

/// What is ready now.
fn ready(selector: &mut impl Selector) -> Vec<Ready> {
    let mut reports = Vec::new();
    selector.wait(&mut reports, Some(Duration::ZERO)).unwrap();
    reports.into_iter().map(Ready::of).collect()
}

fn is_readable(selector: &mut impl Selector) -> bool {
    ready(selector).iter().any(|ready| ready.key == KEY && ready.readable)
}

/// Asks again, where a report disarms.
fn rearm(selector: &mut impl Selector, fd: &UnixStream, interest: Interest) {
    if selector.trigger() == Trigger::Oneshot {
        selector.modify(fd.as_fd(), KEY, interest).unwrap();
    }
}

fn bytes_make_it_readable(mut selector: impl Selector) {
    let (ours, mut theirs) = pair();
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    assert_eq!(ready(&mut selector), []);
    theirs.write_all(b"x").unwrap();
    assert!(is_readable(&mut selector));
}

fn level_repeats_edge_reports_news_and_oneshot_waits_for_a_request(mut selector: impl Selector) {
    let (mut ours, mut theirs) = pair();
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    theirs.write_all(b"two bytes and more").unwrap();
    assert!(is_readable(&mut selector));
    ours.read_exact(&mut [0; 2]).unwrap();
    let level = selector.trigger() == Trigger::Level;
    assert_eq!(is_readable(&mut selector), level, "it under-read");
    theirs.write_all(b"more").unwrap();
    let oneshot = selector.trigger() == Trigger::Oneshot;
    assert_eq!(is_readable(&mut selector), !oneshot, "more came: that is an edge too");
    selector.modify(ours.as_fd(), KEY, Interest::READ).unwrap();
    assert!(is_readable(&mut selector), "asked anew, it answers anew");
}

fn the_interest_is_what_is_reported(mut selector: impl Selector) {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"x").unwrap();
    selector.add(ours.as_fd(), Key(1), Interest::WRITE).unwrap();
    let reports = ready(&mut selector);
    assert!(reports[0].writable && !reports[0].readable, "{reports:?}");
    selector.modify(ours.as_fd(), KEY, Interest::BOTH).unwrap();
    let reports = ready(&mut selector);
    assert!(reports[0].writable && reports[0].readable && reports[0].key == KEY, "{reports:?}");
}

fn what_is_removed_is_not_reported(mut selector: impl Selector) {
    let (ours, mut theirs) = pair();
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    theirs.write_all(b"x").unwrap();
    selector.remove(ours.as_fd()).unwrap();
    assert_eq!(ready(&mut selector), []);
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    assert!(is_readable(&mut selector), "adding reports what is there");
}

fn misuse_is_an_error(mut selector: impl Selector) {
    let (ours, _theirs) = pair();
    assert!(selector.modify(ours.as_fd(), KEY, Interest::READ).is_err());
    assert!(selector.remove(ours.as_fd()).is_err());
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    assert!(selector.add(ours.as_fd(), KEY, Interest::READ).is_err());
}

fn the_peers_end_is_readable(mut selector: impl Selector) {
    let (ours, theirs) = pair();
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    drop(theirs);
    assert!(is_readable(&mut selector));
}

fn the_end_behind_the_last_bytes_is_reported_with_them(mut selector: impl Selector) {
    let (ours, mut theirs) = pair();
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    theirs.write_all(b"last").unwrap();
    let hung_up: Vec<_> = ready(&mut selector).iter().map(|ready| ready.hung_up).collect();
    assert_eq!(hung_up, [false]);
    rearm(&mut selector, &ours, Interest::READ);
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    let hung_up: Vec<_> = ready(&mut selector).iter().map(|ready| ready.hung_up).collect();
    if selector.trigger() == Trigger::Edge {
        assert_eq!(hung_up, [true], "it will not be reported again");
    } else {
        assert_eq!(hung_up.len(), 1);
    }
}

fn a_signal_is_no_error_and_nothing_is_ready(mut selector: impl Selector) {
    let (ours, _theirs) = pair();
    selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let interrupter = interrupt_me(Arc::clone(&enough));
    let mut reports = Vec::new();
    let waited = selector.wait(&mut reports, None); // Only a signal ends it.
    enough.store(true, Ordering::Relaxed);
    interrupter.join().unwrap();
    waited.unwrap();
    assert!(reports.is_empty());
}

fn the_peers_end_is_not_reported_to_a_writer(mut selector: impl Selector) {
    let (mut ours, theirs) = pair();
    ours.set_nonblocking(true).unwrap();
    while ours.write(&[0; 65536]).is_ok() {} // until it would block
    selector.add(ours.as_fd(), KEY, Interest::WRITE).unwrap();
    let _ = ready(&mut selector);
    rearm(&mut selector, &ours, Interest::WRITE);
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    if selector.trigger() != Trigger::Edge {
        assert_eq!(ready(&mut selector), [], "it would be reported forever");
    }
}

fn many_descriptors_each_by_its_key(mut selector: impl Selector) {
    let mut pairs: Vec<_> = (0..200).map(|_| pair()).collect();
    for (at, (ours, _)) in pairs.iter().enumerate() {
        selector.add(ours.as_fd(), Key(at as u64), Interest::READ).unwrap();
    }
    for gone in (0..200).step_by(3) {
        selector.remove(pairs[gone].0.as_fd()).unwrap();
    }
    pairs.iter_mut().for_each(|(_, theirs)| theirs.write_all(b"x").unwrap());
    let mut keys: Vec<u64> = ready(&mut selector).iter().map(|ready| ready.key.0).collect();
    keys.sort_unstable();
    assert_eq!(keys, (0..200).filter(|at| at % 3 != 0).collect::<Vec<_>>());
}

fn a_timeout_is_waited_for_and_rounded_up(mut selector: impl Selector) {
    let (began, span) = (std::time::Instant::now(), Duration::from_micros(1500));
    selector.wait(&mut Vec::new(), Some(span)).unwrap();
    assert!(began.elapsed() >= span, "{:?}", began.elapsed());
}

/// Every scenario for one selector.
macro_rules! scenarios {
    ($module:ident, $selector:expr; $($scenario:ident)*) => {
        mod $module {
            use super::*;

            scenarios!(@ $selector; $($scenario)*);
        }
    };
    ($module:ident, $selector:expr) => {
            scenarios!($module, $selector;
                bytes_make_it_readable
                level_repeats_edge_reports_news_and_oneshot_waits_for_a_request
                the_interest_is_what_is_reported
                what_is_removed_is_not_reported
                misuse_is_an_error
                the_peers_end_is_readable
                the_end_behind_the_last_bytes_is_reported_with_them
                the_peers_end_is_not_reported_to_a_writer
                a_signal_is_no_error_and_nothing_is_ready
                many_descriptors_each_by_its_key
                a_timeout_is_waited_for_and_rounded_up
            );
    };
    (@ $selector:expr; $($scenario:ident)*) => {
        $(
            #[test]
            fn $scenario() {
                super::$scenario($selector);
            }
        )*
    };
}

scenarios!(epoll_level, Epoll::new(Trigger::Level).unwrap());
scenarios!(epoll_edge, Epoll::new(Trigger::Edge).unwrap());
scenarios!(epoll_oneshot, Epoll::new(Trigger::Oneshot).unwrap());
scenarios!(poll, Poll::new());
scenarios!(select, Select::new());
scenarios!(sigio, Sigio::new().unwrap());
// What is promised of reports that say nothing.
scenarios!(spin, Spin::new(None);
    misuse_is_an_error
    the_interest_is_what_is_reported
    what_is_removed_is_not_reported
    the_peers_end_is_readable
    many_descriptors_each_by_its_key
    a_timeout_is_waited_for_and_rounded_up
);

/// Level against edge, side by side, on TCP: what each says of bytes that were left unread.
#[test]
fn unread_bytes_are_reported_again_by_level_with_new_bytes_by_edge_and_on_request_by_oneshot() {
    fn reports(mut selector: impl Selector) -> [bool; 4] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        theirs.write_all(b"0123456789").unwrap();
        ours.peek(&mut [0]).unwrap(); // It has arrived.
        selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
        let first = is_readable(&mut selector);
        ours.read_exact(&mut [0; 4]).unwrap();
        let left = is_readable(&mut selector);
        theirs.write_all(b"abc").unwrap();
        while ours.peek(&mut [0; 10]).unwrap() < 9 {} // And so have these.
        let more = is_readable(&mut selector);
        selector.modify(ours.as_fd(), KEY, Interest::READ).unwrap();
        let asked = is_readable(&mut selector);
        let mut rest = [0; 9];
        ours.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"456789abc", "silence loses nothing: it is still there");
        [first, left, more, asked]
    }
    let level = [true, true, true, true];
    let edge = [true, false, true, true];
    let oneshot = [true, false, false, true];
    assert_eq!(reports(Epoll::new(Trigger::Level).unwrap()), level);
    assert_eq!(reports(Poll::new()), level);
    assert_eq!(reports(Select::new()), level);
    assert_eq!(reports(Epoll::new(Trigger::Edge).unwrap()), edge);
    assert_eq!(reports(Sigio::new().unwrap()), edge);
    assert_eq!(reports(Epoll::new(Trigger::Oneshot).unwrap()), oneshot);
    assert_eq!(reports(Spin::new(None)), level, "it always says so");
}

#[test]
fn spin_reports_what_is_wished_and_sleeps_only_if_nothing_moved() {
    const SPAN: Duration = Duration::from_millis(20);
    let (ours, _theirs) = pair();
    let mut spin = Spin::new(Some(SPAN));
    spin.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    let mut took = |moved, timeout: Option<Duration>| {
        // What a loop passes: no more than the longest wait, and nothing after an iteration that
        // moved something.
        let longest = if moved { Duration::ZERO } else { spin.longest_wait().unwrap() };
        let timeout = Some(timeout.map_or(longest, |timeout| timeout.min(longest)));
        let (began, mut reports) = (std::time::Instant::now(), Vec::new());
        spin.wait(&mut reports, timeout).unwrap();
        let reports: Vec<_> = reports.into_iter().map(Ready::of).collect();
        assert!(reports.len() == 1 && reports[0].readable && !reports[0].writable, "{reports:?}");
        began.elapsed()
    };
    let mut at_once = || took(true, None).max(took(false, Some(Duration::ZERO)));
    assert!([(); 5].map(|()| at_once()).into_iter().min() < Some(SPAN));
    assert!(took(false, None) >= SPAN);
    spin.remove(ours.as_fd()).unwrap();
    assert_eq!(spin.longest_wait(), Some(SPAN));
    assert_eq!(Spin::new(None).longest_wait(), Some(Duration::ZERO));
}

#[test]
fn signals_of_closed_descriptors_report_nothing() {
    let mut sigio = Sigio::new().unwrap();
    let (ours, mut theirs) = pair();
    sigio.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    assert_eq!(ready(&mut sigio), []);
    theirs.write_all(b"a signal is sent").unwrap();
    sigio.remove(ours.as_fd()).unwrap();
    let (number, _) = (ours.as_raw_fd(), drop(ours));
    let (other, mut its) = pair();
    let same = duplicate_from(other.as_fd(), number);
    sigio.add(same.as_fd(), Key(8), Interest::READ).unwrap();
    assert_eq!(ready(&mut sigio), [], "the signal was another's");
    its.write_all(b"x").unwrap();
    assert_eq!(ready(&mut sigio)[0].key, Key(8));
}

#[test]
fn when_signals_overflow_every_socket_is_polled() {
    let mut sigio = Sigio::new().unwrap();
    let mut pairs = [pair(), pair(), pair()];
    for (at, (ours, _)) in pairs.iter().enumerate() {
        sigio.add(ours.as_fd(), Key(at as u64), Interest::READ).unwrap();
    }
    assert_eq!(ready(&mut sigio), []);
    pairs[0].1.write_all(b"x").unwrap();
    pairs[2].1.write_all(b"x").unwrap();
    sigio.lose_signals();
    assert_eq!(ready(&mut sigio), []);
    overflow_my_signals();
    let mut keys: Vec<u64> = ready(&mut sigio).iter().map(|ready| ready.key.0).collect();
    keys.sort_unstable();
    assert_eq!(keys, [0, 2]);
}

#[test]
fn descriptors_without_signals_are_polled_in_every_wait() {
    let mut sigio = Sigio::new().unwrap();
    let stop = crate::os::ShutdownSignal::new().unwrap();
    sigio.add(stop.as_fd(), KEY, Interest::READ).unwrap();
    assert_eq!(ready(&mut sigio), []);
    stop.request();
    assert!(is_readable(&mut sigio) && is_readable(&mut sigio));
    stop.take();
    assert_eq!(ready(&mut sigio), []);
}

#[test]
fn select_alone_cannot_distinguish_a_hang_up_from_bytes() {
    fn distinguishes(mut selector: impl Selector) -> bool {
        let (ours, theirs) = pair();
        selector.add(ours.as_fd(), KEY, Interest::READ).unwrap();
        drop(theirs);
        ready(&mut selector)[0].hung_up
    }
    assert!(distinguishes(Epoll::new(Trigger::Level).unwrap()) && distinguishes(Poll::new()));
    assert!(!distinguishes(Select::new()));
}

#[test]
fn select_refuses_what_it_cannot_watch_and_goes_on() {
    let (ours, mut theirs) = pair();
    let mut select = Select::new();
    let high = duplicate_from(ours.as_fd(), SELECT_LIMIT);
    let error = select.add(high.as_fd(), KEY, Interest::READ).unwrap_err();
    assert!(error.to_string().contains("FD_SETSIZE"), "{error}");
    select.add(ours.as_fd(), KEY, Interest::READ).unwrap();
    theirs.write_all(b"x").unwrap();
    assert!(is_readable(&mut select));
}

#[test]
fn a_key_says_whose_it_is() {
    let conn = ConnId::new(u32::MAX, 0xff_ffff);
    for whose in [
        KeyOwner::Conn(conn),
        KeyOwner::Link(conn),
        KeyOwner::Listener(ListenerId(3)),
        KeyOwner::Shutdown,
    ] {
        assert_eq!(KeyOwner::from(Key::from(whose)), whose);
    }
}
