//! What time it is, as the wall clocks of several nodes agree.
//!
//! Owns: what each node's wall clock showed when it was last heard, the time that a quorum's clocks have reached, and the time
//! that a shard's timestamps follow. Must never: read a clock, or take a time from fewer clocks than a quorum.
//!
//! A pulse takes its time on its way, so a peer's clock looks too late and never too early. The greatest time that a quorum
//! has reached is therefore no later than what one of the quorum's clocks really shows: a minority of clocks that are ahead
//! moves no timestamp, and one that is late holds none back while a quorum of others is heard.

use std::collections::BTreeMap;
use synod_cluster::ids::NodeId;
use synod_paxos::types::Micros;

/// Age from which on a reading of a clock no longer counts, µs.
pub const HEARD_US: u64 = 10_000_000;

/// What a wall clock showed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// By this node's monotone clock.
    pub at: Micros,
    /// The wall clock, µs since 1970.
    pub wall_us: u64,
}

impl Reading {
    /// What the clock shows `now`, had it run on since.
    fn shows(self, now: Micros) -> u64 {
        self.wall_us.saturating_add(now.0.saturating_sub(self.at.0))
    }
}

/// The wall clocks of this node and of those it hears.
#[derive(Clone, Debug, Default)]
pub struct WallClocks {
    readings: BTreeMap<NodeId, Reading>,
}

impl WallClocks {
    /// The clock of `node` was read.
    pub fn note(&mut self, node: NodeId, reading: Reading) {
        self.readings.insert(node, reading);
    }

    /// `node` is gone.
    pub fn forget(&mut self, node: NodeId) {
        self.readings.remove(&node);
    }

    /// What the clock of `node` shows `now`, µs; `None` where it was not heard of late.
    #[must_use]
    pub fn shows(&self, node: NodeId, now: Micros) -> Option<u64> {
        let reading = self.readings.get(&node)?;
        (now.0.saturating_sub(reading.at.0) <= HEARD_US).then(|| reading.shows(now))
    }

    /// The nodes whose clocks were heard of late.
    pub fn heard(&self, now: Micros) -> impl Iterator<Item = NodeId> {
        self.readings.keys().copied().filter(move |node| self.shows(*node, now).is_some())
    }

    /// The greatest time that the clocks of at least `quorum` of `nodes` have reached, µs; `None` where fewer are heard.
    #[must_use]
    pub fn reached(&self, nodes: impl IntoIterator<Item = NodeId>, quorum: usize, now: Micros) -> Option<u64> {
        let mut shown: Vec<u64> = nodes.into_iter().filter_map(|node| self.shows(node, now)).collect();
        shown.sort_unstable_by(|a, b| b.cmp(a));
        shown.get(quorum.checked_sub(1)?).copied()
    }

    /// The time that more than half of the clocks heard have reached, µs; `None` where none is heard.
    #[must_use]
    pub fn majority(&self, now: Micros) -> Option<u64> {
        let heard: Vec<NodeId> = self.heard(now).collect();
        let quorum = heard.len() / 2 + 1;
        self.reached(heard, quorum, now)
    }
}

/// The time that a leader gives to a shard's entries.
#[derive(Debug, Default)]
pub(crate) struct ShardTime {
    /// The last time that a quorum's clocks had reached.
    confirmed: Option<Reading>,
    /// The shard's time was found ahead of that: when, and what it was.
    ahead: Option<Reading>,
}

impl ShardTime {
    /// `reached`: the time that a quorum of the voters' clocks have reached, µs; where fewer are heard the last one runs on by
    /// the monotone clock.
    pub(crate) fn observe(&mut self, reached: Option<u64>, now: Micros) {
        if let Some(wall_us) = reached {
            self.confirmed = Some(Reading { at: now, wall_us });
        }
    }

    /// Whether a quorum's clocks have ever been heard.
    pub(crate) fn is_known(&self) -> bool {
        self.confirmed.is_some()
    }

    /// The timestamp that the next entry wishes for, µs. `last_ts`: the shard's time.
    ///
    /// A shard whose time is ahead goes on from there at half pace until the clocks have come as far: so deadlines pass and
    /// sessions end there too, and the distance shrinks.
    pub(crate) fn wish(&mut self, last_ts: u64, now: Micros) -> u64 {
        let confirmed = self.confirmed.map_or(0, |reading| reading.shows(now));
        if confirmed >= last_ts {
            self.ahead = None;
            return confirmed;
        }
        let from = *self.ahead.get_or_insert(Reading { at: now, wall_us: last_ts });
        from.wall_us.saturating_add(now.0.saturating_sub(from.at.0) / 2).max(confirmed)
    }

    /// By how much the shard's time is ahead of what a quorum's clocks have reached, µs.
    pub(crate) fn is_ahead_by(&self, last_ts: u64, now: Micros) -> u64 {
        self.confirmed.map_or(0, |reading| last_ts.saturating_sub(reading.shows(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;
    const WALL: u64 = 1_700_000_000_000_000;
    const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn clocks(now: Micros, offsets: &[i64]) -> WallClocks {
        let mut clocks = WallClocks::default();
        for (node, offset) in (1..).map(NodeId).zip(offsets) {
            clocks.note(node, Reading { at: now, wall_us: WALL.saturating_add_signed(*offset) });
        }
        clocks
    }

    #[test]
    fn a_quorum_confirms_what_it_has_reached_and_no_more() {
        let (now, hour) = (Micros(5), HOUR as i64);
        for (offsets, reached) in [
            ([hour, 0, 0], Some(WALL)),
            ([0, hour, 0], Some(WALL)),
            ([-hour, 0, 0], Some(WALL)),
            ([hour, hour, 0], Some(WALL + HOUR)),
            ([hour, 0, -hour], Some(WALL)),
        ] {
            assert_eq!(clocks(now, &offsets).reached(VOTERS, 2, now), reached, "{offsets:?}");
        }
        // Of two that are heard the later one counts; of one alone there is no quorum.
        assert_eq!(clocks(now, &[hour, 0]).reached(VOTERS, 2, now), Some(WALL));
        assert_eq!(clocks(now, &[hour]).reached(VOTERS, 2, now), None);
        assert_eq!(clocks(now, &[hour]).reached([NodeId(1)], 1, now), Some(WALL + HOUR));
        assert_eq!(WallClocks::default().majority(now), None);
        assert_eq!(clocks(now, &[hour, 0]).majority(now), Some(WALL));
    }

    #[test]
    fn a_clock_runs_on_for_a_while_behind_its_last_reading() {
        let clocks = clocks(Micros(0), &[0, 0, 0]);
        assert_eq!(clocks.shows(NodeId(1), Micros(7)), Some(WALL + 7));
        assert_eq!(clocks.shows(NodeId(1), Micros(HEARD_US)), Some(WALL + HEARD_US));
        assert_eq!(clocks.shows(NodeId(1), Micros(HEARD_US + 1)), None);
        assert_eq!(clocks.reached(VOTERS, 2, Micros(HEARD_US + 1)), None);
    }

    #[test]
    fn without_a_quorum_the_last_confirmed_time_runs_on() {
        let mut time = ShardTime::default();
        time.observe(None, Micros(1));
        assert_eq!((time.wish(40, Micros(1)), time.is_known()), (40, false));
        time.observe(Some(WALL), Micros(2));
        assert_eq!((time.wish(40, Micros(2)), time.is_known()), (WALL, true));
        time.observe(None, Micros(1_002));
        assert_eq!(time.wish(WALL, Micros(1_002)), WALL + 1_000);
        assert_eq!(time.is_ahead_by(WALL + 5_000, Micros(1_002)), 4_000);
    }

    #[test]
    fn a_time_that_is_ahead_goes_on_at_half_pace_until_the_clocks_have_reached_it() {
        let mut time = ShardTime::default();
        let mut last_ts = WALL + HOUR;
        let mut seconds = 0;
        while seconds < 3 * 3600 {
            let now = Micros(seconds * 1_000_000);
            time.observe(Some(WALL + now.0), now);
            let wish = time.wish(last_ts, now);
            assert!(wish >= last_ts, "{seconds}");
            last_ts = wish.max(last_ts + 1);
            let distance = last_ts - (WALL + now.0);
            assert!(distance <= HOUR - now.0.min(2 * HOUR) / 2 + seconds + 1, "{seconds}: {distance}");
            seconds += 60;
        }
        assert_eq!(time.is_ahead_by(last_ts, Micros((seconds - 60) * 1_000_000)), 0);
    }
}
