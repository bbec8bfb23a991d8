//! An open link's socket, written to by whoever has something to say, and what it did not take at once.
//!
//! Owns: the bounded backlog, and the order of frames on the socket. Must never: block, or begin a frame before the one before
//! it is out whole.
//!
//! The worker writes by itself: while the socket takes everything, a frame costs one system call and wakes no thread of this
//! node. What it does not take waits here, and the link's task carries it.

use super::lock;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::sync::Mutex;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// Frames that may wait for one peer.
pub const QUEUE_FRAMES_MAX: usize = 256;
/// Bytes that may wait for one peer, behind its socket and as many in the frames not yet flushed.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Frames of one write, of those that waited.
const WRITE_FRAMES: usize = 16;

/// The socket and what waits for it.
#[derive(Debug)]
pub(super) struct Pipe {
    socket: OwnedWriteHalf,
    backlog: Mutex<Backlog>,
    /// Something waits, or the socket broke.
    wake: Notify,
}

#[derive(Debug, Default)]
struct Backlog {
    /// The first may be partly out.
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Bytes of these that the socket took, ever.
    carried: u64,
    broken: Option<ErrorKind>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is out, or waits for its turn.
    Taken,
    /// Too much waits.
    Full,
    /// The socket is.
    Broken,
}

impl Pipe {
    /// Over a connection whose hello was taken.
    pub fn new(socket: OwnedWriteHalf) -> Self {
        Self { socket, backlog: Mutex::default(), wake: Notify::new() }
    }

    /// Sends a frame that consists of two parts.
    pub fn send(&self, head: &[u8], body: &[u8]) -> Sent {
        let mut backlog = lock(&self.backlog);
        if backlog.broken.is_some() {
            return Sent::Broken;
        }
        let bytes = head.len() + body.len();
        if !backlog.frames.is_empty() {
            if backlog.frames.len() >= QUEUE_FRAMES_MAX || backlog.bytes + bytes > QUEUE_BYTES_MAX {
                return Sent::Full;
            }
            backlog.push([head, body].concat().into());
            return Sent::Taken;
        }
        let written = match self.socket.try_write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => {
                backlog.broken = Some(error.kind());
                self.wake.notify_one();
                return Sent::Broken;
            }
        };
        if written < bytes {
            // One frame always finds room, however long its only message is.
            let mut rest = Bytes::from([head, body].concat());
            rest.advance(written);
            backlog.push(rest);
            self.wake.notify_one();
        }
        Sent::Taken
    }

    /// Carries what waits; returns why the socket broke.
    pub async fn carry(&self) -> Error {
        loop {
            self.wake.notified().await;
            loop {
                match self.carry_some() {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if let Err(error) = self.socket.writable().await {
                            return error;
                        }
                    }
                    Err(error) => return error,
                }
            }
        }
    }

    /// One write of what waits; how much the socket took.
    fn carry_some(&self) -> Result<usize> {
        let mut backlog = lock(&self.backlog);
        if let Some(kind) = backlog.broken {
            return Err(kind.into());
        }
        if backlog.frames.is_empty() {
            return Ok(0);
        }
        let frames: Vec<IoSlice<'_>> = backlog.frames.iter().take(WRITE_FRAMES).map(|f| IoSlice::new(f)).collect();
        let written = self.socket.try_write_vectored(&frames);
        drop(frames);
        match &written {
            Ok(written) => backlog.carried(*written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => backlog.broken = Some(error.kind()),
        }
        written
    }

    /// Bytes that wait, and bytes carried of those that waited.
    pub fn progress(&self) -> (usize, u64) {
        let backlog = lock(&self.backlog);
        (backlog.bytes, backlog.carried)
    }
}

impl Backlog {
    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    fn carried(&mut self, mut written: usize) {
        self.bytes -= written;
        self.carried += written as u64;
        while let Some(first) = self.frames.front_mut() {
            let out = written.min(first.len());
            first.advance(out);
            written -= out;
            if !first.is_empty() {
                return;
            }
            self.frames.pop_front();
        }
    }
}
