//! Links and pulses between nodes that behave, and against callers that do not.

use super::*;
use crate::node::peer::Place;
use crate::node::peer::dial::{connect, dial};
use crate::node::peer::hello::{PROTOCOL, hello};
use crate::node::peer::wire::{self, Frames, HELLO_BYTES_MAX};
use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::TcpStream;
use synod_proto::peer::peer_client::PeerClient;
use synod_proto::peer::{Envelope, Hello, LinkReply, PeerFrame, PulseFrame};
use tokio::io::AsyncWriteExt;
use tonic::Code;

#[test]
fn frames_pulses_and_identity_answers_cross() {
    let (mut one, mut two) = {
        let ((one, a), (two, b)) = (socket(), socket());
        let one = Node::start(local(1, 1), one, quick());
        let two = Node::start(local(2, 2), two, quick());
        two.seen.raise(NodeId(1), Incarnation(1), NodeWriteSeq(77));
        one.learn(&map(&[&a, &b]));
        two.learn(&map(&[&a, &b]));
        (one, two)
    };
    until("both told of the other", || {
        one.inbox.has(&Told::Identity(2, (1, 77)))
            && two.inbox.has(&Told::Identity(1, (0, 0)))
            && one.inbox.has(&Told::Alive(2))
            && two.inbox.has(&Told::Alive(1))
    });
    carried(&mut one, &two, 1);
    carried(&mut two, &one, 2);
    for n in 10..20 {
        one.outbox.send(NodeId(2), ShardId(5), &message(n));
        one.outbox.send(NodeId(2), ShardId(6), &message(n));
    }
    one.outbox.flush(NodeWriteSeq(123));
    let messages = (10..20).flat_map(|n| [(5, message(n)), (6, message(n))]).collect();
    let frame = Told::Peer { from: 1, incarnation: 1, write_seq: 123, messages };
    until("the frame is there", || two.inbox.has(&frame));
    assert!(one.peers.is_alive(NodeId(2)) && !one.peers.is_alive(NodeId(3)));
    assert_eq!(one.inbox.count(&Told::Identity(2, (1, 77))), 1, "one answer a connection");
    assert_eq!(one.peers.newest_map_revision(), 1);
}

#[test]
fn nodes_that_all_moved_find_each_other_by_one_address() {
    let ((one, a), (two, b), (three, c)) = (socket(), socket(), socket());
    // The map has each where nobody is, and node 3 where node 2 is now.
    let old = map(&["127.0.0.1:1", "127.0.0.1:2", &b]);
    let mut one = Node::start(local(1, 1), one, quick());
    let mut two = Node::start_with(local(2, 2), two, quick(), vec![a.clone()]);
    let mut three = Node::start_with(local(3, 3), three, quick(), vec![a.clone(), c.clone()]);
    for node in [&one, &two, &three] {
        node.learn(&old);
    }
    carried(&mut one, &two, 1);
    carried(&mut two, &one, 2);
    carried(&mut three, &one, 3);
    // These two were told nothing of each other.
    carried(&mut two, &three, 4);
    carried(&mut three, &two, 5);
    assert_eq!(one.peers.address(NodeId(2)), Some(b.clone()));
    assert_eq!(two.peers.address(NodeId(3)), Some(c.clone()));
    // The map is corrected: nothing changes.
    for node in [&one, &two, &three] {
        node.learn(&map(&[&a, &b, &c]));
    }
    carried(&mut two, &three, 6);
    let stranger = Node::start_with(Local { cluster: 0xbad, ..local(2, 9) }, socket().0, quick(), vec![a.clone()]);
    stranger.learn(&old);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(stranger.peers.address(NodeId(1)), Some("127.0.0.1:1".into()), "another cluster's node is no hint");
    assert_eq!(one.peers.address(NodeId(2)), Some(b));
}

#[test]
fn wrong_cluster_wrong_target_and_strangers_are_refused() {
    let ((one, a), (two, b), (three, c)) = (socket(), socket(), socket());
    let one = Node::start(local(1, 1), one, quick());
    let mut two = Node::start(Local { cluster: 0xbad, ..local(2, 1) }, two, quick());
    let mut three = Node::start(local(3, 1), three, quick());
    // Node 2 is of another cluster; node 3 takes node 1's address for node 2's; node 1 does not know node 3.
    one.learn(&map(&[&a, &b]));
    two.learn(&map(&[&a, &b]));
    three.learn(&map(&[&a, &a]));
    until("both were refused several times", || {
        two.probe(1, 1, 1);
        three.probe(2, 1, 1);
        three.probe(1, 1, 1);
        one.peers.counters().refused.get() > 6
    });
    assert_eq!(two.peers.counters().links_opened.get(), 0);
    assert_eq!(three.peers.counters().links_opened.get(), 0);
    for told in one.inbox.all() {
        assert!(matches!(told, Told::Dead(2)), "{told:?}");
    }
    assert!(!two.inbox.has(&Told::Alive(1)) && !three.inbox.has(&Told::Alive(1)));
    // Once the map names it, node 3 gets through.
    one.learn(&map(&[&a, &b, &c]));
    until("node 3 is heard", || one.inbox.has(&Told::Alive(3)));
    carried(&mut three, &one, 4);
}

#[test]
fn a_killed_process_is_dead_at_once_and_the_next_one_alive() {
    let timing = Timing { dead_after_ms: 60_000, ..quick() };
    let (mut one, mut two) = pair(&timing);
    carried(&mut one, &two, 1);
    carried(&mut two, &one, 2);
    until("alive", || one.inbox.has(&Told::Alive(2)));
    let addr = two.addr.clone();
    two.kill();
    until("dead long before the patience ends", || one.inbox.has(&Told::Dead(2)));
    let before = one.inbox.count(&Told::Alive(2));
    let listener = TcpListener::bind(&addr).unwrap();
    let mut two = Node::start(local(2, 3), listener, timing);
    two.learn(&map(&[&one.addr, &addr]));
    until("alive again", || one.inbox.count(&Told::Alive(2)) > before);
    carried(&mut one, &two, 3);
    carried(&mut two, &one, 4);
    until("told again for the links", || one.inbox.count(&Told::Alive(2)) > before + 1);
    let heard = one.inbox.all();
    assert!(heard.iter().any(|told| matches!(told, Told::Peer { from: 2, incarnation: 3, .. })), "{heard:?}");
}

#[test]
fn a_hung_log_writer_a_hung_worker_a_hung_reader_and_a_leaving_node_are_dead() {
    let (one, two) = pair(&Timing { dead_after_ms: 300, ..quick() });
    until("alive", || one.inbox.has(&Told::Alive(2)));
    two.progress.begin();
    until("its disk hangs", || one.inbox.has(&Told::Dead(2)));
    let before = one.inbox.count(&Told::Alive(2));
    two.progress.end();
    until("its disk is back", || one.inbox.count(&Told::Alive(2)) > before);
    let (dead, before) = (one.inbox.count(&Told::Dead(2)), one.inbox.count(&Told::Alive(2)));
    // In a freeze of the state, say: no log write is under way.
    two.progress.rounds().begin(two.progress.now());
    until("its worker hangs", || one.inbox.count(&Told::Dead(2)) > dead);
    two.progress.rounds().end();
    until("its worker goes on", || one.inbox.count(&Told::Alive(2)) > before);
    let (dead, before) = (one.inbox.count(&Told::Dead(2)), one.inbox.count(&Told::Alive(2)));
    two.progress.reads().begin(two.progress.now());
    until("its reader hangs", || one.inbox.count(&Told::Dead(2)) > dead);
    two.progress.reads().end();
    until("its reader goes on", || one.inbox.count(&Told::Alive(2)) > before);
    let dead = one.inbox.count(&Told::Dead(2));
    two.peers.leaving();
    until("it leaves", || one.inbox.count(&Told::Dead(2)) > dead);
    let alive = one.inbox.count(&Told::Alive(2));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(one.inbox.count(&Told::Alive(2)), alive, "its last pulses do not revive it");
    two.peers.stop();
    assert!(two.runtime.as_ref().is_some());
}

#[test]
fn an_older_process_is_told_so_and_not_heard() {
    let ((one, a), (two, b)) = (socket(), socket());
    let one = Node::start(local(1, 1), one, quick());
    let mut two = Node::start(local(2, 4), two, quick());
    one.seen.raise(NodeId(2), Incarnation(6), NodeWriteSeq(900));
    one.learn(&map(&[&a, &b]));
    two.learn(&map(&[&a, &b]));
    until("it learns what was seen of it", || two.inbox.has(&Told::Identity(1, (6, 900))));
    until("its link was refused", || {
        two.probe(1, 1, 1);
        one.peers.counters().refused.get() > 0
    });
    assert!(!one.inbox.has(&Told::Alive(2)) && one.inbox.messages() == 0);
}

#[test]
fn a_second_process_of_an_incarnation_is_told_so_and_not_heard() {
    let ((one, a), (two, b)) = (socket(), socket());
    let twin = |nonce| Local { nonce: Nonce(nonce), ..local(2, 4) };
    let mut one = Node::start(local(1, 1), one, quick());
    let mut two = Node::start(twin(11), two, quick());
    let map = map(&[&a, &b]);
    one.learn(&map);
    two.learn(&map);
    carried(&mut two, &one, 1);
    let mut copy = Node::start(twin(12), socket().0, quick());
    copy.learn(&map);
    let words = format!(
        "node 2 runs twice: a process of incarnation 4 is at {b}, another at {}; stop one, restart the other",
        copy.addr
    );
    until("told", || copy.inbox.has(&Told::Twice(1, words.clone())));
    assert!(!copy.inbox.all().iter().any(|told| matches!(told, Told::Identity(..))), "it must not begin by an answer");
    until("named", || one.peers.alarms().contains(&words));
    let (link, before) = (one.runtime.as_ref().unwrap().handle().clone(), one.inbox.messages());
    let hello = hello(&twin(12), NodeId(1));
    let refused = link.block_on(begin(&a, &greeting(Some(hello)))).err().unwrap_or_default();
    assert!(refused.starts_with("node 2 runs twice"), "{refused}");
    copy.probe(1, 2, 1);
    assert_eq!(one.inbox.messages(), before);
    assert_eq!(one.peers.address(NodeId(2)), Some(b));
    assert!(!two.inbox.all().iter().any(|told| matches!(told, Told::Twice(..))), "the first one goes on");
    carried(&mut two, &one, 3);
    carried(&mut one, &two, 4);
    // One that starts again is believed, and the one before no more.
    let next = Node::start(Local { nonce: Nonce(13), ..local(2, 5) }, socket().0, quick());
    next.learn(&map);
    until("answered", || next.inbox.all().iter().any(|told| matches!(told, Told::Identity(1, _))));
    until("the one before is told", || two.inbox.all().iter().any(|told| matches!(told, Told::Twice(1, _))));
}

#[test]
fn an_address_that_changes_is_followed() {
    let (mut one, two) = pair(&quick());
    carried(&mut one, &two, 1);
    two.kill();
    let (listener, moved) = socket();
    let mut two = Node::start(local(2, 3), listener, quick());
    let map = map(&[&one.addr, &moved]);
    two.learn(&map);
    one.learn(&map);
    carried(&mut one, &two, 2);
    carried(&mut two, &one, 3);
    one.learn(&SystemState::found(CLUSTER, std::slice::from_ref(&one.addr)));
    until("a node that is gone from the map is dropped", || {
        one.probe(2, 9, 1);
        one.peers.counters().dropped_unconnected.get() > 0
    });
}

#[test]
fn what_the_worker_had_no_room_for_is_told_again() {
    let ((one, a), (two, b)) = (socket(), socket());
    let one = Node::start(local(1, 1), one, quick());
    let mut two = Node::start(local(2, 2), two, quick());
    one.inbox.full.store(true, Ordering::Relaxed);
    one.learn(&map(&[&a, &b]));
    two.learn(&map(&[&a, &b]));
    until("messages were dropped", || {
        two.probe(1, 1, 1);
        one.peers.counters().dropped_inbox.get() > 0
    });
    assert_eq!(one.inbox.all(), []);
    one.inbox.full.store(false, Ordering::Relaxed);
    until("told", || one.inbox.has(&Told::Alive(2)) && one.inbox.has(&Told::Identity(2, (0, 0))));
}

/// A hand-made link as node 2.
struct Caller {
    stream: tokio::net::TcpStream,
    replies: Frames,
}

fn as_node_2(incarnation: u64) -> Hello {
    hello(&local(2, incarnation), NodeId(1))
}

/// Begins a link with these bytes; what the node says to it.
async fn begin(addr: &str, bytes: &[u8]) -> Result<Caller, String> {
    let mut caller = Caller { stream: connect(addr).await?, replies: Frames::default() };
    caller.stream.write_all(bytes).await.map_err(|e| e.to_string())?;
    match caller.reply().await {
        refused if refused.is_empty() => Ok(caller),
        refused => Err(refused),
    }
}

fn greeting(hello: Option<Hello>) -> Vec<u8> {
    [&wire::PREFACE[..], &wire::frame(&PeerFrame { hello, ..PeerFrame::default() })].concat()
}

async fn call(addr: &str, incarnation: u64) -> Result<Caller, String> {
    begin(addr, &greeting(Some(as_node_2(incarnation)))).await
}

impl Caller {
    async fn send(&mut self, frame: PeerFrame) {
        self.stream.write_all(&wire::frame(&frame)).await.unwrap();
    }

    /// The next reply; "closed" where there is none.
    async fn reply(&mut self) -> String {
        match self.replies.next(&mut self.stream, HELLO_BYTES_MAX).await {
            Ok(Some(LinkReply { refused })) => refused,
            Ok(None) => "closed".into(),
            Err(error) => error.to_string(),
        }
    }
}

fn frame(incarnation: u64, messages: &[Bytes]) -> PeerFrame {
    let envelopes = messages.iter().map(|m| Envelope { shard: 5, message: m.clone() }).collect();
    PeerFrame { hello: None, incarnation, write_seq: 1, envelopes }
}

fn good(probe: u64) -> Bytes {
    synod_engine::codec::message::encode(&message(probe))
}

#[test]
fn the_newest_link_of_a_node_takes_the_place_of_every_other() {
    let (listener, addr) = socket();
    let one = Node::start(local(1, 1), listener, quick());
    // Node 2 lives nowhere: only hand-made calls come from it.
    one.learn(&map(&[&addr, "127.0.0.1:1"]));
    let outside = runtime();
    outside.block_on(async {
        let put_off = "a newer link of this node took its place";
        let mut first = call(&addr, 5).await.unwrap();
        first.send(frame(5, &[good(1)])).await;
        first.send(frame(5, &[])).await;
        assert_eq!(first.reply().await, "", "a sign of life");
        let mut second = call(&addr, 5).await.unwrap();
        assert_eq!(first.reply().await, put_off);
        assert_eq!(first.reply().await, "closed");
        second.send(frame(5, &[good(2)])).await;
        second.send(frame(5, &[])).await;
        assert_eq!(second.reply().await, "", "so the frame before is delivered");
        let mut third = call(&addr, 6).await.unwrap();
        assert_eq!(second.reply().await, put_off);
        let older = call(&addr, 5).await.err().unwrap();
        assert!(older.contains("already seen incarnation 6 of node 2; incarnation 5"), "{older}");
        third.send(frame(6, &[good(3), good(4)])).await;
        until("the last frame is there", || {
            let messages = vec![(5, message(3)), (5, message(4))];
            one.inbox.has(&Told::Peer { from: 2, incarnation: 6, write_seq: 1, messages })
        });
    });
}

#[test]
fn garbage_within_a_link_ends_it_and_nothing_of_its_frame_is_delivered() {
    let (listener, addr) = socket();
    let one = Node::start(local(1, 1), listener, quick());
    one.learn(&map(&[&addr, "127.0.0.1:1"]));
    let outside = runtime();
    outside.block_on(async {
        let damaged = Bytes::from(good(7).iter().map(|b| b ^ 1).collect::<Vec<_>>());
        let bad = [
            wire::frame(&frame(5, &[good(1), Bytes::from_static(b"no message")])),
            wire::frame(&frame(5, &[good(1), damaged])),
            wire::frame(&frame(5, &[Bytes::new()])),
            wire::frame(&frame(4, &[good(1)])),
            wire::frame(&PeerFrame { hello: Some(as_node_2(5)), ..frame(5, &[good(1)]) }),
            vec![3, 0, 0, 0, 0xff, 0xff, 0xff],
            (5_242_881_u32).to_le_bytes().to_vec(),
            u32::MAX.to_le_bytes().to_vec(),
        ];
        for (n, bytes) in bad.iter().enumerate() {
            let mut caller = call(&addr, 5).await.unwrap();
            caller.stream.write_all(bytes).await.unwrap();
            let refused = caller.reply().await;
            assert!(!refused.is_empty() && refused != "closed", "bad frame {n}: {refused}");
            assert!(n < 6 || refused.ends_with("bytes, at most 5242880 are taken"), "{refused}");
            assert_eq!(caller.reply().await, "closed");
        }
        let mut client = PeerClient::new(dial(&addr).await.unwrap());
        let refused = client.pulse(tokio_stream::iter([PulseFrame::default()])).await.unwrap_err();
        assert!(refused.message().contains("without a hello"), "{refused}");
        let refused = client.pulse(tokio_stream::empty()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
    assert_eq!(one.inbox.messages(), 0);
    assert_eq!(one.peers.counters().garbage.get(), 8);
}

#[test]
fn a_link_of_another_make_is_refused_by_name() {
    let (listener, addr) = socket();
    let one = Node::start(local(1, 1), listener, quick());
    one.learn(&map(&[&addr, "127.0.0.1:1"]));
    let outside = runtime();
    outside.block_on(async {
        let foreign = hello(&Local { cluster: 0xbad, ..local(2, 5) }, NodeId(1));
        let other = Hello { protocol: PROTOCOL + 1, ..as_node_2(5) };
        let long = [&wire::PREFACE[..], &[0, 0x20, 0, 0]].concat();
        let cases: [(Vec<u8>, String); 7] = [
            (greeting(None), "without a hello".into()),
            (greeting(Some(other)), format!("protocol {PROTOCOL} between nodes, node 2 protocol {}", PROTOCOL + 1)),
            (greeting(Some(foreign)), "the caller is node 2 of cluster 00000000000000000000000000000bad".into()),
            (greeting(Some(hello(&local(2, 5), NodeId(3)))), "node 2 wants node 3".into()),
            (greeting(Some(hello(&local(7, 5), NodeId(1)))), "does not know node 7".into()),
            (long, "a frame of 8192 bytes, at most 4096 are taken".into()),
            (b"\0synod\0M".to_vec(), "does not begin as a link does".into()),
        ];
        for (bytes, why) in &cases {
            let before = one.peers.counters().refused.get();
            let refused = begin(&addr, bytes).await.err().unwrap();
            assert!(refused.contains(why), "{refused}");
            assert_eq!(one.peers.counters().refused.get(), before + 1);
        }
    });
    assert_eq!(one.inbox.messages(), 0);
}

#[test]
fn garbage_on_the_port_does_no_harm() {
    let (mut one, two) = pair(&quick());
    carried(&mut one, &two, 1);
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    // As an older process of node 1: its links are refused, and put off none.
    let link = greeting(Some(hello(&local(1, 0), NodeId(2))));
    for round in 0..60 {
        let mut stream = TcpStream::connect(&two.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut bytes = vec![0u8; rng.random_range(1..4096)];
        rng.fill_bytes(&mut bytes);
        // A good beginning: the preface of HTTP/2 and its settings, or that of a link, with a hello or without.
        let _ = stream.write_all(match round % 4 {
            0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            1 => &wire::PREFACE,
            2 => &link,
            _ => b"",
        });
        let _ = stream.write_all(&bytes);
        if round % 10 == 0 {
            let _ = stream.read(&mut bytes);
        }
    }
    carried(&mut one, &two, 2);
    assert!(!one.inbox.has(&Told::Dead(2)) && !two.inbox.has(&Told::Dead(1)));
}

#[test]
fn a_node_that_is_too_old_is_refused_by_name_and_let_go_when_the_version_rises() {
    let ((one, a), (two, b)) = (socket(), socket());
    let mut one = Node::start(local(1, 1), one, quick());
    let mut two = Node::start(Local { speaks: ClusterVersion::FIRST, ..local(2, 2) }, two, quick());
    let mut map = map(&[&a, &b]);
    one.learn(&map);
    two.learn(&map);
    carried(&mut one, &two, 1);
    carried(&mut two, &one, 2);
    let speaks = |node: &Node, of| node.peers.spoken(NodeId(of)).map(|said| said.speaks);
    assert_eq!((speaks(&one, 1), speaks(&one, 2)), (Some(ClusterVersion::SPOKEN), Some(ClusterVersion::FIRST)));
    assert_eq!((speaks(&two, 1), speaks(&two, 2)), (Some(ClusterVersion::SPOKEN), Some(ClusterVersion::FIRST)));

    (map.revision, map.version) = (map.revision + 1, ClusterVersion::SECOND);
    one.learn(&map);
    until("the old one counts as gone", || one.inbox.has(&Told::Dead(2)));
    let before = (one.inbox.messages(), two.inbox.messages());
    for probe in 0..50 {
        two.probe(1, 100 + probe, 1);
        one.probe(2, 200 + probe, 1);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((one.inbox.messages(), two.inbox.messages()), before, "neither way anything is carried");
    let words = "node 2 speaks cluster versions up to 1, the cluster is at version 2";
    let call = hello(&Local { speaks: ClusterVersion::FIRST, ..local(2, 3) }, NodeId(1));
    let refused = runtime().block_on(async { begin(&one.addr, &greeting(Some(call))).await.err() });
    assert!(refused.as_deref().is_some_and(|why| why.starts_with(words)), "{refused:?}");
}

#[test]
fn nodes_say_where_they_run_and_that_is_remembered_while_they_are_down() {
    let ((one, a), (two, b)) = (socket(), socket());
    let one = Node::start(local(1, 1), one, quick());
    let two = Node::start(local(2, 2), two, quick());
    let place = |zone: &str| Place { zone: zone.to_owned(), rack: "r1".to_owned() };
    one.peers.shared().spoken.note_place(NodeId(1), place("a"));
    two.peers.shared().spoken.note_place(NodeId(2), place("b"));
    let map = map(&[&a, &b]);
    one.learn(&map);
    two.learn(&map);
    until("each knows where the other runs", || {
        one.peers.place(NodeId(2)) == place("b") && two.peers.place(NodeId(1)) == place("a")
    });
    until("node 2 counts as alive", || one.inbox.has(&Told::Alive(2)));
    two.kill();
    until("node 2 counts as gone", || one.inbox.has(&Told::Dead(2)));
    assert_eq!(one.peers.place(NodeId(2)), place("b"));
}
