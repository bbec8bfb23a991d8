//! Loopback connections between the nodes: one in each direction between any two, a thread at either end.
//!
//! A frame on a connection is its length in four bytes, little-endian, and so many bytes.
//!
//! Owns: the framing, the sockets and their threads, which end when either node does. Must never: let a slow peer hold up a
//! node: what finds its queue full is dropped, as in a Synod node, and both protocols send again.

use crate::setting::{REPLICAS, Result, io, nodes};
use bytes::Bytes;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use synod_paxos::types::NodeId;

/// Frames that may wait for a connection.
const QUEUE: usize = 4096;

/// Inputs that may wait for a node.
const INBOX: usize = 16384;

/// Bytes of frames that leave in one write, or come in one read.
const BUFFER: usize = 256 << 10;

/// The longest frame, bytes: several times the longest message of either protocol.
const FRAME_MAX: usize = 64 << 20;

/// A node's end of its links.
pub struct Links {
    /// What peers sent, in the order of each.
    pub inbox: Receiver<(NodeId, Bytes)>,
    queues: Vec<(NodeId, SyncSender<Bytes>)>,
}

impl Links {
    /// Sends a frame; `false` where it was dropped.
    pub fn send(&self, to: NodeId, frame: Bytes) -> bool {
        let queue = self.queues.iter().find(|(peer, _)| *peer == to);
        queue.is_some_and(|(_, queue)| queue.try_send(frame).is_ok())
    }
}

/// Connects all nodes with one another; each one's end, in their order.
pub fn connect() -> Result<Vec<Links>> {
    let (inputs, inboxes): (Vec<_>, Vec<_>) = (0..REPLICAS).map(|_| sync_channel(INBOX)).unzip();
    let mut queues: Vec<Vec<_>> = (0..REPLICAS).map(|_| Vec::new()).collect();
    for (at, input) in inputs.iter().enumerate() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(io("listen"))?;
        let address = listener.local_addr().map_err(io("listen"))?;
        for (from, queues) in queues.iter_mut().enumerate().filter(|(from, _)| *from != at) {
            let (outgoing, incoming) = pair(&listener, address)?;
            let (queue, frames) = sync_channel(QUEUE);
            queues.push((nodes()[at], queue));
            let (sender, input) = (nodes()[from], input.clone());
            // Not waited for: each ends with the node at its end, or with the connection.
            thread::Builder::new()
                .name("link-out".into())
                .spawn(move || write(outgoing, &frames))
                .map_err(io("a thread"))?;
            thread::Builder::new()
                .name("link-in".into())
                .spawn(move || read(incoming, sender, &input))
                .map_err(io("a thread"))?;
        }
    }
    Ok(inboxes.into_iter().zip(queues).map(|(inbox, queues)| Links { inbox, queues }).collect())
}

fn pair(listener: &TcpListener, address: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let outgoing = TcpStream::connect(address).map_err(io(format!("connect to {address}")))?;
    let mine = outgoing.local_addr().map_err(io("connect"))?;
    loop {
        let (incoming, from) = listener.accept().map_err(io("accept"))?;
        // Somebody else may have come to this port.
        if from == mine {
            outgoing.set_nodelay(true).map_err(io("set TCP_NODELAY"))?;
            return Ok((outgoing, incoming));
        }
    }
}

/// Writes frames until their node is gone or the connection is: all that wait leave together.
fn write(mut stream: TcpStream, frames: &Receiver<Bytes>) {
    let mut buffer = Vec::with_capacity(BUFFER);
    while let Ok(first) = frames.recv() {
        buffer.clear();
        put(&first, &mut buffer);
        while buffer.len() < BUFFER {
            let Ok(next) = frames.try_recv() else { break };
            put(&next, &mut buffer);
        }
        if stream.write_all(&buffer).is_err() {
            return;
        }
    }
}

fn put(frame: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(frame.len()).expect("messages are bounded far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(frame);
}

/// Reads frames until the connection or their node is gone. A frame that cannot be is the end of the connection.
fn read(stream: TcpStream, from: NodeId, inbox: &SyncSender<(NodeId, Bytes)>) {
    let mut stream = BufReader::with_capacity(BUFFER, stream);
    while let Ok(frame) = next_frame(&mut stream) {
        if inbox.send((from, frame)).is_err() {
            return;
        }
    }
}

fn next_frame(stream: &mut impl Read) -> std::io::Result<Bytes> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = u32::from_le_bytes(head) as usize;
    if length > FRAME_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(Bytes::from(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn frames_come_back_and_an_impossible_one_is_refused() {
        let sent: [&[u8]; 4] = [b"one", b"", &[7; 300], b"last"];
        let mut stream = Vec::new();
        sent.iter().for_each(|frame| put(frame, &mut stream));
        stream.extend_from_slice(&9u32.to_le_bytes());
        stream.extend_from_slice(b"cut");
        let mut rest = &stream[..];
        for frame in sent {
            assert_eq!(next_frame(&mut rest).expect("whole"), frame);
        }
        assert_eq!(next_frame(&mut rest).expect_err("cut").kind(), ErrorKind::UnexpectedEof);
        let claimed = u32::try_from(FRAME_MAX + 1).expect("fits").to_le_bytes();
        assert_eq!(next_frame(&mut &claimed[..]).expect_err("too long").kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn frames_reach_the_node_they_are_for_in_order() {
        let links = connect().expect("loopback");
        for (at, node) in nodes().into_iter().enumerate() {
            for to in nodes().into_iter().filter(|to| *to != node) {
                for n in 0..100u8 {
                    assert!(links[at].send(to, Bytes::from(vec![node.0 as u8, to.0 as u8, n])));
                }
            }
            assert!(!links[at].send(node, Bytes::new()), "there is no link to oneself");
        }
        for (at, node) in nodes().into_iter().enumerate() {
            let mut next = [0u8; REPLICAS];
            for _ in 0..200 {
                let (from, frame) = links[at].inbox.recv_timeout(Duration::from_secs(5)).expect("all arrive");
                let expected = &mut next[from.0 as usize - 1];
                assert_eq!(frame[..], [from.0 as u8, node.0 as u8, *expected]);
                *expected += 1;
            }
        }
    }

    #[test]
    fn a_node_that_is_gone_takes_its_links_along() {
        let mut links = connect().expect("loopback");
        drop(links.remove(0));
        let gone = (0..500).any(|_| {
            thread::sleep(Duration::from_millis(10));
            !links[0].send(nodes()[0], Bytes::from_static(b"anybody?"))
        });
        assert!(gone, "the writer ends once the peer's reader has");
        assert!(links[0].send(nodes()[2], Bytes::from_static(b"still here")));
    }
}
