use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn news(shard: u64, from: &str, to: &str, version: u64, epoch: u64) -> News {
    let (shard, epoch) = (ShardId(shard), Epoch(epoch));
    News { shard, from: bytes(from), to: bytes(to), version, epoch, voters: vec![NodeId(1)], leader: None }
}

/// Bounds, shard, version and epoch of each route.
fn routes(overlay: &Overlay) -> Vec<(Bytes, Bytes, u64, u64, u64)> {
    let parts = |r: Route<'_>| (r.from.clone(), r.to.clone(), r.owner.shard.0, r.owner.version, r.owner.epoch.0);
    overlay.routes().map(parts).collect()
}

fn shard_at(overlay: &Overlay, position: &str) -> Option<(u64, u64)> {
    overlay.route(position.as_bytes()).map(|route| (route.owner.shard.0, route.owner.version))
}

#[test]
fn a_hint_is_followed_at_once_and_no_older_map_takes_it_away() {
    let mut overlay = Overlay::default();
    assert_eq!(overlay.route(b"a"), None);
    overlay.map([news(2, "", "m", 1, 1), news(3, "m", "", 1, 1)]);
    // Shard 2 was split at f, and its child says so first.
    assert!(overlay.hint(news(4, "f", "m", 2, 1)));
    assert!(!overlay.hint(news(4, "f", "m", 2, 1)), "it was known");
    assert_eq!(["e", "f", "m"].map(|at| shard_at(&overlay, at)), [Some((2, 1)), Some((4, 2)), Some((3, 1))]);
    let route = overlay.route(b"e").unwrap();
    assert_eq!((route.to, &route.owner.to), (&bytes("f"), &bytes("m")), "what it says of itself reaches further");
    // A newer map, of a revision before the split was told.
    overlay.map([news(2, "", "m", 1, 7), news(3, "m", "", 1, 1)]);
    assert_eq!(["e", "f"].map(|at| shard_at(&overlay, at)), [Some((2, 1)), Some((4, 2))]);
    assert_eq!(overlay.route(b"e").unwrap().owner.epoch, Epoch(7));
    overlay.map([news(2, "", "f", 2, 7), news(4, "f", "m", 2, 1), news(3, "m", "", 1, 1)]);
    assert_eq!(["e", "f", "m"].map(|at| shard_at(&overlay, at)), [Some((2, 2)), Some((4, 2)), Some((3, 1))]);
    assert!(!overlay.hint(news(2, "", "m", 1, 9)), "an older version of a later epoch is old");
}

#[test]
fn epochs_count_between_equal_versions_only_and_of_what_is_equal_the_last_word() {
    let mut overlay = Overlay::default();
    overlay.map([news(2, "", "", 3, 5)]);
    assert!(!overlay.hint(news(2, "", "", 3, 4)) && !overlay.hint(news(2, "", "", 2, 9)));
    assert!(overlay.hint(news(2, "", "", 3, 6)));
    assert!(overlay.hint(news(2, "", "", 4, 1)), "a greater version, of whatever epoch");
    let leader = Some(NodeId(3));
    assert!(!overlay.hint(News { leader, ..news(2, "", "", 4, 1) }), "no other route");
    assert_eq!(overlay.route(b"k").unwrap().owner.leader, leader);
}

#[test]
fn hints_are_bounded_and_a_map_is_always_taken() {
    let mut overlay = Overlay::default();
    overlay.map([news(2, "", "", 1, 1)]);
    let at = |i: u64| Bytes::copy_from_slice(&i.to_be_bytes());
    let many = 3 * HINTS_MAX as u64;
    let part = |i: u64| News { from: at(i), to: at(i + 1), ..news(10 + i, "", "", 2, 1) };
    let taken = (0..many).filter(|i| overlay.hint(part(*i))).count();
    assert!(taken >= HINTS_MAX - 4, "{taken}");
    assert!(overlay.tiles.len() <= HINTS_MAX + 1);
    assert!(!overlay.hint(news(9, "a", "b", 9, 9)), "it is full");
    overlay.map((0..many).map(part));
    assert!((0..many).all(|i| overlay.route(&at(i)).is_some_and(|route| route.owner.shard == ShardId(10 + i))));
    assert!(overlay.hint(news(9, "a", "b", 9, 9)), "the map confirmed them");
}

/// A table whose shards split, merge and change members; everything that was ever said of them, as hints and as whole maps.
struct Story {
    random: u64,
    shards: Vec<News>,
    next: u64,
    said: Vec<Vec<News>>,
}

impl Story {
    fn below(&mut self, n: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % n as u64).unwrap()
    }

    fn step(&mut self) {
        let i = self.below(self.shards.len());
        match self.below(5) {
            0 | 1 => {
                let (from, to) = (self.shards[i].from.clone(), self.shards[i].to.clone());
                let begin = from.first().map_or(0, |b| usize::from(*b));
                let end = to.first().map_or(32, |b| usize::from(*b));
                if end - begin < 2 {
                    return;
                }
                let at = Bytes::from(vec![u8::try_from(begin + 1 + self.below(end - begin - 1)).unwrap()]);
                let parent = &mut self.shards[i];
                parent.version += 1;
                parent.to = at.clone();
                self.next += 1;
                let (shard, version) = (ShardId(self.next), parent.version);
                let child = News { shard, from: at, to, version, epoch: Epoch(1), ..parent.clone() };
                self.said.extend([vec![parent.clone()], vec![child.clone()]]);
                self.shards.insert(i + 1, child);
            }
            2 if i + 1 < self.shards.len() => {
                let gone = self.shards.remove(i + 1);
                let into = &mut self.shards[i];
                into.version = into.version.max(gone.version + 1) + 1;
                into.to = gone.to;
                self.said.push(vec![into.clone()]);
            }
            3 => {
                self.shards[i].epoch = self.shards[i].epoch.next();
                self.said.push(vec![self.shards[i].clone()]);
            }
            _ => self.said.push(self.shards.clone()),
        }
    }

    fn shuffle(&mut self) {
        for i in (1..self.said.len()).rev() {
            let j = self.below(i + 1);
            self.said.swap(i, j);
        }
    }

    /// Hears everything in the order in which it lies there, some of it twice.
    fn heard(&mut self) -> Overlay {
        let mut overlay = Overlay::default();
        let mut before = [None; 32];
        for at in 0..self.said.len() {
            let again = self.below(at + 1);
            for at in [at, again] {
                match &self.said[at][..] {
                    [hint] => {
                        overlay.hint(hint.clone());
                    }
                    map => overlay.map(map.iter().cloned()),
                }
            }
            for position in 0..32u8 {
                let now = overlay.route(&[position]).map(|route| (route.owner.version, route.owner.epoch));
                let had = std::mem::replace(&mut before[usize::from(position)], now);
                assert!(had <= now, "position {position} went from {had:?} to {now:?}");
            }
        }
        overlay
    }
}

#[test]
fn any_order_of_the_same_news_gives_the_same_routes_and_no_position_loses_its_owner() {
    for seed in 1..=100u64 {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let first = news(1, "", "", 1, 1);
        let mut story = Story { random, shards: vec![first.clone()], next: 1, said: vec![vec![first]] };
        for _ in 0..40 {
            story.step();
        }
        story.said.push(story.shards.clone());
        let wanted: Vec<_> =
            story.shards.iter().map(|s| (s.from.clone(), s.to.clone(), s.shard.0, s.version, s.epoch.0)).collect();
        assert_eq!(routes(&story.heard()), wanted, "seed {seed}, as it came");
        for _ in 0..5 {
            story.shuffle();
            assert_eq!(routes(&story.heard()), wanted, "seed {seed}");
        }
        story.said.reverse();
        assert_eq!(routes(&story.heard()), wanted, "seed {seed}, backwards");
    }
}
