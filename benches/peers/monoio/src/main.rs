//! A server on monoio's io_uring driver: a task and a buffer for each connection.

use std::io;

use common::Options;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpListener;

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build();
    runtime?.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (mut socket, _) = listener.accept().await?;
            monoio::spawn(async move {
                let mut buffer = Vec::with_capacity(options.buffer);
                loop {
                    let (result, received) = socket.read(buffer).await;
                    let Ok(1..) = result else { break };
                    let (result, sent) = socket.write_all(received).await;
                    if result.is_err() {
                        break;
                    }
                    buffer = sent;
                    buffer.clear();
                }
            });
        }
    })
}
