//! What surrounds a worker: its host, its clients' reply sink, and what is tapped from both.
//!
//! Owns: frames, replies and signs of a round, each with the world time at which it left. Must never: decide their fate; the
//! world does, since a crash inside the round may keep them from leaving.

use crate::clock::Cursor;
use crate::violation::Violation;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use synod_cluster::ids::{ClientId, NodeId, NodeWriteSeq, ShardId, Slot, Space};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{ShardNews, SystemState};
use synod_engine::codec::keys::Bounds;
use synod_engine::codec::message;
use synod_engine::genesis::Genesis;
use synod_engine::host::{
    Answer, FetchRequest, Links, MergeHost, ProcessHost, ReadHost, ReplySink, ScrubHost, SnapshotHost, SnapshotKind,
    SnapshotRequest,
};
use synod_engine::identity::Mark;
use synod_engine::logstore::{GONE, GroupWrite};
use synod_engine::snapshot::{FileStore, SnapshotFile, Throttle, file_name, writer};
use synod_engine::state::{BulkLoad, StateView, ViewJob};
use synod_paxos::message::Message;
use synod_paxos::types::{Ballot, Epoch, Membership};

/// The cluster's name.
pub(crate) const CLUSTER: ClientId = ClientId(77);

/// What a worker's end of process carries through the unwinding.
pub(crate) struct Fatal(pub(crate) String);

/// How far a group's log is synced on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
}

/// Marks of a group that are noted with the write that synced them.
const MARKS_MAX: usize = 64;

impl Watermark {
    /// Whether what a member acknowledges by these is synced.
    fn has_accepted(&self, (ballot, upto): (Ballot, Slot)) -> bool {
        self.accepted > ballot || (self.accepted == ballot && self.last >= upto)
    }

    /// A write of the group was synced.
    pub(crate) fn written(&mut self, write: &GroupWrite) {
        if let Some(hard) = &write.hard {
            (self.promised, self.accepted) = (hard.promised, hard.accepted);
        }
        if let Some(from) = write.truncate_from {
            self.last = self.last.min(Slot(from.0.saturating_sub(1)));
        }
        if let Some(entry) = write.append.last() {
            self.last = self.last.max(entry.id.slot);
        }
        if let Some(trim) = write.trim {
            self.last = self.last.max(trim.slot);
        }
    }
}

/// What a view shows, to the observer too.
pub(crate) trait Viewed: StateView + Send {
    /// All of it.
    fn rows(&self) -> &BTreeMap<Vec<u8>, Bytes>;

    /// A hash of the rows of these ranges; none where some are damaged.
    fn hash(&self, ranges: &[Bounds]) -> Option<u64>;
}

/// A view of the state, and what is to be done with it.
pub(crate) struct View {
    /// The freeze before it is on disk.
    pub(crate) ready_at: u64,
    pub(crate) rows: Box<dyn Viewed>,
    pub(crate) job: ViewJob,
}

/// A snapshot that is being made.
pub(crate) struct Making {
    pub(crate) view: View,
    pub(crate) shard: ShardId,
    pub(crate) slot: Slot,
    pub(crate) space: Space,
    /// Of the rows, sessions and all; none where some are damaged.
    pub(crate) hash: Option<u64>,
}

/// A snapshot took a replica's place.
pub(crate) struct Installed {
    pub(crate) at: u64,
    pub(crate) shard: ShardId,
    pub(crate) slot: Slot,
    /// Of the rows on disk.
    pub(crate) hash: u64,
    /// No replica was there before.
    pub(crate) begins: bool,
}

/// What the worker wants done with snapshot files.
pub(crate) enum Wish {
    Offer { to: NodeId, shard: ShardId },
    Load { shard: ShardId, space: Space, loader: Arc<dyn BulkLoad> },
    Forget { shard: ShardId, kind: SnapshotKind },
    Ask { to: NodeId, shard: ShardId, least: Slot },
    Fetch { shard: ShardId, ticket: u64, for_read: bool },
}

/// Where a node's snapshot files stand.
pub(crate) fn snapshot_path(shard: ShardId, kind: SnapshotKind) -> PathBuf {
    let folder = if kind == SnapshotKind::Built { BUILT } else { FETCHED };
    Path::new(folder).join(file_name(shard))
}

/// The folders of snapshots made, and of those received.
pub(crate) const BUILT: &str = "built";
pub(crate) const FETCHED: &str = "fetched";

/// Encoded messages to one peer that left together.
pub(crate) struct Frame {
    pub(crate) at: u64,
    pub(crate) to: NodeId,
    pub(crate) write_seq: NodeWriteSeq,
    pub(crate) messages: Vec<(ShardId, Bytes)>,
    /// Kinds of the messages, for traces.
    pub(crate) kinds: Vec<&'static str>,
}

/// What a round left behind.
#[derive(Default)]
pub(crate) struct Tap {
    pub(crate) frames: Vec<Frame>,
    /// To whom messages of which shards found no room, until the worker asks.
    pub(crate) dropped: BTreeSet<(NodeId, ShardId)>,
    pub(crate) replies: Vec<(u64, u64, Result<Answer, Refusal>)>,
    answered: BTreeSet<u64>,
    /// When, which shard, and the applied position that went into its state.
    pub(crate) applied: Vec<(u64, ShardId, Slot)>,
    pub(crate) maps: Vec<(u64, Arc<SystemState>)>,
    /// Shards led here.
    pub(crate) leads: BTreeSet<ShardId>,
    pub(crate) elected: u64,
    pub(crate) trims: u64,
    pub(crate) drained: bool,
    pub(crate) quarantined: Option<String>,
    /// What is synced of each group.
    pub(crate) marks: BTreeMap<ShardId, Watermark>,
    /// By which write of the node each group came to its last marks, oldest first. The first one stands for all before it.
    since: BTreeMap<ShardId, VecDeque<(NodeWriteSeq, Watermark)>>,
    /// Where rows stand that are not in their shard's own space, as synced.
    pub(crate) spaces: BTreeMap<ShardId, Space>,
    /// Replicas that were here: none begins here in the epoch that is named or an earlier one.
    pub(crate) tombs: BTreeMap<ShardId, Epoch>,
    /// Replicas that went, each with the epoch that ended its membership.
    pub(crate) removed: Vec<(u64, ShardId, Epoch)>,
    /// Replicas that began with a snapshot, and of these the ones of groups that had one here before.
    pub(crate) begun: u64,
    pub(crate) returned: u64,
    /// Children that began by the entry of their parent.
    pub(crate) births: Vec<ShardId>,
    /// What leaders have to tell the system shard of members.
    pub(crate) members: Vec<(ShardId, Membership)>,
    /// What replicas have to tell it of bounds.
    pub(crate) bounds: Vec<ShardNews>,
    /// Snapshots made here begin at these slots: the log behind them is kept.
    held: BTreeMap<ShardId, Slot>,
    asked: Option<SnapshotRequest>,
    /// Damaged states that the process found at its start: their rows are gone.
    pub(crate) set_aside: usize,
    /// The process has looked through what it found.
    pub(crate) started: bool,
    pub(crate) making: Vec<Making>,
    pub(crate) installed: Vec<Installed>,
    pub(crate) wishes: Vec<(u64, Wish)>,
    /// What the job that ran last made.
    pub(crate) made: Option<Result<SnapshotFile, String>>,
    /// The clock of the job that runs.
    pub(crate) job_clock: Cursor,
    pub(crate) broke: Option<Violation>,
}

/// A process's tap. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Taps(Arc<Mutex<Tap>>);

impl Taps {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tap> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

impl Tap {
    fn broke(&mut self, invariant: &'static str, detail: String) {
        self.broke.get_or_insert(Violation::new(invariant, detail));
    }

    /// A trim of the log goes to the disk.
    pub(crate) fn trimmed(&mut self, shard: ShardId, trim: Slot, durable: Slot, installs: bool) {
        self.trims += 1;
        let held = self.held.get(&shard).copied().filter(|held| *held < trim && !installs);
        if let Some(held) = held {
            let detail = format!("shard {shard}: trimmed up to {trim}, a snapshot begins at {held}");
            self.broke("what lies behind a snapshot that is on its way stays in the log", detail);
        }
        if trim > durable {
            let detail = format!("shard {shard}: trimmed up to {trim}, the state on disk stands at {durable}");
            self.broke("16: the log is trimmed only below durable applied state", detail);
        }
    }

    /// What was seen of a peer is overwritten by less.
    pub(crate) fn set_back(&mut self, peer: NodeId, mark: Mark, known: Mark) {
        let detail = format!("node {peer} is written down with {mark:?}, {known:?} was known");
        self.broke("27: what is written down of a peer never goes back", detail);
    }

    /// An install takes what the log has behind the snapshot's very entry: it may be acknowledged.
    pub(crate) fn forgot(&mut self, shard: ShardId, slot: Slot) {
        let detail = format!("shard {shard}: installed at {slot}, entries behind it are gone");
        self.broke("4: an install keeps the log that goes on behind its snapshot", detail);
    }

    /// Whether a log is kept for a snapshot.
    pub(crate) fn holds_log(&self) -> bool {
        !self.held.is_empty()
    }

    /// Where the log on disk says that a shard's rows stand.
    pub(crate) fn space_of(&self, shard: ShardId) -> Space {
        self.spaces.get(&shard).copied().unwrap_or(Space(shard.0 as u32))
    }

    /// Whose rows a space holds.
    pub(crate) fn shard_of(&self, space: Space) -> ShardId {
        let found = self.spaces.iter().find(|(_, named)| **named == space);
        found.map_or(ShardId(space.0.into()), |(shard, _)| *shard)
    }

    /// Spaces that some group's rows are in.
    pub(crate) fn named_spaces(&self) -> BTreeSet<Space> {
        self.marks.keys().map(|shard| self.space_of(*shard)).collect()
    }

    /// A group's write was synced with write `seq` of the node; `installed`: the space that it points to, and the hash of what is there.
    pub(crate) fn written(&mut self, at: u64, seq: NodeWriteSeq, write: &GroupWrite, installed: Option<(Space, u64)>) {
        let shard = write.shard;
        if let Some(upto) = write.remove {
            let promised = self.marks.remove(&shard).map_or(Epoch(0), |mark| mark.promised.epoch);
            if promised > upto {
                let detail = format!("shard {shard}: it promised in epoch {promised:?} and goes by {upto:?}");
                self.broke("3: a replica that goes promised in no later epoch than the one it goes by", detail);
            }
            self.since.remove(&shard);
            self.spaces.remove(&shard);
            self.tombs.insert(shard, upto);
            if upto != GONE {
                self.removed.push((at, shard, upto));
            }
            return;
        }
        let begins = self.begins(write);
        let mark = self.marks.entry(shard).or_default();
        let before = *mark;
        mark.written(write);
        let mark = *mark;
        if mark != before {
            let since = self.since.entry(shard).or_insert_with(|| [(NodeWriteSeq(0), before)].into());
            since.push_back((seq, mark));
            if since.len() > MARKS_MAX {
                since.pop_front();
            }
        }
        if mark.promised < before.promised || mark.accepted < before.accepted {
            let detail = format!("shard {shard}: {mark:?} after {before:?}");
            self.broke("3: promised and accepted never go back", detail);
        }
        if let Some(hard) = &write.hard {
            let (epoch, start) = (hard.membership.epoch, hard.epoch_start);
            if !begins_at(epoch, start) || mark.last < start {
                let detail = format!("shard {shard}: epoch {epoch:?} from slot {start} on, {mark:?}");
                self.broke("7: an epoch is entered with its stop-sign and all before it on disk", detail);
            }
        }
        if let Some((space, hash)) = installed {
            self.spaces.insert(shard, space);
            self.held.remove(&shard);
            let slot = write.trim.map_or(Slot(0), |id| id.slot);
            self.installed.push(Installed { at, shard, slot, hash, begins });
        }
    }

    /// Whether it is a group's first write here. Where one was before, it is of a later epoch than that one could vote in.
    fn begins(&mut self, write: &GroupWrite) -> bool {
        let (shard, Some(hard)) = (write.shard, &write.hard) else { return false };
        let first = write.genesis.is_some() && !self.marks.contains_key(&shard);
        self.begun += u64::from(first && write.space.is_some());
        let genesis = write.genesis.clone().filter(|_| first && write.space.is_none());
        let genesis = genesis.and_then(|genesis| Genesis::decode(genesis, shard).ok());
        self.births.extend(genesis.filter(Genesis::is_child).map(|_| shard));
        let Some(upto) = self.tombs.get(&shard).copied().filter(|_| first) else { return first };
        self.returned += 1;
        if hard.membership.epoch <= upto {
            let detail = format!("shard {shard}: epoch {:?} after {upto:?}", hard.membership.epoch);
            self.broke("3: what a replica promised that went binds the next one here", detail);
        }
        self.tombs.remove(&shard);
        first
    }

    /// Rows of a space go. What a start finds older than the log goes although the log points to it: it is reinstalled.
    pub(crate) fn removed(&mut self, space: Space) {
        if self.started && self.named_spaces().contains(&space) {
            let detail = format!("space {space:?} of shard {}", self.shard_of(space));
            self.broke("23: rows go only once the log does not point to them any more", detail);
        }
    }

    /// A view was taken for the snapshot just asked for.
    pub(crate) fn viewed(&mut self, view: View) {
        let Some(asked) = self.asked.take() else { return };
        let (shard, slot, space) = (asked.shard, asked.basis.id.slot, asked.space);
        let hash = view.rows.hash(&asked.rows);
        self.making.push(Making { view, shard, slot, space, hash });
    }

    /// A snapshot is asked for: it begins where the log is kept, and carries at least the promise on disk.
    fn asks(&mut self, request: &SnapshotRequest) {
        let (shard, basis) = (request.shard, &request.basis);
        let mark = self.marks.get(&shard).copied().unwrap_or_default();
        if basis.promised < mark.promised {
            let detail = format!("shard {shard}: {:?}, promised is {:?}", basis.promised, mark.promised);
            self.broke("3: a snapshot carries its maker's promise", detail);
        }
        self.held.insert(shard, basis.id.slot);
        self.asked = Some(request.clone());
    }

    /// Invariants 3 and 4 at the moment a message leaves: what it vouches for is synced, and the write that its frame tells is not
    /// older than the one that synced it.
    fn vouched(&mut self, shard: ShardId, message: &Message, told: NodeWriteSeq) {
        let mark = self.marks.get(&shard).copied().unwrap_or_default();
        let (promised, accepted) = match message {
            Message::Prepare { ballot, .. }
            | Message::Promise { ballot, .. }
            | Message::Sync { ballot, .. }
            | Message::Accept { ballot, .. } => (Some(*ballot), None),
            Message::Accepted { ballot, upto, .. } => (None, Some((*ballot, *upto))),
            _ => (None, None),
        };
        if promised.is_some_and(|ballot| mark.promised < ballot) {
            let detail = format!("shard {shard}: {message:?} leaves, synced is {mark:?}");
            self.broke("3: a ballot is promised on disk before it is spoken of", detail);
        }
        if accepted.is_some_and(|accepted| !mark.has_accepted(accepted)) {
            let detail = format!("shard {shard}: {message:?} leaves, synced is {mark:?}");
            self.broke("4: no acknowledgement exceeds the durable matching prefix", detail);
        }
        let vouches = |mark: &Watermark| {
            promised.is_none_or(|ballot| mark.promised >= ballot)
                && accepted.is_none_or(|accepted| mark.has_accepted(accepted))
        };
        // The first of those that are noted may have been there long before.
        let since =
            self.since.get(&shard).and_then(|since| since.iter().position(|(_, mark)| vouches(mark)).zip(Some(since)));
        let by = since.filter(|(index, _)| *index > 0).map(|(index, since)| since[index].0);
        if by.is_some_and(|by| told < by) {
            let detail = format!("shard {shard}: {message:?} tells write {told:?}, it rests on {by:?}");
            self.broke("27: a message tells no older write than it rests on", detail);
        }
    }
}

/// The first slot of a log that a replica of this epoch must hold.
fn begins_at(epoch: Epoch, start: Slot) -> bool {
    epoch <= Epoch(1) || start > Slot(0)
}

/// What the worker asks of its surroundings.
pub(crate) struct SimHost {
    taps: Taps,
    cursor: Cursor,
    files: Arc<dyn FileStore>,
    /// What this worker sends with its next flush.
    queued: Vec<(NodeId, ShardId, Message)>,
    random: u64,
    /// Fetches asked for.
    fetches: u64,
}

/// One in so many fetches finds no room after all.
const FETCH_REFUSED: u64 = 16;

impl SimHost {
    pub(crate) fn new(taps: &Taps, cursor: &Cursor, files: &Arc<dyn FileStore>, seed: u64) -> Self {
        let (taps, cursor, files) = (taps.clone(), cursor.clone(), Arc::clone(files));
        Self { taps, cursor, files, queued: Vec::new(), random: seed, fetches: 0 }
    }

    fn wish(&mut self, wish: Wish) {
        self.taps.lock().wishes.push((self.cursor.get(), wish));
    }
}

impl Links for SimHost {
    fn send(&mut self, to: NodeId, shard: ShardId, message: Message) {
        self.queued.push((to, shard, message));
    }

    fn dropped(&mut self) -> Vec<(NodeId, ShardId)> {
        std::mem::take(&mut self.taps.lock().dropped).into_iter().collect()
    }

    fn flush(&mut self, durable: NodeWriteSeq) {
        let mut tap = self.taps.lock();
        let queued = std::mem::take(&mut self.queued);
        let mut frames: BTreeMap<NodeId, Frame> = BTreeMap::new();
        for (to, shard, body) in queued {
            tap.vouched(shard, &body, durable);
            let empty =
                Frame { at: self.cursor.get(), to, write_seq: durable, messages: Vec::new(), kinds: Vec::new() };
            let frame = frames.entry(to).or_insert(empty);
            frame.kinds.push(body.name());
            frame.messages.push((shard, message::encode(&body)));
        }
        tap.frames.extend(frames.into_values());
    }
}

impl ProcessHost for SimHost {
    fn map_changed(&mut self, map: Arc<SystemState>) {
        let at = self.cursor.get();
        self.taps.lock().maps.push((at, map));
    }

    fn role_changed(&mut self, shard: ShardId, _leader: Option<NodeId>, here: bool) {
        let mut tap = self.taps.lock();
        if here {
            tap.elected += u64::from(tap.leads.insert(shard));
        } else {
            tap.leads.remove(&shard);
        }
    }

    fn members_changed(&mut self, shard: ShardId, membership: Membership) {
        self.taps.lock().members.push((shard, membership));
    }

    fn bounds_changed(&mut self, news: ShardNews) {
        self.taps.lock().bounds.push(news);
    }

    fn drained(&mut self) {
        self.taps.lock().drained = true;
    }

    fn fatal(&mut self, why: String) -> ! {
        std::panic::resume_unwind(Box::new(Fatal(why)))
    }

    fn quarantined(&mut self, why: &str) {
        self.taps.lock().quarantined = Some(why.into());
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }
}

impl SnapshotHost for SimHost {
    fn build_snapshot(&mut self, request: SnapshotRequest) -> Option<ViewJob> {
        self.taps.lock().asks(&request);
        let (taps, files) = (self.taps.clone(), Arc::clone(&self.files));
        Some(Box::new(move |view| {
            let path = snapshot_path(request.shard, SnapshotKind::Built);
            let made = writer::make(&files, &path, CLUSTER, request, view, &mut Throttle::new(0));
            taps.lock().made = Some(made);
        }))
    }

    fn offer_snapshot(&mut self, to: NodeId, shard: ShardId) {
        self.wish(Wish::Offer { to, shard });
    }

    fn ask_snapshot(&mut self, to: NodeId, shard: ShardId, least: Slot) {
        self.wish(Wish::Ask { to, shard, least });
    }

    fn load_snapshot(&mut self, shard: ShardId, space: Space, loader: Arc<dyn BulkLoad>) {
        self.wish(Wish::Load { shard, space, loader });
    }

    fn forget_snapshot(&mut self, shard: ShardId, kind: SnapshotKind) {
        if kind == SnapshotKind::Built {
            self.taps.lock().held.remove(&shard);
        }
        self.wish(Wish::Forget { shard, kind });
    }
}

impl ScrubHost for SimHost {}

impl MergeHost for SimHost {}

impl ReadHost for SimHost {
    fn fetches_rows(&self) -> bool {
        true
    }

    fn fetch_rows(&mut self, request: FetchRequest) -> bool {
        self.fetches += 1;
        let FetchRequest { shard, ticket, for_read, .. } = request;
        let taken = !self.fetches.is_multiple_of(FETCH_REFUSED);
        if taken {
            self.wish(Wish::Fetch { shard, ticket, for_read });
        }
        taken
    }
}

/// Takes a process's answers to clients; the request's number is that of the client's attempt.
pub(crate) struct SimSink {
    taps: Taps,
    cursor: Cursor,
}

impl SimSink {
    pub(crate) fn new(taps: &Taps, cursor: &Cursor) -> Self {
        Self { taps: taps.clone(), cursor: cursor.clone() }
    }
}

impl ReplySink for SimSink {
    fn reply(&self, id: u64, answer: Result<Answer, Refusal>) {
        let mut tap = self.taps.lock();
        if !tap.answered.insert(id) {
            tap.broke("a request is answered once", format!("attempt {id} again: {answer:?}"));
        }
        tap.replies.push((self.cursor.get(), id, answer));
    }
}
