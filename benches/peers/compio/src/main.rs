//! A server on compio's io_uring driver, with the flags of its builder that it leaves off: a task
//! and a buffer for each connection.

use std::io;

use common::Options;
use compio::driver::ProactorBuilder;
use compio::io::{AsyncRead, AsyncWriteExt};
use compio::net::TcpListener;
use compio::runtime::Runtime;

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = options.listen();
    let mut driver = ProactorBuilder::new();
    driver.capacity(4096).single_issuer(true).coop_taskrun(true).taskrun_flag(true);
    driver.defer_taskrun(true);
    let runtime = Runtime::builder().with_proactor(driver).build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (mut socket, _) = listener.accept().await?;
            compio::runtime::spawn(async move {
                let mut buffer = Vec::with_capacity(options.buffer);
                loop {
                    let compio::BufResult(result, received) = socket.read(buffer).await;
                    let Ok(1..) = result else { break };
                    let compio::BufResult(result, sent) = socket.write_all(received).await;
                    if result.is_err() {
                        break;
                    }
                    buffer = sent;
                    buffer.clear();
                }
            })
            .detach();
        }
    })
}
