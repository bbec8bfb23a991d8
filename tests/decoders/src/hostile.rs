//! A client's bytes on their whole way: the frame's request, its checks, the entry, the state machine, the reads.
//!
//! Owns: a shard on a store in memory. Must never: let an error of the store pass: on this store only a client's bytes can be
//! the cause of one, and it would take a node out of service.

use crate::checks::sections;
use bytes::Bytes;
use prost::Message as _;
use synod_cluster::ids::{Entry, EntryId, SYSTEM_SHARD, ShardId, Space, TableId};
use synod_cluster::system::{Descriptor, Partitioning, Retention, SystemState};
use synod_engine::command::{Op, WriteRequest, encode_requests};
use synod_engine::genesis::Genesis;
use synod_engine::host::{Answer, Body, KeyedRecord, Read, Scan};
use synod_engine::machine::overlay::Overlay;
use synod_engine::machine::{ShardState, Wanted};
use synod_engine::query;
use synod_engine::state::mem::MemState;
use synod_paxos::types::Payload;
use synod_proto::v1;
use synod_server::config::Limits;
use synod_server::node::api::convert;

const TABLE: TableId = TableId(3);
const SPACE: Space = Space(2);
/// Requests of one input that are executed.
const REQUESTS_MAX: usize = 64;

struct Bench {
    store: MemState,
    state: ShardState,
    overlay: Overlay,
    records: usize,
}

impl Bench {
    fn new(mode: u8) -> Self {
        let founded = SystemState::found(1, &["a".to_owned()]);
        let system = &founded.shards[&SYSTEM_SHARD];
        let partitioning = if mode & 1 == 0 { Partitioning::Range } else { Partitioning::Hash };
        let retention = if mode & 2 == 0 { Retention::All } else { Retention::Latest };
        // Half of a table, where asked for: keys on both sides of a bound.
        let to = if mode & 4 == 0 { Bytes::new() } else { Bytes::from_static(b"n\0\0\0\0\0\0\0") };
        let descriptor = Descriptor { shard: ShardId(2), table: TABLE, partitioning, retention, to, ..system.clone() };
        let mut store = MemState::new();
        let state = ShardState::load(&mut store, SPACE, Genesis::Shard(descriptor)).expect("an empty store is sound");
        Self { store, state, overlay: Overlay::default(), records: 0 }
    }

    fn write(&mut self, mut request: WriteRequest) {
        if let Op::Write { table, ops } = &mut request.op {
            *table = TABLE;
            let appended = |op: &synod_engine::command::KeyOp| match &op.action {
                synod_engine::command::Action::Append(records) => records.len(),
                _ => 1,
            };
            self.records += ops.iter().map(appended).sum::<usize>();
        }
        let slot = self.state.applied().next();
        let data = encode_requests(std::iter::once(&request), request.size());
        let entry = Entry::new(EntryId { slot, ..EntryId::ZERO }, slot.0 * 1000, slot.0, Payload::Command(data));
        let applied = self.state.apply(&mut self.store, &mut self.overlay, &entry, Wanted::Results);
        let effects = applied.expect("an entry of a request that passed the checks is applied");
        assert_eq!(effects.results.len(), 1);
    }

    fn read(&mut self, read: &Read) {
        match read {
            Read::Scan(scan) => self.scan(scan.clone()),
            read => {
                let answer = query::read(&self.state, &mut self.store, read);
                // A refusal is an answer too.
                let _ = answer.expect("a sound store answers");
            }
        }
    }

    /// Page after page: they end, no record comes twice, and positions follow one another.
    fn scan(&mut self, mut scan: Scan) {
        let mut before: Option<(Vec<u8>, u64)> = None;
        let first = scan.cursor.clone();
        // A page with a record of each, empty ones where rows are passed over, and the last.
        for _ in 0..2 * self.records + 3 {
            let answer = query::read(&self.state, &mut self.store, &Read::Scan(scan.clone()));
            let Ok(answer) = answer.expect("a sound store answers") else { return };
            let Answer::Page { records, cursor, .. } = answer else { panic!("a scan answered by {answer:?}") };
            for record in records {
                let at = self.position(&record);
                let follows = before.as_ref().is_none_or(|b| if scan.reverse { at < *b } else { at > *b });
                assert!(follows, "{at:02x?} after {before:02x?}");
                before = Some(at);
            }
            if cursor.is_empty() {
                return;
            }
            scan.cursor = cursor;
        }
        panic!("a scan from {first:02x?} of at most {} records does not end", self.records);
    }

    fn position(&self, record: &KeyedRecord) -> (Vec<u8>, u64) {
        let position = self.state.descriptor().partitioning.position(&record.key);
        (position.into_owned(), record.offset.0)
    }
}

/// Requests of a client, executed one after the other.
pub fn shard_requests(data: &[u8]) -> bool {
    let Some((&mode, data)) = data.split_first() else { return false };
    let mut bench = Bench::new(mode);
    let limits = Limits::default();
    let mut executed = false;
    for section in sections(data).into_iter().take(REQUESTS_MAX) {
        let Ok(request) = v1::ShardRequest::decode(section) else { continue };
        let Some(Ok(body)) = request.body.map(|body| convert::body(body, &limits)) else { continue };
        executed = true;
        match body {
            Body::Write(request) => bench.write(request),
            Body::Read { read, .. } => bench.read(&read),
        }
    }
    executed
}
