//! A server inside of a larger program, which ends in its own way: at the end of its input.

use std::io::Read;
use std::time::Duration;

use proactor::protocols::Echo;
use proactor::{Error, Report, Running, Server};

/// Serves until `stopped` returns true, and then until every connection is finished.
pub(crate) fn serve(
    address: &str,
    mut stopped: impl FnMut(&Running) -> bool,
) -> Result<Report, Error> {
    let server = Server::builder().listen(address, |_peer| Echo);
    let running = server.drain_timeout(Duration::from_secs(2)).start()?;
    println!("listening on {} ({})", running.addrs()[0], running.model());
    while !stopped(&running) {
        println!("{:?}", running.stats());
    }
    running.drain();
    running.join()
}

fn main() -> Result<(), Error> {
    let report = serve("127.0.0.1:7006", |_| matches!(std::io::stdin().read(&mut [0]), Ok(0)))?;
    println!("{report:?}");
    Ok(())
}
