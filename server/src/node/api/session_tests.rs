use super::*;
use bytes::Bytes;
use synod_engine::host::{Body, Freshness, Read, TailPoll};

fn stream(memory: &Memory) -> Arc<Shared> {
    Arc::new(Shared::new(memory.clone()))
}

fn record(value: usize, headers: usize) -> v1::Record {
    let header = |n: usize| v1::Header { name: format!("h{n}").into(), value: vec![0; 1000].into() };
    v1::Record {
        key: "k".into(),
        value: vec![0; value].into(),
        headers: (0..headers).map(header).collect(),
        ..v1::Record::default()
    }
}

fn page(records: Vec<v1::Record>) -> v1::ShardReply {
    let page = v1::RecordPage { records, ..v1::RecordPage::default() };
    v1::ShardReply { id: 1, body: Some(v1::shard_reply::Body::Page(page)) }
}

fn tail(shared: &Arc<Shared>, id: u64, segment: usize) -> Request {
    let segments = vec![(Bytes::from(vec![0; segment]), Bytes::new(), 0)];
    let poll =
        TailPoll { from: Bytes::new(), to: Bytes::new(), segments, limit: 0, wait_us: 1_000_000, tells_trimmed: false };
    let body = Body::Read { read: Read::Tail(poll), freshness: Freshness::Local };
    let sink: Arc<dyn ReplySink> = shared.clone();
    Request { shard: ShardId(2), version: None, body, reply: Reply { sink, id } }
}

/// One request is answered with this.
fn answer(shared: &Shared, reply: v1::ShardReply) {
    shared.begun(1, 0);
    shared.push(reply);
}

fn taken(shared: &Arc<Shared>, replies: usize) {
    let gone: Vec<_> = shared.ready.lock().unwrap().drain(..replies).collect();
    shared.sent(&gone);
}

#[test]
fn headers_count_in_what_waits_for_a_client() {
    let shared = stream(&Memory::unlimited());
    while !shared.is_full() {
        answer(&shared, page(vec![record(10, 1000)]));
        assert!(
            shared.ready.lock().unwrap().len() < 100,
            "100 MB of headers wait for a client and it may be given more"
        );
    }
    let wait = shared.ready.lock().unwrap().len();
    assert!((30..40).contains(&wait), "{wait} MB wait");
}

#[test]
fn replies_of_all_streams_have_one_budget_and_give_it_back() {
    let memory = Memory::new(64 << 20);
    let account = memory.of(Holder::Replies).clone();
    let streams: Vec<_> = (0..8).map(|_| stream(&memory)).collect();
    for shared in &streams {
        for _ in 0..4 {
            answer(shared, page(vec![record(1 << 20, 0)]));
        }
    }
    assert!(account.used() > account.limit() && streams.iter().all(|shared| shared.is_full()));
    taken(&streams[0], 4);
    taken(&streams[1], 4);
    taken(&streams[2], 4);
    taken(&streams[3], 4);
    assert!(account.used() < account.limit() + (1 << 20), "{} bytes", account.used());
    taken(&streams[4], 1);
    assert!(!streams[0].is_full() && !streams[7].is_full());
    drop(streams);
    assert_eq!(account.used(), 0);
}

#[test]
fn requests_of_all_streams_have_one_budget_and_a_stream_without_any_goes_on() {
    let memory = Memory::new(64 << 20);
    let account = memory.of(Holder::Requests).clone();
    let (greedy, modest) = ((0..4).map(|_| stream(&memory)).collect::<Vec<_>>(), stream(&memory));
    for shared in &greedy {
        shared.begun(2, 5 << 20);
    }
    assert!(account.is_over());
    assert!(greedy.iter().all(|shared| shared.is_busy(1000)), "more is read of streams that have requests under way");
    assert!(!modest.is_busy(1000));
    greedy[0].taken(1);
    greedy[0].taken(1);
    assert_eq!(account.used(), 15 << 20);
    assert!(greedy.iter().all(|shared| !shared.is_busy(1000)));
    drop(greedy);
    assert_eq!(account.used(), 0);
}

#[test]
fn tails_wait_beside_the_requests_of_their_stream() {
    let memory = Memory::unlimited();
    let shared = stream(&memory);
    let limits = Limits { session_requests_max: 100, ..Limits::default() };
    let wait = |ids: std::ops::Range<u64>, segment: usize| {
        let polls: Vec<Request> = ids.map(|id| tail(&shared, id, segment)).collect();
        shared.begun(polls.len(), polls.iter().map(Request::bytes).sum());
        let_wait(polls, &limits, &shared)
    };
    let waiting = wait(0..100, 10);
    assert_eq!(waiting.len(), 100);
    assert!(!shared.is_busy(100), "idle tails keep requests of their stream from being read");
    // One more is refused by name.
    assert_eq!(wait(100..101, 10).len(), 0);
    let refused = shared.ready.lock().unwrap().pop().unwrap();
    shared.sent(std::slice::from_ref(&refused));
    let Some(v1::shard_reply::Body::Error(error)) = refused.body else { panic!("{refused:?}") };
    assert!(error.message.contains("100 tails") && error.message.contains("limits.session_requests_max"), "{error:?}");
    // What is answered makes room, and is a request under way until it is sent.
    for poll in waiting {
        poll.reply.send(Err(Refusal::NotReady));
    }
    assert!(shared.is_busy(100));
    taken(&shared, 100);
    assert_eq!((memory.of(Holder::Requests).used(), memory.of(Holder::Replies).used()), (0, 0));
    // Their bytes are bounded too.
    let large = wait(200..220, 1 << 20);
    assert!(large.len() < 17, "{} MB of segments wait on one stream", large.len());
}
