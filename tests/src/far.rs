//! A way to a node that takes long: what connects to it is carried there by this process, and late.
//!
//! Owns: the delay of every byte, and now and then the longer one of a packet that was lost. Must never: lose, double or reorder
//! bytes of a connection, or hold more of one than a window's worth.
//!
//! Packets cannot be delayed in every kernel (`netem` is a module), so connections are: the first bytes of one are three times
//! as long on their way, as behind the handshake, and all others once.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Pieces on their way in one direction of a connection, at most, and the longest.
const PIECES: usize = 1024;
const PIECE: usize = 64 << 10;

/// How far nodes are.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// How long a byte takes to a node, and how long one takes back.
    pub one_way: Duration,
    /// Interval at which each direction of a connection loses a packet …
    pub loses_every: Duration,
    /// … which comes so much later, and with it all that is behind it.
    pub sent_again_after: Duration,
}

/// The ways to all nodes; they end with it.
pub struct Far {
    distance: Distance,
    runtime: Option<Runtime>,
}

impl Far {
    /// No ways yet.
    #[track_caller]
    pub fn new(distance: Distance) -> Far {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Far { distance, runtime: Some(runtime.expect("a runtime")) }
    }

    /// Carries what connects to `addr` to `node`.
    #[track_caller]
    pub fn carry(&self, addr: &str, node: String) {
        let runtime = self.runtime.as_ref().expect("there until this is dropped");
        let listener = runtime.block_on(TcpListener::bind(addr)).expect("the port is free");
        let distance = self.distance;
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connection(near, node.clone(), distance));
            }
        });
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn connection(near: TcpStream, node: String, distance: Distance) {
    let shaken = Instant::now() + 3 * distance.one_way;
    // A node that is down: the caller sees the connection end.
    let Ok(far) = TcpStream::connect(node).await else { return };
    let plain = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    if plain.is_err() {
        return;
    }
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::join!(way(from_near, to_far, distance, shaken), way(from_far, to_near, distance, shaken));
}

/// One direction of a connection.
async fn way(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin + Send + 'static,
    distance: Distance,
    shaken: Instant,
) {
    let (under_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let arrival = tokio::spawn(async move {
        while let Some((due, bytes)) = arriving.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // An end travels too; who has gone meanwhile needs none.
        let _ = to.shutdown().await;
    });
    let (mut due, mut lost_at) = (shaken, Instant::now());
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let now = Instant::now();
        due = due.max(now + distance.one_way);
        if now - lost_at >= distance.loses_every {
            lost_at = now;
            due = due.max(now + distance.one_way + distance.sent_again_after);
        }
        if under_way.send((due, piece[..length].to_vec())).await.is_err() {
            return;
        }
    }
    drop(under_way);
    // It has the rest on its way.
    let _ = arrival.await;
}
