//! A level-triggered epoll server without any library: epoll_wait, recv, send. What it takes is the
//! least that a readiness server can take, so it is the baseline of the table.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd};

use common::Options;

const EVENTS: usize = 1024;

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    listener.set_nonblocking(true)?;
    // SAFETY: no memory is passed.
    let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    watch(epoll, libc::EPOLL_CTL_ADD, listener.as_raw_fd(), libc::EPOLLIN)?;
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    let mut server = Server { epoll, buffer: vec![0; options.buffer], owed: Vec::new() };
    loop {
        // SAFETY: the kernel writes at most EVENTS entries, which is the length of `events`.
        let n = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS as i32, -1) };
        for event in &events[..check(n)? as usize] {
            let fd = event.u64 as i32;
            if fd == listener.as_raw_fd() {
                server.accept(&listener)?;
            } else {
                server.serve(fd, event.events)?;
            }
        }
    }
}

struct Server {
    epoll: i32,
    buffer: Vec<u8>,
    /// What a connection is owed because its socket was full, by descriptor.
    owed: Vec<Vec<u8>>,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(true)?;
            let fd = socket.into_raw_fd();
            if self.owed.len() <= fd as usize {
                self.owed.resize_with(fd as usize + 1, Vec::new);
            }
            watch(self.epoll, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN)?;
        }
        Ok(())
    }

    fn serve(&mut self, fd: i32, events: u32) -> io::Result<()> {
        if events & libc::EPOLLOUT as u32 != 0 {
            let owed = std::mem::take(&mut self.owed[fd as usize]);
            return self.send(fd, &owed, true);
        }
        // SAFETY: the kernel writes at most the length of the buffer.
        let n = unsafe { libc::recv(fd, self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) };
        if n > 0 {
            let buffer = std::mem::take(&mut self.buffer);
            let sent = self.send(fd, &buffer[..n as usize], false);
            self.buffer = buffer;
            return sent;
        }
        if n == 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock {
            self.close(fd);
        }
        Ok(())
    }

    /// Sends bytes, and keeps what the socket does not take: the connection then waits until it is
    /// writable, and is not read from.
    fn send(&mut self, fd: i32, bytes: &[u8], was_owed: bool) -> io::Result<()> {
        // SAFETY: the kernel reads the length of `bytes`.
        let n = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        if n < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock {
            self.close(fd);
            return Ok(());
        }
        let rest = &bytes[n.max(0) as usize..];
        self.owed[fd as usize].extend_from_slice(rest);
        match (was_owed, rest.is_empty()) {
            (false, false) => watch(self.epoll, libc::EPOLL_CTL_MOD, fd, libc::EPOLLOUT),
            (true, true) => watch(self.epoll, libc::EPOLL_CTL_MOD, fd, libc::EPOLLIN),
            _ => Ok(()),
        }
    }

    fn close(&mut self, fd: i32) {
        self.owed[fd as usize].clear();
        // SAFETY: the descriptor is of an accepted socket, and nothing uses it after this.
        unsafe { libc::close(fd) };
    }
}

fn watch(epoll: i32, operation: i32, fd: i32, events: i32) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
    // SAFETY: `event` is read during the call.
    check(unsafe { libc::epoll_ctl(epoll, operation, fd, &mut event) }).map(drop)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
