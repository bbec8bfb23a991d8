use super::*;
use bytes::Bytes;
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_engine::host::{Answer, At, Freshness, Reply};

/// A client that only remembers what it was told.
#[derive(Default)]
struct Told {
    refused: Mutex<Vec<(u64, u32)>>,
}

impl ReplySink for Told {
    fn reply(&self, _id: u64, _answer: Result<Answer, Refusal>) {}
}

impl Client for Told {
    fn refuse(&self, id: u64, retry_after_ms: u32) {
        self.refused.lock().unwrap().push((id, retry_after_ms));
    }
}

impl Told {
    fn refused(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.refused.lock().unwrap())
    }
}

type Taken = Arc<Mutex<Vec<u64>>>;

/// An admission queue of this window, and what has passed through it since the last call.
fn admission(window: usize) -> (Arc<AdmissionQueue>, impl Fn() -> Vec<u64>) {
    let taken = Taken::default();
    let theirs = Arc::clone(&taken);
    let worker = move |requests: Vec<Request>| {
        theirs.lock().unwrap().extend(requests.iter().map(|request| request.reply.id));
        Ok(())
    };
    let admission = AdmissionQueue::over(Box::new(worker), window, Counts::new().unwrap());
    (admission, move || std::mem::take(&mut *taken.lock().unwrap()))
}

fn requests(ids: std::ops::Range<u64>) -> Vec<Request> {
    let request = |id| Request {
        shard: ShardId(2),
        version: None,
        body: Body::Read {
            read: Read::Get { key: Bytes::from_static(b"k"), at: At::Newest },
            freshness: Freshness::Linearizable,
        },
        reply: Reply { sink: Arc::new(Told::default()), id },
    };
    ids.map(request).collect()
}

fn client() -> Arc<Told> {
    Arc::default()
}

#[test]
fn a_modest_stream_waits_behind_no_greedy_one() {
    let (admission, taken) = admission(8);
    let (greedy, modest) = (admission.open(client()), admission.open(client()));
    let now = Instant::now();
    greedy.push(requests(0..8), now);
    assert_eq!(taken(), (0..8).collect::<Vec<_>>(), "while there is room nothing waits");
    greedy.push(requests(8..1008), now);
    modest.push(requests(5000..5002), now);
    assert_eq!(taken(), Vec::<u64>::new());
    assert_eq!(admission.waiting.load(Ordering::Relaxed), 1002);
    admission.answered();
    assert_eq!(taken(), Vec::<u64>::new(), "room is given out in batches");
    admission.answered();
    // Two of the modest stream's, though a thousand came before them.
    assert_eq!(taken(), [8, 5000]);
    admission.answered();
    admission.answered();
    assert_eq!(taken(), [9, 5001]);
    (0..2).for_each(|_| admission.answered());
    assert_eq!(taken(), [10, 11], "all room is for whoever wants it");
}

#[test]
fn waiting_is_bounded_by_time_and_the_hint_grows() {
    let (admission, taken) = admission(4);
    let told = client();
    let stream = admission.open(told.clone());
    let began = Instant::now();
    stream.push(requests(0..104), began);
    assert_eq!(taken(), [0, 1, 2, 3]);
    stream.push(requests(200..201), began + REFUSE_AFTER);
    assert!(told.refused().is_empty(), "its queue still moves");
    let late = began + REFUSE_AFTER + Duration::from_millis(1);
    stream.push(requests(201..203), late);
    let refused = told.refused();
    assert_eq!(refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [201, 202]);
    let mut hint = Hint::new(began);
    let grown: Vec<u32> = (1..=8).map(|n| hint.count(began + HINT_PERIOD * n, 0, 1)).collect();
    assert!(grown.is_sorted() && grown[0] > HINT_LEAST_MS && grown[7] == HINT_MOST_MS, "{grown:?}");
    let shrunk: Vec<u32> = (9..=30).map(|n| hint.count(began + HINT_PERIOD * n, 1, 0)).collect();
    assert!(shrunk.is_sorted_by(|a, b| a >= b) && shrunk[21] == HINT_LEAST_MS, "{shrunk:?}");
}

#[test]
fn what_waited_too_long_is_not_executed() {
    let (admission, taken) = admission(2);
    let told = client();
    let stream = admission.open(told.clone());
    let now = Instant::now();
    stream.push(requests(0..6), now.checked_sub(GIVE_UP_AFTER * 2).unwrap());
    assert_eq!(taken(), [0, 1]);
    (0..2).for_each(|_| admission.answered());
    assert_eq!(taken(), Vec::<u64>::new());
    assert_eq!(told.refused().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!((admission.waiting.load(Ordering::Relaxed), admission.inside.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn what_waits_for_a_quorum_does_not_keep_others_out_for_ever() {
    let (admission, taken) = admission(2);
    let (stuck, other) = (admission.open(client()), admission.open(client()));
    let now = Instant::now();
    stuck.push(requests(0..2), now);
    other.push(requests(10..11), now + STALLED_AFTER / 2);
    assert_eq!(taken(), [0, 1]);
    other.push(requests(11..12), now + STALLED_AFTER * 3);
    assert_eq!(taken(), [10, 11]);
}

#[test]
fn a_stream_that_goes_takes_its_line_along() {
    let (admission, taken) = admission(2);
    let (gone, stays) = (admission.open(client()), admission.open(client()));
    let now = Instant::now();
    gone.push(requests(0..100), now);
    stays.push(requests(200..203), now);
    drop(gone);
    assert_eq!(admission.waiting.load(Ordering::Relaxed), 3);
    (0..2).for_each(|_| admission.answered());
    assert_eq!(taken(), [0, 1, 200, 201]);
}

#[test]
fn a_worker_without_room_is_an_overload() {
    let admission = AdmissionQueue::over(Box::new(Err), 4, Counts::new().unwrap());
    let told = client();
    admission.open(told.clone()).push(requests(0..3), Instant::now());
    assert_eq!(told.refused().len(), 3);
    assert_eq!(admission.inside.load(Ordering::Relaxed), 0);
}
