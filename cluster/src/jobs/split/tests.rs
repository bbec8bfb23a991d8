use super::*;

const P: ShardId = ShardId(2);
const C: ShardId = ShardId(9);

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn bounds(from: &str, to: &str, version: u64) -> Bounds {
    Bounds { from: bytes(from), to: bytes(to), version }
}

fn leader(from: &str, to: &str, version: u64) -> Option<Leader> {
    Some(Leader { bounds: bounds(from, to, version), epoch: Epoch(5), middle: Some(bytes("k")), hindrance: None })
}

fn next_at(at: Option<&str>, seen: &Seen) -> Step {
    let at = at.map(bytes);
    next(Goal { shard: P, version: 3, at: at.as_ref() }, seen)
}

fn waits(step: Step, words: &str) {
    assert!(matches!(&step, Step::Wait(why) if why.contains(words)), "{step:?}");
}

fn overtaken_by(step: Step, words: &str) {
    assert!(matches!(&step, Step::Overtaken(why) if why.contains(words)), "{step:?}");
}

/// The shard at version 3, as its leader and the map have it.
fn seen() -> Seen {
    Seen { mapped: Some(bounds("b", "t", 3)), made: None, reserved: None, leader: leader("b", "t", 3) }
}

fn propose(at: &str, version: u64) -> Step {
    Step::Propose { child: C, at: bytes(at), version, epoch: Epoch(5) }
}

#[test]
fn a_split_goes_step_by_step_and_any_executor_goes_on_where_another_died() {
    for (at, place) in [(Some("f"), "f"), (None, "k")] {
        // Before anything, and as often as somebody dies before the id is there.
        let mut now = seen();
        assert_eq!(next_at(at, &now), Step::Reserve { version: 3 });
        // The id is there: whoever comes gets the same, and proposes.
        now.reserved = Some(Unused { id: C, version: 3 });
        assert_eq!(next_at(at, &now), propose(place, 3));
        // Proposed, not applied: the leader says so.
        now.leader.as_mut().unwrap().hindrance = Some("a split is under way".into());
        waits(next_at(at, &now), "a split is under way");
        // Applied, the map does not know: nothing is proposed a second time, though the id seems unused.
        now.leader = leader("b", place, 4);
        waits(next_at(at, &now), "at version 4, the map is yet to hear of it");
        // The map knows.
        now = Seen { mapped: Some(bounds("b", place, 4)), made: Some(C), reserved: None, leader: None };
        assert_eq!(next_at(at, &now), Step::Done);
        // The parent went since then.
        now.mapped = None;
        assert_eq!(next_at(at, &now), Step::Done);
    }
}

#[test]
fn nothing_is_done_without_a_leader_that_knows_what_the_map_knows() {
    let mut now = seen();
    now.reserved = Some(Unused { id: C, version: 3 });
    now.leader = None;
    waits(next_at(Some("f"), &now), "nobody answers");
    now.leader = leader("b", "z", 2);
    waits(next_at(Some("f"), &now), "is at version 2, the map at 3");
    now.leader = leader("b", "t", 3);
    now.leader.as_mut().unwrap().middle = None;
    waits(next_at(None, &now), "nothing that can be divided");
    assert_eq!(next_at(Some("f"), &now), propose("f", 3), "the place was given");
    now.leader.as_mut().unwrap().middle = Some(bytes("b"));
    waits(next_at(None, &now), "nothing that can be divided");
}

#[test]
fn an_id_that_was_reserved_for_another_version_is_asked_for_again() {
    let mut now = Seen { mapped: Some(bounds("b", "t", 5)), leader: leader("b", "t", 5), ..seen() };
    now.reserved = Some(Unused { id: C, version: 3 });
    assert_eq!(next_at(Some("f"), &now), Step::Reserve { version: 5 });
    now.reserved = Some(Unused { id: C, version: 5 });
    assert_eq!(next_at(Some("f"), &now), propose("f", 5));
}

#[test]
fn somebody_elses_split_is_gone_on_from_or_overtakes() {
    // Elsewhere: the position is still the shard's.
    let now = Seen { mapped: Some(bounds("b", "m", 4)), leader: leader("b", "m", 4), ..seen() };
    assert_eq!(next_at(Some("f"), &now), Step::Reserve { version: 4 });
    overtaken_by(next_at(None, &now), "it is at version 4, the split was asked for at 3");
    // Below it: the position is another shard's, which does not begin there.
    let now = Seen { mapped: Some(bounds("b", "d", 4)), leader: leader("b", "d", 4), ..seen() };
    overtaken_by(next_at(Some("f"), &now), "no longer within shard 2, which is at version 4");
    // At the very place.
    let now = Seen { mapped: Some(bounds("b", "f", 4)), made: Some(ShardId(7)), ..seen() };
    assert_eq!(next_at(Some("f"), &now), Step::Done);
    // It went into its neighbour, or was dropped.
    overtaken_by(next_at(Some("f"), &Seen::default()), "shard 2 was dropped, or went into another shard");
}

/// One shard, its leader, the map, and executors that die, are late, or act twice.
struct World {
    random: u64,
    /// The shard, as its group has it, and the children that it had: where they begin, and at which version they came.
    real: Bounds,
    children: Vec<(ShardId, Bytes, u64)>,
    epoch: Epoch,
    /// The same, as the map has it.
    mapped: Bounds,
    known: Vec<(ShardId, Bytes, u64)>,
    reserved: Option<Unused>,
    next_id: u64,
    /// Steps that are on their way.
    sent: Vec<Step>,
}

impl World {
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % n as u64).unwrap()
    }

    fn look(&mut self, goal: Goal<'_>) -> Seen {
        let made = self.known.iter().find(|(_, from, version)| match goal.at {
            Some(at) => from == at,
            None => *version == goal.version + 1,
        });
        let made = made.map(|(id, ..)| *id);
        let (middle, bounds) = (Some(Bytes::from(vec![self.real.from[0] + 1])), self.real.clone());
        let leader = Leader { bounds, epoch: self.epoch, middle, hindrance: None };
        let answers = self.below(5) > 0;
        Seen { mapped: Some(self.mapped.clone()), made, reserved: self.reserved, leader: answers.then_some(leader) }
    }

    /// As the system shard and the shard's log do it.
    fn arrives(&mut self, step: Step) {
        match step {
            Step::Reserve { version } if version == self.mapped.version => {
                let id = self.reserved.map_or(ShardId(self.next_id), |unused| unused.id);
                self.next_id += u64::from(self.reserved.is_none());
                self.reserved = Some(Unused { id, version });
            }
            Step::Propose { child, at, version, epoch } if version == self.real.version && epoch == self.epoch => {
                assert!(self.real.divides(&at), "{at:?} does not divide {:?}", self.real);
                assert!(self.children.iter().all(|(id, ..)| *id != child), "{child} is used twice");
                self.real.version += 1;
                self.real.to = at.clone();
                self.children.push((child, at, self.real.version));
            }
            _ => {}
        }
    }

    fn told(&mut self) {
        self.mapped = self.real.clone();
        self.known.clone_from(&self.children);
        if let Some(unused) = self.reserved
            && self.known.iter().any(|(id, ..)| *id == unused.id)
        {
            self.reserved = None;
        }
    }

    /// Somebody with this goal looks and acts, or dies in between. What followed.
    fn turn(&mut self, goal: Goal<'_>) -> Step {
        let step = next(goal, &self.look(goal));
        if self.below(4) > 0 {
            self.sent.push(step.clone());
        }
        step
    }

    fn deliver(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let at = self.below(self.sent.len());
        // One in four comes again.
        let step = if self.below(4) == 0 { self.sent[at].clone() } else { self.sent.swap_remove(at) };
        self.arrives(step);
    }
}

#[test]
fn every_split_ends_no_id_is_used_twice_and_done_means_done() {
    let (mut done, mut overtaken) = (0, 0);
    for seed in 1..=2_000u64 {
        let real = Bounds { from: Bytes::from_static(&[10]), to: Bytes::from_static(&[90]), version: 3 };
        let mut world = World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            mapped: real.clone(),
            real,
            children: vec![],
            epoch: Epoch(1),
            known: vec![],
            reserved: None,
            next_id: 100,
            sent: vec![],
        };
        let mine = Bytes::from(vec![20 + u8::try_from(world.below(60)).unwrap()]);
        let other = Bytes::from(vec![20 + u8::try_from(world.below(60)).unwrap()]);
        let at = (world.below(2) == 0).then_some(&mine);
        let (mine, other) = (Goal { shard: P, version: 3, at }, Goal { shard: P, version: 3, at: Some(&other) });
        let mut turns = 0;
        let end = loop {
            turns += 1;
            assert!(turns < 2_000, "seed {seed}: it does not end");
            match world.below(8) {
                0 => drop(world.turn(other)),
                1 => world.epoch = if world.below(4) == 0 { world.epoch.next() } else { world.epoch },
                2..=4 => world.deliver(),
                5 => world.told(),
                _ => {
                    if let end @ (Step::Done | Step::Overtaken(_)) = world.turn(mine) {
                        break end;
                    }
                }
            }
        };
        let reached = world.children.iter().any(|(_, from, version)| match mine.at {
            Some(at) => from == at,
            None => *version == 4,
        });
        if end == Step::Done {
            assert!(reached, "seed {seed}: it is said to be done");
            done += 1;
        } else {
            assert!(!reached || mine.at.is_none(), "seed {seed}: {end:?}, and it is there");
            overtaken += 1;
        }
    }
    assert!(done > 500 && overtaken > 50, "{done} done, {overtaken} overtaken");
}

#[test]
fn the_middle_of_a_ring_lies_between_its_bounds() {
    let bound = |at: u64| at.to_be_bytes();
    let middle = |from: &[u8], to: &[u8]| super::middle_of_ring(from, to).map(|at| at.to_vec());
    assert_eq!(middle(b"", b""), Some(bound(1 << 63).to_vec()));
    assert_eq!(middle(&bound(1 << 63), b""), Some(bound(3 << 62).to_vec()));
    assert_eq!(middle(b"", &bound(2)), Some(bound(1).to_vec()));
    assert_eq!(middle(&bound(u64::MAX), b""), None);
    assert_eq!((middle(&bound(7), &bound(8)), middle(&bound(8), &bound(7)), middle(b"k", b"")), (None, None, None));
}
