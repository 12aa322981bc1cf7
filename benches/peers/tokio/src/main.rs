//! A server on tokio's current-thread runtime: a task and a buffer for each connection.

use std::io;

use common::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let serve = async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (mut socket, _) = listener.accept().await?;
            tokio::task::spawn_local(async move {
                let mut buffer = vec![0; options.buffer];
                while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                    if socket.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    };
    tokio::task::LocalSet::new().block_on(&runtime, serve)
}
