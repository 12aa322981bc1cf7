//! An edge-triggered epoll server on mio: one buffer for all connections, receive until EAGAIN.

use std::io::{self, Read, Write};

use common::Options;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);

struct Client {
    socket: TcpStream,
    /// What the socket did not take.
    owed: Vec<u8>,
}

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; options.buffer];
    let (mut clients, mut free) = (Vec::<Option<Client>>::new(), Vec::new());
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    let at = free.pop().unwrap_or(clients.len());
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut socket, Token(at), interest)?;
                    clients.resize_with(clients.len().max(at + 1), || None);
                    clients[at] = Some(Client { socket, owed: Vec::new() });
                }
                continue;
            }
            let Token(at) = event.token();
            let Some(client) = &mut clients[at] else { continue };
            if !serve(client, &mut buffer).unwrap_or(false) {
                clients[at] = None; // Closes the socket, which ends its registration.
                free.push(at);
            }
        }
    }
}

/// Moves what can be moved. Returns false if the connection has ended.
fn serve(client: &mut Client, buffer: &mut [u8]) -> io::Result<bool> {
    loop {
        while !client.owed.is_empty() {
            match client.socket.write(&client.owed) {
                Ok(n) => drop(client.owed.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        let n = match client.socket.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let sent = match client.socket.write(&buffer[..n]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        client.owed.extend_from_slice(&buffer[sent..n]);
        // A short receive has emptied the socket: the next bytes make a new edge.
        if n < buffer.len() && client.owed.is_empty() {
            return Ok(true);
        }
    }
}
