//! A server on kimojio: a task and a buffer for each connection.

use std::io;
use std::os::fd::OwnedFd;

use common::Options;
use kimojio::configuration::Configuration;
use kimojio::operations::{self, RecvFlags, SendFlags};
use kimojio::{Errno, Runtime};

fn main() -> io::Result<()> {
    let options = Options::from_args();
    let listener = OwnedFd::from(options.listen());
    let mut runtime = Runtime::new(0, Configuration::new());
    let ended: Option<Result<Result<(), Errno>, _>> = runtime.block_on(async move {
        loop {
            let socket = operations::accept(&listener).await?;
            operations::spawn_task(async move {
                let mut buffer = vec![0; options.buffer];
                while let Ok(n @ 1..) =
                    operations::recv(&socket, &mut buffer, RecvFlags::empty(), None).await
                {
                    let mut rest = &buffer[..n];
                    while !rest.is_empty() {
                        let sent = operations::send(&socket, rest, SendFlags::NOSIGNAL, None).await;
                        let Ok(n) = sent else { return };
                        rest = &rest[n..];
                    }
                }
            });
        }
    });
    Err(io::Error::other(format!("the loop ended: {}", ended.is_some())))
}
