//! Ports of loopback for programs that a test starts and that take a number instead of choosing one.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// First of the ports. They lie below those that the kernel gives to connections and to listeners on port 0, so that no such one takes a port between the
/// moment when it is found free here and the moment when the program binds it.
const FIRST: u32 = 10_000;
/// Number of the ports.
const COUNT: u32 = 20_000;
/// Ports that one process of tests tries before another one's begin.
const STRIDE: u32 = 16;

/// Returns a port that nobody has. Processes of tests, whose ids follow each other, begin at different ones.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(STRIDE);
    for _ in 0..COUNT {
        let next = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + next % COUNT).expect("below 30,000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}
