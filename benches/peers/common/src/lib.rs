//! What the servers share: their command line, the listener, and the alignment of large buffers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// As long as that of `proactor serve`; the kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// What the command line asks: `[--port N] [--buffer BYTES]`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The port; 0 is a free one.
    pub port: u16,
    /// The bytes of a buffer that is received into.
    pub buffer: usize,
}

impl Options {
    /// Reads the command line, and ends the program if it is wrong.
    pub fn from_args() -> Options {
        let mut options = Options { port: 0, buffer: 64 << 10 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let number = args.next().and_then(|value| value.parse::<usize>().ok());
            match (&*arg, number) {
                ("--port", Some(port @ 0..=65_535)) => options.port = port as u16,
                ("--buffer", Some(bytes @ 1..)) => options.buffer = bytes,
                _ => {
                    eprintln!("usage: [--port N] [--buffer BYTES]");
                    std::process::exit(2);
                }
            }
        }
        options
    }

    /// Listens on the loopback, and says so. Accepted sockets inherit TCP_NODELAY.
    pub fn listen(self) -> TcpListener {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
        socket.set_reuse_address(true).expect("a socket");
        socket.set_tcp_nodelay(true).expect("a TCP socket");
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)).into())
            .expect("a free port");
        socket.listen(BACKLOG).expect("a bound socket");
        let listener = TcpListener::from(socket);
        println!("listening on {}", listener.local_addr().expect("a bound socket"));
        listener
    }
}

/// The allocator of every server: blocks of a page and more begin at a page. glibc puts a block of
/// 128 KiB and more 16 bytes behind one, and there the kernel copies at half the speed on some
/// processors: that would be measured, and not the library.
pub struct PageAligned;

const PAGE: usize = 4096;

fn aligned(layout: Layout) -> Layout {
    let align = if layout.size() >= PAGE { layout.align().max(PAGE) } else { layout.align() };
    Layout::from_size_align(layout.size(), align).unwrap_or(layout)
}

// SAFETY: the system's allocator frees a block with the layout that it was allocated with, since
// `realloc` is the default: a new block, a copy, and the end of the old one.
unsafe impl GlobalAlloc for PageAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout has a size above 0, and `aligned` keeps it.
        unsafe { System.alloc(aligned(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` was allocated by `alloc` above with this layout.
        unsafe { System.dealloc(block, aligned(layout)) }
    }
}

#[global_allocator]
static ALLOCATOR: PageAligned = PageAligned;
