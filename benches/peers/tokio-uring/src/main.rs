//! A server on tokio-uring, with COOP_TASKRUN: a task and a buffer for each connection.

use std::io;

use common::Options;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpListener;

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    let mut ring = tokio_uring::uring_builder();
    ring.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(4096).uring_builder(&ring);
    builder.start(async move {
        let listener = TcpListener::from_std(listener);
        loop {
            let (socket, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                let mut buffer = vec![0; options.buffer];
                loop {
                    let (result, received) = socket.read(buffer).await;
                    let Ok(n @ 1..) = result else { break };
                    let (result, sent) = socket.write_all(received.slice(..n)).await;
                    if result.is_err() {
                        break;
                    }
                    buffer = sent.into_inner();
                }
            });
        }
    })
}
