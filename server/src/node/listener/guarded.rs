//! One connection to the gRPC port.
//!
//! Owns: its bytes, from the first on, and its permit. Must never: stay at the entrance beyond its time, or be read without
//! a rest.

use super::permit::Permit;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

/// How an HTTP/2 connection begins (RFC 9113, 3.4).
const HTTP2_PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that are read before the reader rests.
///
/// HTTP/2 takes in all calls that can be read before it hands the first one on, and ends a connection on which too many
/// (`PENDING_RESETS`) were reset before that, since resets are cheap for a caller and not for the callee. A node that was
/// stopped for seconds finds what its clients cancelled meanwhile all at once: so it takes in this much, hands on what that
/// was, and goes on. A gRPC call that was cancelled takes 49 bytes at least: 16 for its head, 20 for its message, 13 for the
/// reset.
const STRETCH: usize = 32 << 10;
/// Calls that may have been reset by their caller in one stretch: 668 of them are a client's that cancels everything; one that
/// means harm needs 25 bytes for each, and reaches 1,310. Ended before its calls are handed on, such a connection costs little.
pub const PENDING_RESETS: usize = 1024;
/// Streams that may end, in the life of a connection, because its caller broke the rules or has more of them than it was told
/// it may: ordinary clients have none. Each may wait for a caller that reads nothing.
pub const BROKEN_STREAMS: usize = 1024;

/// More than the budget of a task's turn (128), which may have no bound.
const TURN_OPERATIONS: usize = 256;

/// A connection with its permit.
pub struct Guarded {
    stream: TcpStream,
    permit: Arc<Permit>,
    /// What was read before it was known how the connection begins: so many bytes, of which so many were handed on.
    begun: [u8; HTTP2_PREFACE.len()],
    read: usize,
    handed_on: usize,
    /// Bytes left of this stretch; none for a link, which rests by itself.
    stretch: Option<usize>,
    leave: Option<Pin<Box<Sleep>>>,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// As a link of a peer.
    Link,
    /// As HTTP/2.
    Http2,
    /// Otherwise.
    Nothing,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, permit: Arc<Permit>) -> Self {
        let leave = permit.is_at_entrance().then(|| Box::pin(sleep(permit.stay())));
        Self { stream, permit, begun: [0; HTTP2_PREFACE.len()], read: 0, handed_on: 0, stretch: Some(STRETCH), leave }
    }

    /// Its permit.
    #[must_use]
    pub fn permit(&self) -> &Arc<Permit> {
        &self.permit
    }

    /// Reads until it is known how the connection begins; `link` is the first byte of links.
    pub(super) async fn begin(&mut self, link: u8) -> io::Result<Beginning> {
        loop {
            let begun = &self.begun[..self.read];
            if begun.first() == Some(&link) {
                self.stretch = None;
                return Ok(Beginning::Link);
            }
            if !HTTP2_PREFACE.starts_with(begun) {
                return Ok(Beginning::Nothing);
            }
            if self.read == HTTP2_PREFACE.len() {
                return Ok(Beginning::Http2);
            }
            match self.stream.read(&mut self.begun[self.read..]).await? {
                0 => return Ok(Beginning::Nothing),
                n => self.read += n,
            }
        }
    }

    /// Whether the connection has to go now.
    fn must_leave(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(leave) = &mut self.leave else { return false };
        if !self.permit.is_at_entrance() {
            self.leave = None;
            return false;
        }
        let soon = Instant::now() + self.permit.stay();
        if self.permit.was_told() && leave.deadline() > soon {
            leave.as_mut().reset(soon);
        }
        leave.as_mut().poll(cx).is_ready()
    }
}

/// Ends this turn of the task, and has it take the next one soon. HTTP/2 tries to read again before each call that it hands on: so
/// the turn's budget of operations goes, and whatever is tried to be read waits until all calls are handed on.
fn rest(cx: &mut Context<'_>) {
    for _ in 0..TURN_OPERATIONS {
        match coop::poll_proceed(cx) {
            Poll::Ready(proceed) => proceed.made_progress(),
            Poll::Pending => return,
        }
    }
    cx.waker().wake_by_ref();
}

impl Connected for Guarded {
    type ConnectInfo = Arc<Permit>;

    fn connect_info(&self) -> Arc<Permit> {
        Arc::clone(&self.permit)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.must_leave(cx) {
            // Read as the caller's own end of it.
            return Poll::Ready(Ok(()));
        }
        if self.handed_on < self.read {
            let some = buf.remaining().min(self.read - self.handed_on);
            buf.put_slice(&self.begun[self.handed_on..self.handed_on + some]);
            self.handed_on += some;
            return Poll::Ready(Ok(()));
        }
        let Some(left) = self.stretch else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        if left == 0 {
            self.stretch = Some(STRETCH);
            rest(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = if buf.remaining() <= left {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        } else {
            let mut some = ReadBuf::new(buf.initialize_unfilled_to(left));
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut some);
            let bytes = some.filled().len();
            buf.advance(bytes);
            read
        };
        self.stretch = Some(left - (buf.filled().len() - before));
        read
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
