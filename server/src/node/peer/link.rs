//! Consensus traffic: the outgoing link to each peer.
//!
//! Owns: the connections. Must never: carry a frame of an earlier connection over to the next (what waited is dropped and sent
//! again by consensus), or retry a frame.
//!
//! A link is opened only after the peer has told, over the pulse, what it has seen of this node: so that first answer
//! cannot hold anything of this process, and shows a data directory that was set back even where the new process happens
//! to bear a number already used.

use super::counters::add;
use super::dial::{self, Backoff};
use super::outbox::Slot;
use super::pipe::{Pipe, Sent};
use super::shared::{Phase, Shared};
use super::wire::{self, Frames, HELLO_BYTES_MAX};
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_cluster::ids::NodeId;
use synod_proto::peer::{LinkReply, PeerFrame};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long a peer may take to accept or refuse a link.
const ACCEPT_WAIT: Duration = Duration::from_secs(5);
/// A link that lasted this long is opened again without a pause.
const LASTED: Duration = Duration::from_secs(1);
/// The peer is asked for a sign of life this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Unanswered questions after which the link is given up, where the peer took none of the bytes that wait either.
const UNANSWERED: u32 = 3;

/// Keeps a link to `node` open until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>, node: NodeId, slot: Arc<Slot>, mut identified: watch::Receiver<bool>) {
    if identified.wait_for(|told| *told).await.is_err() {
        return;
    }
    let mut backoff = Backoff::default();
    let mut complaint = String::new();
    let mut failed = 0;
    loop {
        let Some(addr) = shared.addresses.pick(node, failed) else { return };
        let began = Instant::now();
        let why = carry(&shared, node, &addr, &slot).await;
        if why != complaint {
            tracing::info!(%node, %addr, "link: {why}");
            complaint = why;
        }
        if began.elapsed() > LASTED {
            backoff.reset();
            failed = 0;
        } else {
            failed += 1;
        }
        backoff.wait().await;
    }
}

/// One connection's life; returns why it ended.
async fn carry(shared: &Shared, node: NodeId, addr: &str, slot: &Slot) -> String {
    let (stream, replies) = match timeout(ACCEPT_WAIT, call(shared, node, addr)).await {
        Err(_) => return format!("neither accepted nor refused within {ACCEPT_WAIT:?}"),
        Ok(Err(why)) => return why,
        Ok(Ok(accepted)) => accepted,
    };
    let (from, to) = stream.into_split();
    let pipe = Arc::new(Pipe::new(to));
    let open = slot.open(Arc::clone(&pipe));
    add(&shared.counters.links_opened, 1);
    tracing::debug!(%node, %addr, "link open");
    shared.linked(node);
    let ask = wire::frame(&PeerFrame { incarnation: shared.local.incarnation.0, ..PeerFrame::default() });
    let why = tokio::select! {
        why = attend(&pipe, &ask, from, replies) => why,
        error = pipe.carry() => error.to_string(),
    };
    drop(open);
    add(&shared.counters.links_ended, 1);
    why
}

/// Connects and says hello; returns once the peer has accepted the link.
async fn call(shared: &Shared, node: NodeId, addr: &str) -> Result<(TcpStream, Frames), String> {
    if *shared.phase.borrow() != Phase::Up {
        // Whoever leaves, or may not vote, is not to be taken for one that takes part.
        return Err("this node leaves: it opens no link".into());
    }
    let mut stream = dial::connect(addr).await?;
    let hello =
        PeerFrame { hello: Some(shared.hello(node)), incarnation: shared.local.incarnation.0, ..PeerFrame::default() };
    let greeting = [&wire::PREFACE[..], &wire::frame(&hello)].concat();
    stream.write_all(&greeting).await.map_err(|error| error.to_string())?;
    let mut replies = Frames::default();
    match replies.next(&mut stream, HELLO_BYTES_MAX).await {
        Ok(Some(LinkReply { refused })) if refused.is_empty() => Ok((stream, replies)),
        Ok(Some(LinkReply { refused })) => Err(refused),
        Ok(None) => Err("closed by the peer".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Hears what the peer says, asking it for a sign of life now and then; returns why the link ended.
async fn attend(pipe: &Pipe, ask: &[u8], mut from: OwnedReadHalf, mut replies: Frames) -> String {
    let mut pace = interval(ASK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut unanswered, mut carried) = (0, 0);
    loop {
        tokio::select! {
            reply = replies.next(&mut from, HELLO_BYTES_MAX) => match reply {
                Ok(Some(LinkReply { refused })) if refused.is_empty() => unanswered = 0,
                Ok(Some(LinkReply { refused })) => return refused,
                Ok(None) => return "closed by the peer".into(),
                Err(error) => return error.to_string(),
            },
            _ = pace.tick() => {
                let (waits, now) = pipe.progress();
                if waits > 0 && now > carried {
                    // The question waits behind what the peer is taking.
                    unanswered = 0;
                }
                carried = now;
                if unanswered >= UNANSWERED {
                    return format!("no sign of life for {:?}", ASK_EVERY * UNANSWERED);
                }
                // One that finds no room goes unanswered as well.
                if pipe.send(ask, &[]) != Sent::Broken {
                    unanswered += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (here, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_peer_without_a_sign_of_life_is_given_up_and_one_that_takes_what_waits_is_not() {
        let attended = |here: TcpStream, waiting: usize| async move {
            let (from, to) = here.into_split();
            let pipe = Pipe::new(to);
            for _ in 0..waiting {
                assert_eq!(pipe.send(&[], &vec![0; 1 << 20]), Sent::Taken);
            }
            let (began, ask) = (Instant::now(), wire::frame(&PeerFrame::default()));
            let why = tokio::select! {
                why = attend(&pipe, &ask, from, Frames::default()) => why,
                error = pipe.carry() => error.to_string(),
            };
            (why, began.elapsed())
        };
        let (dumb, slow) = (pair().await, pair().await);
        let reader = tokio::spawn(async move {
            // It takes all of it, in twice the time that silence may last, and then closes.
            let (mut stream, mut some) = (slow.1, vec![0; 1 << 20]);
            let until = Instant::now() + ASK_EVERY * UNANSWERED * 2;
            while Instant::now() < until {
                stream.read_exact(&mut some).await.unwrap();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        let (dumb, slow) = tokio::join!(attended(dumb.0, 0), attended(slow.0, 31));
        reader.await.unwrap();
        assert_eq!(dumb.0, "no sign of life for 3s");
        assert!(dumb.1 >= ASK_EVERY * UNANSWERED, "{dumb:?}");
        assert!(slow.1 >= ASK_EVERY * UNANSWERED * 2 - Duration::from_millis(500), "{slow:?}");
    }
}
