//! The door: how many connections the node holds, and which of them are links of its peers.
//!
//! Owns: the permits of both ports. Must never: let an accept that failed end the server, or hold so many connections that
//! the stores find no file descriptors.

use super::peer::wire;
use futures::{Stream, StreamExt};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

/// Connections the HTTP port holds: probes and scrapers are few.
const HTTP_CONNECTIONS: usize = 64;
/// File descriptors that are left to the stores: each of the two opens 1,024 files at most.
const STORES_FILES: usize = 2300;
/// How long a connection may take to say anything.
const SILENCE: Duration = Duration::from_secs(5);
/// How long accepting rests when the process has no file descriptor left.
const REST: Duration = Duration::from_millis(50);

/// A connection with its permit.
pub struct Guarded {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// What may be held of `wanted` connections by a process with so many file descriptors.
fn allowed(wanted: usize, descriptors: usize) -> usize {
    wanted.min(descriptors.saturating_sub(STORES_FILES).max(descriptors / 8))
}

/// The process's limit of file descriptors, where the system tells.
fn descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(usize::MAX)
}

/// The gRPC port's connections, at most `most` at a time: one more is closed at once. Those that begin as a link are given to
/// `links` instead. Without delay: a server's own setting for that is ignored by `serve_with_incoming`, and small frames would
/// wait for acknowledgements.
pub fn incoming(
    listener: TcpListener,
    most: usize,
    links: impl Fn(Guarded),
) -> impl Stream<Item = io::Result<Guarded>> {
    let allowed = allowed(most, descriptors());
    if allowed < most {
        tracing::warn!(
            allowed,
            "fewer connections than network.connections_max: too few open files are allowed (ulimit -n)"
        );
    }
    let permits = Arc::new(Semaphore::new(allowed));
    let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
    let admitted = accepted.filter_map(move |accepted| {
        let admitted = admit(&permits, accepted);
        async move {
            if matches!(admitted, Admitted::Failed) {
                tokio::time::sleep(REST).await;
            }
            if let Admitted::Here(connection) = admitted { Some(connection) } else { None }
        }
    });
    // The permits bound them: one more place, so that the door never stands closed.
    let begun = admitted.map(begin).buffer_unordered(allowed + 1);
    begun.filter_map(move |begun| {
        let grpc = match begun {
            Some((connection, true)) => {
                links(connection);
                None
            }
            Some((connection, false)) => Some(Ok(connection)),
            None => None,
        };
        async move { grpc }
    })
}

/// Waits for a connection's first byte: whether it begins as a link. Who is silent for [`SILENCE`] is let go.
async fn begin(connection: Guarded) -> Option<(Guarded, bool)> {
    let mut first = [0];
    match timeout(SILENCE, connection.stream.peek(&mut first)).await {
        Ok(Ok(1)) => Some((connection, first[0] == wire::PREFACE[0])),
        _ => None,
    }
}

enum Admitted {
    Here(Guarded),
    OneTooMany,
    Failed,
}

/// A stream with its permit, unless it is one too many, or the accept failed: the next may succeed.
fn admit(permits: &Arc<Semaphore>, accepted: io::Result<TcpStream>) -> Admitted {
    match accepted {
        Ok(stream) => match Arc::clone(permits).try_acquire_owned() {
            Ok(_permit) => Admitted::Here(Guarded { stream, _permit }),
            Err(_) => Admitted::OneTooMany,
        },
        Err(error) => {
            tracing::debug!(%error, "a connection was not accepted");
            Admitted::Failed
        }
    }
}

/// The HTTP port.
pub struct HttpDoor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl HttpDoor {
    /// Over this listener.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(HTTP_CONNECTIONS)) }
    }
}

impl axum::serve::Listener for HttpDoor {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => {
                    if let Ok(_permit) = Arc::clone(&self.permits).try_acquire_owned() {
                        return (Guarded { stream, _permit }, addr);
                    }
                }
                Err(_) => tokio::time::sleep(REST).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected for Guarded {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn the_stores_keep_their_files() {
        assert_eq!(allowed(1024, 20_000), 1024);
        assert_eq!(allowed(1024, 3000), 700);
        assert_eq!(allowed(1024, 1024), 128);
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_its_place_is_free_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut door = std::pin::pin!(incoming(listener, 1, |_| panic!("no link")));
        let mut first = TcpStream::connect(addr).await.unwrap();
        first.write_all(b"PRI").await.unwrap();
        let held = door.next().await.unwrap().unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        let third = async {
            assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0, "the second is closed");
            drop(held);
            let mut third = TcpStream::connect(addr).await.unwrap();
            third.write_all(b"PRI").await.unwrap();
            third
        };
        let (admitted, _third) = future::join(door.next(), third).await;
        assert!(admitted.unwrap().is_ok(), "the third has the first one's place");
        drop(first);
    }
}
