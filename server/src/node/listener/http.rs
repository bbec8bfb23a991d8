//! The HTTP port's connections.
//!
//! Owns: how many there are. Must never: keep a probe out for one that says nothing.

use super::REST;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Connections the HTTP port holds: probes and scrapers are few. For one more, the one that was silent longest has to go.
pub const HTTP_PERMITS: usize = 64;

/// The HTTP port.
pub struct HttpListener {
    listener: TcpListener,
    open: Arc<Mutex<Open>>,
}

/// The connections that are open, by the number each was given.
#[derive(Default)]
struct Open {
    next: u64,
    held: BTreeMap<u64, Held>,
}

struct Held {
    heard: Instant,
    /// Gone, it ends the connection.
    _end: oneshot::Sender<()>,
}

/// One connection.
pub struct HttpConnection {
    stream: TcpStream,
    number: u64,
    open: Arc<Mutex<Open>>,
    /// None once it has come.
    end: Option<oneshot::Receiver<()>>,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpListener {
    /// Over this listener.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, open: Arc::default() }
    }

    fn admit(&self, stream: TcpStream) -> HttpConnection {
        let (end, ended) = oneshot::channel();
        let mut open = lock(&self.open);
        if open.held.len() >= HTTP_PERMITS
            && let Some(silent) = open.held.iter().min_by_key(|(_, held)| held.heard).map(|(number, _)| *number)
        {
            open.held.remove(&silent);
        }
        let number = open.next;
        open.next += 1;
        open.held.insert(number, Held { heard: Instant::now(), _end: end });
        HttpConnection { stream, number, open: Arc::clone(&self.open), end: Some(ended) }
    }
}

impl axum::serve::Listener for HttpListener {
    type Io = HttpConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (HttpConnection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, addr)) => return (self.admit(stream), addr),
                Err(_) => tokio::time::sleep(REST).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        lock(&self.open).held.remove(&self.number);
    }
}

impl AsyncRead for HttpConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().is_none_or(|end| Pin::new(end).poll(cx).is_ready()) {
            self.end = None;
            // Read as the caller's own end of it.
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready()
            && let Some(held) = lock(&self.open).held.get_mut(&self.number)
        {
            held.heard = Instant::now();
        }
        read
    }
}

impl AsyncWrite for HttpConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
    use axum::serve::Listener;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn for_one_more_the_one_that_was_silent_longest_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections = HttpListener::new(listener);
        let (mut callers, mut held) = (Vec::new(), Vec::new());
        for _ in 0..HTTP_PERMITS {
            callers.push(TcpStream::connect(addr).await.unwrap());
            held.push(connections.accept().await.0);
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        // The first says something; so the second is the one.
        tokio::io::AsyncWriteExt::write_all(&mut callers[0], b"GET").await.unwrap();
        let mut some = [0; 8];
        assert_eq!(held[0].read(&mut some).await.unwrap(), 3);
        callers.push(TcpStream::connect(addr).await.unwrap());
        held.push(connections.accept().await.0);
        assert_eq!(held[1].read(&mut some).await.unwrap(), 0);
        assert_eq!(lock(&connections.open).held.len(), HTTP_PERMITS);
        let silent = tokio::time::timeout(std::time::Duration::from_millis(50), held[2].read(&mut some)).await;
        assert!(silent.is_err(), "the third goes on");
        held.clear();
        assert!(lock(&connections.open).held.is_empty());
    }
}
