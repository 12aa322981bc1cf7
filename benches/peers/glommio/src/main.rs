//! A server on glommio: a task and a buffer for each connection.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};

use common::Options;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpListener;
use glommio::{LocalExecutorBuilder, Placement};

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    let executor = LocalExecutorBuilder::new(Placement::Unbound).ring_depth(4096).make();
    executor.map_err(|error| io::Error::other(error.to_string()))?.run(async move {
        // SAFETY: the descriptor is that of a listener, which gives it up here.
        let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
        loop {
            let mut socket =
                listener.accept().await.map_err(|error| io::Error::other(error.to_string()))?;
            glommio::spawn_local(async move {
                let mut buffer = vec![0; options.buffer];
                while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                    if socket.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            })
            .detach();
        }
    })
}
