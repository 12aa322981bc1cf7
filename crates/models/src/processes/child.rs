//! The work of a child, from its fork to its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::relay::RelayEnd;
use super::single::{self, NewConnection};
use crate::hooks::CallHooks;
use proactor::buffer::{BufferClass, Pool};
use proactor::counters::Counters;
use proactor::engine::Engine;
use proactor::keys::{ConnId, KeyOwner, ListenerId};
use proactor::memory::{HeldTotal, Memory};
use proactor::os::process::{self, Signals, Wake};
use proactor::os::{self, ShutdownSignal};
use proactor::peer::AcceptedPeer;
use proactor::reactor::Reactor;

/// The one broadcast group of a child.
const GROUP: ListenerId = ListenerId(0);
/// Buffers of each size that a child has of its own.
const BUFFERS: usize = 4;
/// The same in a group. Those of one size have so many bytes: what a child may use is planned.
const BUFFERS_IN_GROUP: usize = 16;
const BUFFERS_IN_GROUP_BYTES: usize = 512 << 10;

impl NewConnection {
    /// Serves the connection until the client is gone, or until the child was asked to drain and
    /// has done so. Returns the exit status. `calls` are those of this process, and all processes
    /// know the connection as `client`. `link` leads to the parent, if the protocol broadcasts.
    pub(super) fn live<C: CallHooks>(
        self,
        (calls, client): (C, ConnId),
        link: Option<OwnedFd>,
        (buffers, held): (&[BufferClass], Arc<dyn HeldTotal>),
        signals: Signals,
        publish: impl FnMut(&Counters),
    ) -> u8 {
        let memory = Memory::shared(self.limits.queues, held);
        let pool = match link {
            None => Pool::few(buffers, BUFFERS),
            Some(_) => Pool::new(&buffers_in_group(buffers)),
        };
        let lived = pool.and_then(|pool| match link {
            None => {
                os::set_blocking(self.socket.as_fd(), true)?;
                // The socket is closed at the end of this; nothing is opened after that before the
                // process ends.
                signals.deliver(Wake::Unblock(self.socket.as_fd()))?;
                let calls = (&calls, KeyOwner::Conn(client).into());
                let asked = process::is_asked_to_drain;
                single::serve(calls, self, (pool, memory), asked, publish)
            }
            Some(link) => {
                let stop = ShutdownSignal::new()?;
                signals.deliver(Wake::Ask(&stop))?;
                self.among_others((calls, client), link, (pool, memory), stop, publish)
            }
        });
        match lived {
            Ok(()) => 0,
            Err(error) => {
                tracing::warn!("a child fails its connection: {error}");
                1
            }
        }
    }

    /// Serves the connection in a group of two: the client, and the link to the parent.
    pub(super) fn among_others<C: CallHooks>(
        self,
        (calls, client): (C, ConnId),
        link: OwnedFd,
        (pool, memory): (Rc<Pool>, Memory),
        stop: ShutdownSignal,
        mut publish: impl FnMut(&Counters),
    ) -> io::Result<()> {
        // The parent has the deadline: past it, it kills the child.
        let mut limits = self.limits;
        (limits.connections, limits.drain) = (2, Duration::MAX);
        limits.silent_timeout = None; // Nothing waits for a place in this group.
        let mut group = Reactor::new(calls.selector(), pool, limits, stop)?;
        group.set_memory(memory);
        group.number_from(self.number);
        let next = group.next_id();
        C::name(group.selector_mut(), next, KeyOwner::Link(client));
        group.adopt(link, (RelayEnd::Link, AcceptedPeer::of_link()), GROUP);
        let next = group.next_id();
        C::name(group.selector_mut(), next, KeyOwner::Conn(client));
        let accepted = AcceptedPeer { group: Some(GROUP), ..self.accepted };
        let made = (RelayEnd::client(self.protocol), accepted);
        group.adopt(self.socket, made, GROUP);
        loop {
            let drained = group.run_once()?.is_break();
            publish(&group.counters());
            if drained {
                return Ok(());
            }
            if group.connections() < 2 {
                // The client has closed, or the parent has given up this child.
                group.drain();
            }
        }
    }
}

/// Returns the buffers of a child in a group: at least one of each size.
fn buffers_in_group(buffers: &[BufferClass]) -> Vec<BufferClass> {
    let mut left = BUFFERS_IN_GROUP_BYTES;
    let few = |class: &BufferClass| {
        let count = (left / class.bytes).clamp(1, BUFFERS_IN_GROUP.min(class.count));
        left = left.saturating_sub(count * class.bytes);
        BufferClass { count, ..*class }
    };
    buffers.iter().map(few).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread::{self, JoinHandle};

    use super::super::link;
    use super::*;
    use proactor::calls::PlainCalls;
    use proactor::limits::Limits;
    use proactor::protocol::{Chat, Input, Outbox, Protocol};

    /// Runs a child in a group, as a thread. Returns its client, and the parent's end of its link.
    fn child<P: Protocol + Send + 'static>(
        protocol: P,
    ) -> (UnixStream, UnixStream, JoinHandle<Counters>) {
        let ((client, socket), (parent, its)) = (link().unwrap(), link().unwrap());
        let [client, parent] = [client, parent].map(|fd| {
            let stream = UnixStream::from(fd);
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        });
        let child = thread::spawn(move || {
            let pool = Pool::new(&[BufferClass { bytes: 1024, count: 8 }]).unwrap();
            let (stop, mut counted) = (ShutdownSignal::new().unwrap(), Counters::default());
            let protocol = Box::new(protocol);
            let connection = NewConnection {
                socket,
                protocol,
                limits: Limits::default(),
                number: 7,
                accepted: AcceptedPeer::default(),
            };
            let calls = (PlainCalls, ConnId::new(0, 0));
            let memory = Memory::new(64 << 20);
            connection
                .among_others(calls, its, (pool, memory), stop, |counters| counted = *counters)
                .unwrap();
            counted
        });
        (client, parent, child)
    }

    fn read(mut stream: &UnixStream, expected: &[u8]) {
        let mut found = vec![0; expected.len()];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(found, expected);
    }

    #[test]
    fn client_broadcasts_go_up_the_link_and_its_frames_go_to_the_client() {
        let (mut client, mut parent, child) = child(Chat::new(7));
        client.write_all(b"hello\n").unwrap();
        read(&parent, b"\x0a\0\0\0[7] hello\n");
        parent.write_all(b"\x06\0\0\0[8] hi").unwrap();
        parent.write_all(b"\x01\0\0\0\n").unwrap();
        read(&client, b"[8] hi\n");
        client.shutdown(std::net::Shutdown::Both).unwrap();
        read(&parent, b"\x09\0\0\x80* 7 left\n\0\0\0\0");
        drop(parent);
        let counted = child.join().unwrap();
        // The bytes of the link are not counted.
        assert_eq!((counted.received_bytes, counted.sent_bytes), (6, 7));
    }

    #[test]
    fn a_child_given_up_by_its_parent_ends_its_client() {
        let (mut client, parent, child) = child(Chat::new(7));
        drop(parent);
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "the end");
        drop(client);
        child.join().unwrap();
    }

    /// Reports to all when its timer expires, and panics for input.
    struct Report;

    impl Protocol for Report {
        fn open(&mut self, out: &mut Outbox<'_>) {
            out.set_timer(Duration::from_millis(20));
        }

        fn data(&mut self, _: &mut Input<'_>, out: &mut Outbox<'_>) {
            out.broadcast("last");
            panic!("as this test has it");
        }

        fn timer(&mut self, out: &mut Outbox<'_>) {
            out.send("mine");
            out.broadcast("yours");
        }
    }

    #[test]
    fn the_timer_of_a_client_in_a_group_expires() {
        let (client, parent, child) = child(Report);
        read(&client, b"mine");
        read(&parent, b"\x05\0\0\0yours");
        drop((client, parent));
        child.join().unwrap();
    }

    #[test]
    fn what_a_protocol_sends_to_others_before_it_panics_is_packed() {
        let (mut client, mut parent, child) = child(Report);
        client.write_all(b"x").unwrap();
        let mut frames = Vec::new();
        parent.read_to_end(&mut frames).unwrap();
        assert!(frames.ends_with(b"\x04\0\0\0last"), "{frames:?}");
        drop((client, parent));
        assert_eq!(child.join().unwrap().panicked, 1);
    }
}
