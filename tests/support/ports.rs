//! Ports for servers that cannot tell which one they got.

use std::net::{Ipv4Addr, TcpListener};

/// A port on 127.0.0.1 that nobody listens on. Taken from a range below the one from which the kernel serves outgoing
/// connections and apart from the private nodes' ports, so that it is still free when the server binds it.
pub fn free_port() -> u16 {
    (0..200)
        .map(|_| fastrand::u16(20_000..25_700))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port between 20000 and 25700")
}
