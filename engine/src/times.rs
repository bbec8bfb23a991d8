//! How long a node waits for others, as a function of the round trip between nodes.
//!
//! Owns: the one formula by which every such time grows with the round trip. Must never: measure anything, or be what safety
//! rests on: nodes whose times differ stay safe.
//!
//! Each time is what it is in one place (no round trip worth counting), and a number of round trips:
//!
//! | time | in one place | + round trips | why so many |
//! | --- | --- | --- | --- |
//! | `resend` | 200 ms | 2 | an answer takes one; a follower's read takes two where the leader has no lease |
//! | `jitter` | 300 ms | 2 | two candidates are apart once the pre-vote and the prepare of the first have come through |
//! | `support` | 300 ms | 4 | see below |
//! | `dead_after` | 600 ms | 4 | a packet lost twice is sent again by then; and the support ends before it, so waits for nothing more |
//! | `campaign` | 500 ms | 5 | a `Prepare` that waits for the support of another is answered within it |
//! | `transfer` | 1 s | 4 | catching up, the offer, an election |
//! | `identity_grace` | 500 ms | 2 | the answers of the other peers are on their way |
//! | `drain` | 3 s | 8 | two transfers one after the other |
//!
//! *Support.* A leader counts 80 % of a term from when its question leaves (`drift_ppm`), and asks anew with the first read after
//! half of it. The answer is there a round trip R later. So the lease of a group that is read goes on without a gap where
//! T / 2 + R is less than 0.8 T. With T = 300 ms + 4 R that is R < 90 ms + 1.2 R: always. At 300 ms alone it ends at 90 ms.

use crate::worker::WorkerOptions;

/// How long a node waits for others, µs each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Time without a word after which a peer counts as dead.
    pub dead_after: u64,
    /// A random share of this is waited before an election.
    pub jitter: u64,
    /// Time that a campaign, or a follower in doubt of its leader, waits.
    pub campaign: u64,
    /// An answer that takes longer is asked for again.
    pub resend: u64,
    /// A transfer of leadership is taken back then.
    pub transfer: u64,
    /// The term of the support that leases rest on.
    pub support: u64,
    /// Time that a starting node waits for the peers that have not answered yet.
    pub identity_grace: u64,
    /// Time that a node that goes down waits for its leaderships to be taken over.
    pub drain: u64,
}

impl Times {
    /// In one place: a round trip is not worth counting.
    pub const NEAR: Self = Self {
        dead_after: 600_000,
        jitter: 300_000,
        campaign: 500_000,
        resend: 200_000,
        transfer: 1_000_000,
        support: 300_000,
        identity_grace: 500_000,
        drain: 3_000_000,
    };

    /// The longest round trip that nodes work with, µs: what is not among these times is made for it.
    pub const ROUND_TRIP_MAX: u64 = 500_000;

    /// These, where a round trip between nodes takes `round_trip` µs.
    #[must_use]
    pub const fn far(self, round_trip: u64) -> Self {
        Self {
            dead_after: self.dead_after + 4 * round_trip,
            jitter: self.jitter + 2 * round_trip,
            campaign: self.campaign + 5 * round_trip,
            resend: self.resend + 2 * round_trip,
            transfer: self.transfer + 4 * round_trip,
            support: self.support + 4 * round_trip,
            identity_grace: self.identity_grace + 2 * round_trip,
            drain: self.drain + 8 * round_trip,
        }
    }

    /// Gives the worker, and through it every core, its share.
    pub fn set(self, options: &mut WorkerOptions) {
        options.identity_grace_us = self.identity_grace;
        options.drain_us = self.drain;
        let paxos = &mut options.paxos;
        paxos.jitter_us = self.jitter;
        paxos.campaign_us = self.campaign;
        paxos.resend_us = self.resend;
        paxos.transfer_us = self.transfer;
        paxos.support_us = self.support;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_round_trip_everything_is_as_it_was() {
        let mut options = WorkerOptions::default();
        Times::NEAR.far(0).set(&mut options);
        let before = WorkerOptions::default();
        assert_eq!(options.paxos, before.paxos);
        assert_eq!((options.identity_grace_us, options.drain_us), (before.identity_grace_us, before.drain_us));
        assert_eq!(Times::NEAR.far(0), Times::NEAR);
    }

    #[test]
    fn at_300_ms_they_are_what_the_table_says() {
        let far = Times {
            dead_after: 1_800_000,
            jitter: 900_000,
            campaign: 2_000_000,
            resend: 800_000,
            transfer: 2_200_000,
            support: 1_500_000,
            identity_grace: 1_100_000,
            drain: 5_400_000,
        };
        assert_eq!(Times::NEAR.far(300_000), far);
    }

    #[test]
    fn a_lease_goes_on_and_a_campaign_outlasts_it_at_every_round_trip() {
        for round_trip in (0..=2_000_000).step_by(10_000) {
            let times = Times::NEAR.far(round_trip);
            // 80 % is what a leader counts where clocks may be off by 10 %.
            assert!(times.support / 2 + round_trip < times.support / 10 * 8, "the lease has a gap at {round_trip} µs");
            assert!(times.campaign >= times.support + round_trip, "a held promise comes late at {round_trip} µs");
            assert!(times.dead_after > times.support, "the detector waits for support at {round_trip} µs");
            assert!(times.resend > round_trip, "no answer by then: {round_trip} µs");
        }
    }
}
