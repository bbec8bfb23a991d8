//! The listener: which connections the node's ports accept, and which of them are links of peers.
//!
//! Owns: what happens to a connection until it is known how it begins. Must never: let an accept that failed end the server, or
//! wait without an end for somebody who does not say how it begins.
//!
//! | file | what |
//! | --- | --- |
//! | `permit` | permits for connections of clients and of peers, and the answer to a connection that gets none |
//! | `guarded` | a connection to the gRPC port |
//! | `http` | connections to the HTTP port |

mod guarded;
mod http;
mod permit;

pub use guarded::{BROKEN_STREAMS, Guarded, PENDING_RESETS};
pub use http::{HTTP_PERMITS, HttpListener};
pub use permit::{ENTRANCE_PERMITS, OPERATOR_PERMITS, PEER_PERMITS, Permit, Permits};

use futures::{Stream, StreamExt};
use guarded::Beginning;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;

/// How long accepting rests when the process has no file descriptor left.
const REST: Duration = Duration::from_millis(50);

/// The gRPC port's connections. Those whose first byte is `link` begin as a link and are given to `links` instead. Without delay: a
/// server's own setting for that is ignored by `serve_with_incoming`, and small frames would wait for acknowledgements.
pub fn incoming(
    listener: TcpListener,
    permits: Arc<Permits>,
    most: usize,
    link: u8,
    links: impl Fn(Guarded),
) -> impl Stream<Item = io::Result<Guarded>> {
    let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
    let admitted = accepted.filter_map(move |accepted| {
        let admitted = admit(&permits, accepted);
        async move {
            match admitted {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(REST).await;
                    None
                }
            }
        }
    });
    // The permits bound the connections. One more may begin, so that the listener never stops accepting.
    let begun = admitted
        .map(move |admitted| begin(admitted, link))
        .buffer_unordered(most + ENTRANCE_PERMITS + PEER_PERMITS + OPERATOR_PERMITS + 1);
    begun.filter_map(move |begun| {
        let grpc = match begun {
            Some((connection, Beginning::Link)) => {
                links(connection);
                None
            }
            Some((connection, Beginning::Http2)) => Some(Ok(connection)),
            _ => None,
        };
        async move { grpc }
    })
}

/// Waits until it is known how a connection begins, and no longer than its permit allows.
async fn begin((permits, mut connection): (Arc<Permits>, Guarded), link: u8) -> Option<(Guarded, Beginning)> {
    let patience = connection.permit().handshake();
    match timeout(patience, connection.begin(link)).await {
        Ok(begun) => Some((connection, begun.ok()?)),
        Err(_) => {
            permits.count_unfinished();
            None
        }
    }
}

/// A connection with its permit, where there is one. An accept that failed is an error: the next may succeed.
fn admit(permits: &Arc<Permits>, accepted: io::Result<TcpStream>) -> io::Result<Option<(Arc<Permits>, Guarded)>> {
    let stream = accepted?;
    Ok(permits.admit().map(|permit| (Arc::clone(permits), Guarded::new(stream, permit))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[tokio::test]
    async fn what_was_read_at_the_door_is_read_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let linked = std::sync::Mutex::new(Vec::new());
        let mut connections = pin!(incoming(listener, Permits::new(8), 8, 0, |link| linked.lock().unwrap().push(link)));
        let call = |bytes: &'static [u8]| async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        };
        let _link = call(b"\0synod\0Lrest").await;
        let mut stranger = call(b"GET / HTTP/1.1\r\n\r\n").await;
        let begins = async {
            let mut stream = call(&PREFACE[..5]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.write_all(&[&PREFACE[5..], b"more"].concat()).await.unwrap();
            stream
        };
        let (connection, _client) = future::join(connections.next(), begins).await;
        let mut whole = [0; 28];
        connection.unwrap().unwrap().read_exact(&mut whole).await.unwrap();
        assert_eq!(&whole[..], [PREFACE, b"more"].concat());
        assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0, "what begins otherwise is closed");
        let mut links = std::mem::take(&mut *linked.lock().unwrap());
        let mut whole = [0; 12];
        links[0].read_exact(&mut whole).await.unwrap();
        assert_eq!(&whole, b"\0synod\0Lrest");
    }

    #[tokio::test]
    async fn who_finds_no_place_has_to_leave_and_who_is_vouched_for_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections = pin!(incoming(listener, Permits::new(1), 1, 0, |_| panic!("no link")));
        let mut callers = Vec::new();
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            callers.push(stream);
            held.push(connections.next().await.unwrap().unwrap());
        }
        let mut whole = [0; 24];
        for connection in &mut held {
            connection.read_exact(&mut whole).await.unwrap();
        }
        assert!(held[0].permit().serve_client().is_ok());
        assert!(held[1].permit().serve_client().is_err(), "the second is told why");
        assert!(held[2].permit().vouch(), "the third is a peer's");
        let ended = timeout(Duration::from_secs(2), held[1].read(&mut whole)).await;
        assert_eq!(ended.expect("it has to leave").unwrap(), 0);
        let stays = timeout(Duration::from_millis(500), held[2].read(&mut whole)).await;
        assert!(stays.is_err(), "a peer stays");
    }

    #[tokio::test]
    async fn what_comes_without_an_end_is_read_in_stretches() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let caller = tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            stream.write_all(&vec![7; 4 << 20]).await.unwrap();
            stream
        });
        let mut connections = pin!(incoming(listener, Permits::new(1), 1, 0, |_| panic!("no link")));
        let mut connection = connections.next().await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (mut all, mut turn, mut longest, mut pending) = (0, 0, 0, 0);
        let mut some = vec![0; 200 << 10];
        while all < (4 << 20) + PREFACE.len() {
            let polled = futures::poll!(pin!(connection.read(&mut some)));
            match polled {
                std::task::Poll::Ready(n) => {
                    let n = n.unwrap();
                    (all, turn) = (all + n, turn + n);
                    longest = longest.max(turn);
                }
                // HTTP/2 tries again and again in the same turn.
                std::task::Poll::Pending if pending < 5 => pending += 1,
                std::task::Poll::Pending => {
                    (turn, pending) = (0, 0);
                    tokio::task::yield_now().await;
                }
            }
        }
        assert!(longest <= (32 << 10) + PREFACE.len(), "{longest} bytes without a rest");
        caller.await.unwrap();
    }
}
