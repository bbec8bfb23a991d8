//! The bytes of a link: how it begins, and its frames.
//!
//! Owns: the preface, by which the listener tells a link from HTTP/2, and the framing. Must never: panic, or take memory for what
//! has not come yet.
//!
//! A link is a TCP connection to a node's one port. The caller writes `PREFACE`, then frames; the callee writes frames back. A
//! frame is `length u32, little-endian | message`, the message a `PeerFrame` on the way there and a `LinkReply` on the way
//! back (`proto/proto/peer.proto`). The first frame bears the caller's hello, the first reply says whether it is taken. A
//! frame without messages asks for a sign of life, an empty reply is one.

use bytes::{Buf, BytesMut};
use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a link begins with. No HTTP and no TLS begins with its first byte.
pub const PREFACE: [u8; 8] = *b"\0synod\0L";
/// Longest first frame, and longest reply: the caller is not known yet.
pub const HELLO_BYTES_MAX: usize = 4096;
/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// Room that is made for what comes.
const READ_BYTES: usize = 64 << 10;
/// Room that is still worth a read.
const READ_BYTES_MIN: usize = 4 << 10;

/// Why a connection is not a link, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It does not begin as one.
    #[error("it does not begin as a link does")]
    Preface,
    /// A length above the bound.
    #[error("a frame of {bytes} bytes, at most {most} are taken")]
    TooLong {
        /// Told.
        bytes: usize,
        /// Taken.
        most: usize,
    },
    /// Not the message that belongs there.
    #[error("a frame that cannot be read: {0}")]
    Garbage(#[from] prost::DecodeError),
    /// Closed within a frame.
    #[error("closed within a frame")]
    Torn,
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// One whole frame.
#[must_use]
pub fn frame(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(LENGTH_BYTES + message.encoded_len());
    begin_frame(&mut out, message, 0);
    out
}

/// A frame's beginning: its length, `head`, and `rest` bytes that are to follow, which the length counts.
pub fn begin_frame(out: &mut Vec<u8>, head: &impl Message, rest: usize) {
    let bytes = u32::try_from(head.encoded_len() + rest).expect("frames are bounded far below 4 GiB");
    out.extend_from_slice(&bytes.to_le_bytes());
    head.encode(out).expect("a vector grows");
}

/// Bytes as they come, made into frames.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Takes bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, where it is whole.
    ///
    /// # Errors
    /// It is longer than `most` bytes, or not such a message; the connection can no longer be used.
    pub fn take<M: Message + Default>(&mut self, most: usize) -> Result<Option<M>, WireError> {
        let Some(bytes) = self.length(most)? else { return Ok(None) };
        if self.buffer.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(M::decode(self.buffer.split_to(bytes).freeze())?))
    }

    fn length(&self, most: usize) -> Result<Option<usize>, WireError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes = u32::from_le_bytes(*length) as usize;
        if bytes > most { Err(WireError::TooLong { bytes, most }) } else { Ok(Some(bytes)) }
    }

    /// Makes room for more: as much again as is there, at most, however long the frame says it is.
    fn make_room(&mut self, most: usize) -> Result<(), WireError> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            let wanted = self.length(most)?.map_or(0, |bytes| (LENGTH_BYTES + bytes).saturating_sub(self.buffer.len()));
            self.buffer.reserve(wanted.min(self.buffer.len()).max(READ_BYTES));
        }
        Ok(())
    }

    /// Reads until a frame is whole; `None` where the connection ended between two. May be dropped and called again.
    ///
    /// # Errors
    /// As [`Self::take`], or the connection ended otherwise.
    pub async fn next<M: Message + Default>(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> Result<Option<M>, WireError> {
        loop {
            if let Some(message) = self.take(most)? {
                return Ok(Some(message));
            }
            self.make_room(most)?;
            if stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::Torn) };
            }
        }
    }
}

/// Reads the preface.
///
/// # Errors
/// It is another one, or the connection ended.
pub async fn preface(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), WireError> {
    let mut begin = [0; PREFACE.len()];
    stream.read_exact(&mut begin).await?;
    if begin == PREFACE { Ok(()) } else { Err(WireError::Preface) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::FutureExt;
    use synod_proto::peer::{Envelope, Hello, PeerFrame};

    fn sample() -> PeerFrame {
        let envelopes = (1..4).map(|n| Envelope { shard: n, message: Bytes::from(vec![7; 300]) }).collect();
        PeerFrame { hello: None, incarnation: 5, write_seq: 40, envelopes }
    }

    #[test]
    fn frames_may_come_in_any_pieces() {
        let bytes = [frame(&sample()), frame(&PeerFrame::default()), frame(&sample())].concat();
        for piece in [1, 3, 4, 5, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let mut found: Vec<PeerFrame> = Vec::new();
            for piece in bytes.chunks(piece) {
                frames.extend(piece);
                while let Some(frame) = frames.take(2000).unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, [sample(), PeerFrame::default(), sample()]);
        }
    }

    #[test]
    fn a_frame_may_be_written_in_two_parts() {
        let whole = sample();
        let body = PeerFrame { envelopes: whole.envelopes.clone(), ..PeerFrame::default() }.encode_to_vec();
        let mut out = Vec::new();
        begin_frame(&mut out, &PeerFrame { envelopes: Vec::new(), ..whole.clone() }, body.len());
        out.extend_from_slice(&body);
        assert_eq!(out, frame(&whole));
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_anything_is_taken_for_it() {
        let most = 5 << 20;
        for bytes in [most as u32 + 1, u32::MAX] {
            let mut frames = Frames::default();
            frames.extend(&bytes.to_le_bytes());
            let refused = frames.take::<PeerFrame>(most).unwrap_err().to_string();
            assert_eq!(refused, format!("a frame of {bytes} bytes, at most 5242880 are taken"));
            assert!(frames.make_room(most).is_err());
        }
        let mut frames = Frames::default();
        frames.extend(&(most as u32).to_le_bytes());
        frames.make_room(most).unwrap();
        assert!(frames.take::<PeerFrame>(most).unwrap().is_none());
        assert!(frames.buffer.capacity() <= 2 * READ_BYTES, "{} bytes for four", frames.buffer.capacity());
    }

    #[test]
    fn what_is_no_message_and_what_is_cut_off_is_refused() {
        let mut frames = Frames::default();
        frames.extend(&[3, 0, 0, 0, 0xff, 0xff, 0xff]);
        assert!(matches!(frames.take::<PeerFrame>(100), Err(WireError::Garbage(_))));
        let whole = frame(&PeerFrame { hello: Some(Hello::default()), ..sample() });
        for cut in 1..whole.len() {
            let mut stream = &whole[..cut];
            let next = Frames::default().next::<PeerFrame>(&mut stream, 2000).now_or_never();
            assert!(matches!(next, Some(Err(WireError::Torn))), "cut at {cut}");
        }
        let next = Frames::default().next::<PeerFrame>(&mut &b""[..], 2000).now_or_never();
        assert!(matches!(next, Some(Ok(None))), "an end between two frames is none within one");
    }

    #[test]
    fn another_preface_is_refused() {
        assert!(preface(&mut &PREFACE[..]).now_or_never().unwrap().is_ok());
        for other in [&b"PRI * HTTP/2.0\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\0synod\0M", b"GET / HTTP/1.1"]
        {
            assert_eq!(
                preface(&mut &*other).now_or_never().unwrap().unwrap_err().to_string(),
                WireError::Preface.to_string()
            );
            assert!(other[0] != PREFACE[0] || other[7] == b'M');
        }
        assert!(matches!(preface(&mut &PREFACE[..5]).now_or_never(), Some(Err(WireError::Io(_)))));
    }
}
