//! What a node answers over HTTP.
//!
//! Owns: the few bytes a probe sends. Must never: need an HTTP library.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Status code and body.
pub fn get(addr: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The value of a metric without labels, where the node answers and has it.
pub fn metric(addr: &str, name: &str) -> Option<f64> {
    let (_, page) = get(addr, "/metrics").filter(|(code, _)| *code == 200)?;
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
