//! Histories whose verdict is known, both ways of deciding, and how a refusal reads.

use synod_lincheck::search::linearize;
use synod_lincheck::{Call, Expect, History, Operation, Outcome, Record, Report, Seen, Why, check, journal};

/// Operations on one key, each by a client of its own, and its log.
#[derive(Default)]
struct Key {
    history: History,
}

impl Key {
    fn op(mut self, times: (u64, u64), call: Call, outcome: Outcome) -> Self {
        let client = self.history.operations.len() as u64 + 1;
        let returned = (outcome != Outcome::Unknown).then_some(times.1);
        let key = "k".to_owned();
        self.history.operations.push(Operation { client, key, invoked: times.0, returned, call, outcome });
        self
    }

    fn put(self, times: (u64, u64), value: &str, outcome: Outcome) -> Self {
        self.op(times, Call::Put { value: value.into(), expect: Expect::Any }, outcome)
    }

    fn put_if(self, times: (u64, u64), value: &str, expect: Expect, outcome: Outcome) -> Self {
        self.op(times, Call::Put { value: value.into(), expect }, outcome)
    }

    fn append(self, times: (u64, u64), values: &[&str], outcome: Outcome) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.op(times, Call::Append { values, expect: Expect::Any }, outcome)
    }

    fn delete(self, times: (u64, u64), expect: Expect, outcome: Outcome) -> Self {
        self.op(times, Call::Delete { expect }, outcome)
    }

    fn get(self, times: (u64, u64), seen: Option<(u64, &str)>) -> Self {
        let newest = seen.map(|(offset, value)| Seen { offset, value: value.into() });
        self.op(times, Call::Get, Outcome::Found { newest, next: None })
    }

    fn read(self, times: (u64, u64), from: u64, limit: u64, records: &[Option<&str>]) -> Self {
        let record = |(offset, value): (u64, &Option<&str>)| Record { offset, value: value.map(str::to_owned) };
        let records = (from..).zip(records).map(record).collect();
        self.op(times, Call::Read { from, limit }, Outcome::Records(records))
    }

    fn log(mut self, values: &[Option<&str>]) -> Self {
        let record = |(offset, value): (u64, &Option<&str>)| Record { offset, value: value.map(str::to_owned) };
        self.history.logs.insert("k".into(), (0..).zip(values).map(record).collect());
        self
    }

    /// The verdict, which both ways must give, and which survives being written to a file and read again.
    #[track_caller]
    fn verdict(self) -> Report {
        let report = check(&self.history);
        let log = self.history.logs.get("k").map_or(&[][..], Vec::as_slice);
        let order = linearize(&self.history.operations, Some(log));
        assert_eq!(report.is_linearizable(), order.is_some(), "the two ways differ: {report}order {order:?}");
        let mut file = Vec::new();
        journal::write(&self.history, &mut file).unwrap();
        assert_eq!(journal::read(&file[..]).unwrap(), self.history);
        report
    }

    #[track_caller]
    fn good(self) {
        let report = self.verdict();
        assert!(report.is_linearizable(), "{report}");
    }

    /// Refused for this reason; returns how it reads.
    #[track_caller]
    fn bad(self, why: Why) -> String {
        let report = self.verdict();
        let found: Vec<_> = report.violations.iter().map(|violation| violation.why.clone()).collect();
        assert_eq!(found, [why], "{report}");
        report.to_string()
    }
}

const fn at(offset: u64) -> Outcome {
    Outcome::Written { offset }
}

#[test]
fn one_after_another() {
    Key::default()
        .get((0, 1), None)
        .put((2, 3), "a", at(0))
        .get((4, 5), Some((0, "a")))
        .append((6, 7), &["b", "c"], at(1))
        .read((8, 9), 0, 9, &[Some("a"), Some("b"), Some("c")])
        .delete((10, 11), Expect::Exists, at(3))
        .get((12, 13), None)
        .put_if((14, 15), "d", Expect::Absent, at(4))
        .log(&[Some("a"), Some("b"), Some("c"), None, Some("d")])
        .good();
}

#[test]
fn overlapping_operations_may_take_either_order() {
    // The one that was sent first stands second, and is read first by nobody.
    let writes = || Key::default().put((0, 10), "a", at(1)).put((1, 9), "b", at(0));
    writes().get((11, 12), Some((1, "a"))).log(&[Some("b"), Some("a")]).good();
    writes().get((2, 8), None).log(&[Some("b"), Some("a")]).good();
    writes().get((2, 8), Some((0, "b"))).log(&[Some("b"), Some("a")]).good();
}

#[test]
fn an_unknown_write_happened_or_did_not() {
    let write = || Key::default().put((0, 0), "a", Outcome::Unknown);
    write().get((1, 2), None).log(&[]).good();
    write().get((1, 2), None).get((3, 4), Some((0, "a"))).log(&[Some("a")]).good();
    // Long after its client gave up.
    write().put((5, 6), "b", at(0)).log(&[Some("b"), Some("a")]).good();
}

#[test]
fn an_unknown_write_happens_not_before_it_was_sent() {
    let text = Key::default()
        .put((5, 0), "a", Outcome::Unknown)
        .get((1, 2), Some((0, "a")))
        .log(&[Some("a")])
        .bad(Why::Backwards { floor: 1, seen: 1 });
    assert!(text.contains("outcome unknown"), "{text}");
}

#[test]
fn an_unknown_delete_is_matched_with_a_tombstone() {
    // Only the second delete can have been the first tombstone: the first one's condition did not hold there.
    Key::default()
        .put((0, 1), "a", at(0))
        .delete((2, 0), Expect::Next(3), Outcome::Unknown)
        .delete((2, 0), Expect::Any, Outcome::Unknown)
        .put((4, 5), "b", at(2))
        .log(&[Some("a"), None, Some("b"), None])
        .good();
    // Too many.
    Key::default()
        .put((0, 1), "a", at(0))
        .delete((2, 0), Expect::Any, Outcome::Unknown)
        .log(&[Some("a"), None, None])
        .bad(Why::NeverWritten { offset: 2 });
    // Sent after a read that saw what stands behind it.
    Key::default()
        .put((0, 5), "a", at(1))
        .get((2, 3), Some((1, "a")))
        .delete((4, 0), Expect::Any, Outcome::Unknown)
        .log(&[None, Some("a")])
        .bad(Why::NeverWritten { offset: 0 });
}

#[test]
fn conditions() {
    let refused = |actual| Outcome::ExpectationFailed { actual };
    let key = || Key::default().put((0, 1), "a", at(0));
    key().put_if((2, 3), "b", Expect::Absent, refused(1)).log(&[Some("a")]).good();
    key().put_if((2, 3), "b", Expect::Next(1), at(1)).log(&[Some("a"), Some("b")]).good();
    key().put_if((2, 3), "b", Expect::Next(0), refused(1)).log(&[Some("a")]).good();
    // Refused though it held.
    key().put_if((2, 3), "b", Expect::Exists, refused(1)).log(&[Some("a")]).bad(Why::Expectation { next: 1 });
    key().put_if((2, 3), "b", Expect::Next(1), refused(1)).log(&[Some("a")]).bad(Why::Expectation { next: 1 });
    // Told a next offset that was not yet, that never was, that was no more.
    key()
        .put_if((2, 3), "b", Expect::Next(7), refused(2))
        .put((4, 5), "c", at(1))
        .log(&[Some("a"), Some("c")])
        .bad(Why::Backwards { floor: 2, seen: 2 });
    key().put_if((2, 3), "b", Expect::Next(7), refused(9)).log(&[Some("a")]).bad(Why::Expectation { next: 9 });
    key().put_if((2, 3), "b", Expect::Next(7), refused(0)).log(&[Some("a")]).bad(Why::Backwards { floor: 1, seen: 0 });
    // Executed though it did not hold.
    key().put_if((2, 3), "b", Expect::Absent, at(1)).log(&[Some("a"), Some("b")]).bad(Why::Expectation { next: 1 });
    // Refused, and yet there.
    key()
        .put_if((2, 3), "b", Expect::Absent, refused(1))
        .log(&[Some("a"), Some("b")])
        .bad(Why::ExecutedThoughRefused { offset: 1 });
}

#[test]
fn a_stale_read() {
    let text = Key::default()
        .put((0, 1), "a", at(0))
        .put((2, 3), "b", at(1))
        .get((4, 5), Some((0, "a")))
        .log(&[Some("a"), Some("b")])
        .bad(Why::Backwards { floor: 2, seen: 1 });
    // Only the write and the read, with times; not the first write.
    assert!(text.contains("put \"b\" -> written at offset 1") && text.contains("get -> \"a\" at offset 0"), "{text}");
    assert!(!text.contains("put \"a\""), "{text}");
}

#[test]
fn a_read_going_back() {
    // The write overlaps both reads: each alone is fine.
    Key::default()
        .put((0, 9), "a", at(0))
        .get((1, 2), Some((0, "a")))
        .get((3, 4), None)
        .log(&[Some("a")])
        .bad(Why::Backwards { floor: 1, seen: 0 });
}

#[test]
fn a_lost_acknowledged_write() {
    Key::default().put((0, 1), "a", at(0)).log(&[]).bad(Why::Lost);
    // Its place taken by what stood behind it.
    Key::default().put((0, 1), "a", at(0)).put((2, 3), "b", at(1)).log(&[Some("b")]).bad(Why::Lost);
    Key::default().put((2, 3), "b", at(1)).log(&[Some("b")]).bad(Why::Moved { found: 0 });
    // A lost tombstone.
    Key::default().put((0, 1), "a", at(0)).delete((2, 3), Expect::Any, at(1)).log(&[Some("a")]).bad(Why::Lost);
}

#[test]
fn a_doubled_write() {
    Key::default().put((0, 1), "a", at(0)).log(&[Some("a"), Some("a")]).bad(Why::Doubled { first: 0, again: 1 });
    Key::default()
        .delete((0, 1), Expect::Any, at(0))
        .delete((2, 3), Expect::Any, at(0))
        .log(&[None])
        .bad(Why::PlaceGivenTwice { offset: 0 });
    // An acknowledged delete that was executed twice.
    Key::default().delete((0, 1), Expect::Any, at(0)).log(&[None, None]).bad(Why::NeverWritten { offset: 1 });
}

#[test]
fn reads_of_what_never_was() {
    let key = || Key::default().put((0, 1), "a", at(0)).log(&[Some("a")]);
    key().get((2, 3), Some((0, "x"))).bad(Why::ReadOfNothing);
    key().get((2, 3), Some((1, "a"))).bad(Why::ReadOfNothing);
    key().read((2, 3), 0, 9, &[Some("a"), Some("x")]).bad(Why::ReadOfNothing);
    key().log(&[Some("a"), Some("x")]).bad(Why::NeverWritten { offset: 1 });
}

#[test]
fn real_time_orders_writes() {
    Key::default()
        .put((0, 1), "a", at(1))
        .put((2, 3), "b", at(0))
        .log(&[Some("b"), Some("a")])
        .bad(Why::Backwards { floor: 2, seen: 1 });
    // Also one of unknown outcome, against what was answered before it was sent.
    Key::default()
        .put((0, 1), "a", at(1))
        .put((2, 0), "b", Outcome::Unknown)
        .log(&[Some("b"), Some("a")])
        .bad(Why::Backwards { floor: 2, seen: 1 });
}

#[test]
fn an_atomic_append_is_seen_whole() {
    let key = || Key::default().append((0, 9), &["a", "b"], at(0)).log(&[Some("a"), Some("b")]);
    key().get((1, 2), None).get((3, 4), Some((1, "b"))).good();
    key().get((1, 2), Some((0, "a"))).bad(Why::Torn);
    key().read((1, 2), 0, 9, &[Some("a")]).bad(Why::Torn);
    // A read that stops at its limit says nothing of what stands behind.
    key().read((1, 2), 0, 1, &[Some("a")]).good();
    Key::default().append((0, 1), &["a", "b"], Outcome::Unknown).log(&[Some("a")]).bad(Why::Torn);
    Key::default().append((0, 1), &["a", "b"], at(0)).log(&[Some("a")]).bad(Why::Torn);
    Key::default().append((0, 1), &["a", "b"], Outcome::Unknown).log(&[Some("b"), Some("a")]).bad(Why::Torn);
}

#[test]
fn reads_from_an_offset() {
    let key = || Key::default().put((0, 1), "a", at(0)).put((2, 3), "b", at(1)).log(&[Some("a"), Some("b")]);
    key().read((4, 5), 1, 5, &[Some("b")]).good();
    key().read((4, 5), 2, 5, &[]).good();
    key().read((4, 5), 1, 5, &[]).bad(Why::Backwards { floor: 2, seen: 1 });
    key().read((4, 5), 0, 5, &[Some("a")]).bad(Why::Backwards { floor: 2, seen: 1 });
    key().read((4, 5), 0, 1, &[Some("a")]).good();
}

#[test]
fn empty_answers_find_their_state() {
    // Nothing, between the two values: the tombstone. Behind the second: no state at all.
    let key = || {
        Key::default().put((0, 1), "a", at(0)).delete((2, 9), Expect::Any, at(1)).put((3, 9), "b", at(2)).log(&[
            Some("a"),
            None,
            Some("b"),
        ])
    };
    key().get((4, 5), None).get((6, 7), Some((2, "b"))).good();
    key().get((4, 5), Some((2, "b"))).get((6, 7), None).bad(Why::Backwards { floor: 3, seen: 2 });
}

#[test]
fn gaps_and_nonsense() {
    let mut key = Key::default().put((0, 1), "a", at(0)).log(&[Some("a")]);
    key.history.logs.get_mut("k").unwrap()[0].offset = 1;
    key.bad(Why::Gap { expected: 0, found: 1 });
    let key = Key::default().op((0, 1), Call::Get, at(0)).log(&[]);
    key.bad(Why::Nonsense);
}

#[test]
fn files_that_are_no_history() {
    let refused = |text: &str| journal::read(text.as_bytes()).unwrap_err().to_string();
    assert!(refused("").contains("line 1: the file is empty"));
    assert!(refused("{\"synod_history\":2}\n").contains("line 1: version 2, this reads 1"));
    assert!(refused("{\"client\":1}\n").contains("line 1: not a history"));
    let cut = refused("{\"synod_history\":1}\n{\"client\":1,\"key\":\"a\",\"invo");
    assert!(cut.contains("line 2"), "{cut}");
    let twice = "{\"synod_history\":1}\n{\"log\":\"a\",\"records\":[]}\n{\"log\":\"a\",\"records\":[]}\n";
    assert!(refused(twice).contains("line 3: a second log of key \"a\""));
}
