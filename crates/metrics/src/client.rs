//! One client of the metrics: a socket that does not block, a request, and its answer.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::http::{self, Answer, PageRequest};
use proactor::clock::Nanos;
use proactor::os;

/// How long a request may take to come, and its answer to be taken.
const EXCHANGE_TIME: Duration = Duration::from_secs(10);
/// How long a client may wait between two requests: Prometheus keeps its connections.
const IDLE_TIME: Duration = Duration::from_secs(180);
/// How long a client is read from after the last answer, so that no reset destroys that.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// The most bytes of a receive.
const RECV_SIZE: usize = 4 << 10;

/// A client of the metrics.
#[derive(Debug)]
pub(crate) struct MetricsClient {
    socket: OwnedFd,
    /// The beginning of a request.
    input: Vec<u8>,
    /// What is left of an answer.
    output: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    /// What happens when the answer was sent.
    then: Then,
    /// When it last sent or took bytes.
    pub(crate) active: Nanos,
    /// When it is closed.
    pub(crate) due: Nanos,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Another request may follow.
    Next,
    /// The end of the answers.
    End,
    /// The end of the client, whose input is discarded.
    Linger,
}

impl MetricsClient {
    pub(crate) fn new(socket: OwnedFd, now: Nanos) -> MetricsClient {
        let (input, output) = (Vec::new(), Vec::new());
        let due = now + EXCHANGE_TIME;
        MetricsClient { socket, input, output, sent: 0, then: Then::Next, active: now, due }
    }

    /// Returns what to wait for: input, or space for the answer.
    pub(crate) fn events(&self) -> libc::c_int {
        if self.output.is_empty() { libc::EPOLLIN } else { libc::EPOLLOUT }
    }

    /// Does one thing, now that its socket is ready: sends what is left of an answer, or receives,
    /// and answers a request that is complete. Returns false if the client must be closed.
    pub(crate) fn exchange(
        &mut self,
        now: Nanos,
        answer: impl FnOnce(PageRequest) -> Answer,
    ) -> bool {
        let done = match self.output.is_empty() {
            true => self.receive(now, answer),
            false => self.send(now),
        };
        match done {
            Ok(goes_on) => goes_on,
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }

    fn receive(
        &mut self,
        now: Nanos,
        answer: impl FnOnce(PageRequest) -> Answer,
    ) -> io::Result<bool> {
        let mut bytes = [0; RECV_SIZE];
        let n = os::recv(self.socket.as_fd(), &mut bytes, 0)?;
        self.active = now;
        if n == 0 || self.then == Then::Linger {
            return Ok(n > 0);
        }
        if self.input.is_empty() {
            self.due = now + EXCHANGE_TIME;
        }
        self.input.extend_from_slice(&bytes[..n]);
        let (answer, closes) = match http::parse(&self.input) {
            Ok(None) => return Ok(true),
            Ok(Some(request)) => (answer(request), request.closes),
            Err(refusal) => (Answer::refusal(refusal), true),
        };
        self.output = answer.bytes(http::is_head(&self.input), closes);
        self.input = Vec::new();
        self.then = if closes { Then::End } else { Then::Next };
        self.due = now + EXCHANGE_TIME;
        self.send(now)
    }

    fn send(&mut self, now: Nanos) -> io::Result<bool> {
        let rest = &self.output[self.sent..];
        self.sent += os::send(self.socket.as_fd(), &[IoSlice::new(rest)], 0)?;
        self.active = now;
        if self.sent < self.output.len() {
            return Ok(true);
        }
        (self.output, self.sent) = (Vec::new(), 0);
        self.due = now + IDLE_TIME;
        if self.then == Then::End {
            self.then = Then::Linger;
            self.due = now + LINGER_TIME;
            os::shutdown(self.socket.as_fd(), Shutdown::Write)?;
        }
        Ok(true)
    }
}

impl AsFd for MetricsClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A client, and the other end of its socket.
    fn client() -> (MetricsClient, UnixStream) {
        let (ours, its) = UnixStream::pair().unwrap();
        its.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        (MetricsClient::new(its.into(), Nanos(0)), ours)
    }

    const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

    fn ok(_: PageRequest) -> Answer {
        Answer::line("200 OK", "ok")
    }

    #[test]
    fn a_request_that_comes_in_pieces_is_answered_once_it_is_complete() {
        let (mut client, mut peer) = client();
        let (first, rest) = GET.split_at(10);
        peer.write_all(first).unwrap();
        assert!(client.exchange(Nanos(7), ok));
        assert_eq!(client.due, Nanos(7) + EXCHANGE_TIME);
        assert!(peer.read(&mut [0]).is_err(), "nothing is sent yet");
        peer.write_all(rest).unwrap();
        assert!(client.exchange(Nanos(8), ok));
        let mut bytes = [0; 1024];
        let n = peer.read(&mut bytes).unwrap();
        assert!(bytes[..n].starts_with(b"HTTP/1.1 200 OK\r\n") && bytes[..n].ends_with(b"ok\n"));
        assert_eq!((client.due, client.events()), (Nanos(8) + IDLE_TIME, libc::EPOLLIN));
    }

    #[test]
    fn an_answer_that_is_not_taken_waits_for_space() {
        let (mut client, mut peer) = client();
        let large = |_| Answer::line("200 OK", &"x".repeat(4 << 20));
        peer.write_all(GET).unwrap();
        assert!(client.exchange(Nanos(0), large));
        let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
        while client.events() == libc::EPOLLOUT {
            taken += peer.read(&mut buffer).unwrap();
            assert!(client.exchange(Nanos(1), ok));
        }
        while let Ok(n) = peer.read(&mut buffer) {
            taken += n;
        }
        assert!(taken > 4 << 20, "{taken} bytes");
    }

    #[test]
    fn after_a_refusal_the_input_is_discarded_until_the_client_ends() {
        let (mut client, mut peer) = client();
        peer.write_all(b"POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(client.exchange(Nanos(0), ok));
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 ") && text.contains("Connection: close"), "{text}");
        peer.write_all(GET).unwrap();
        assert!(client.exchange(Nanos(1), |_| panic!("it is not answered")));
        assert_eq!(client.due, Nanos(0) + LINGER_TIME);
        drop(peer);
        assert!(!client.exchange(Nanos(2), ok), "it is closed");
    }
}
