//! Counters that servers serve over HTTP, in Prometheus' text format.
//!
//! Owns: one short request, and the sums by name. Must never: fail a run: what cannot be read is not there.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Counters by name, summed over labels.
pub type Counters = BTreeMap<String, f64>;

/// The counters of all these servers together, those of the given names.
#[must_use]
pub fn counters(addrs: &[SocketAddr], names: &[&str]) -> Counters {
    let mut sum = Counters::new();
    if names.is_empty() {
        return sum;
    }
    for addr in addrs {
        let text = get(*addr).unwrap_or_default();
        for (name, value) in parse(&text) {
            if names.contains(&name) {
                *sum.entry(name.to_owned()).or_default() += value;
            }
        }
    }
    sum
}

fn get(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // The older version of the protocol: no chunks, and the server closes.
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {addr}\r\nAccept: text/plain\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn parse(text: &str) -> impl Iterator<Item = (&str, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?.trim();
        Some((name, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_and_the_rest_is_not() {
        let text = "HTTP/1.0 200 OK\r\n\r\n# HELP a b\na_total 3\nb{le=\"0.5 s\"} 4\nb{le=\"1\"} 5e1\n";
        let found: Vec<_> = parse(text).filter(|(name, _)| ["a_total", "b"].contains(name)).collect();
        assert_eq!(found, [("a_total", 3.0), ("b", 4.0), ("b", 50.0)]);
    }

    #[test]
    fn who_does_not_answer_has_no_counters() {
        let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(counters(&[addr], &["a_total"]).is_empty());
    }
}
