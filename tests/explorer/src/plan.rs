//! What one schedule will be like: sizes, limits, and how often each fault strikes.
//!
//! Owns: the choice, made once from the seed. Must never: change while the schedule runs, apart from [`Plan::calm`].
//!
//! Each schedule has only some of the faults, at its own rates: a world with every fault at once seldom gets anywhere.

use super::dice::Dice;
use synod_paxos::io::Options;
#[cfg(feature = "planted")]
use synod_paxos::planted::Fault;

/// A defect of the disk that the explorer itself plants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFault {
    /// None: what was synced stays.
    #[default]
    None,
    /// A crash may wipe the disk, and the node goes on voting under its old id.
    WipedVotes,
    /// A crash may lose the last synced writes too.
    LosesSynced,
}

/// A defect of the clocks that the explorer itself plants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockFault {
    /// None: they drift no more than is assumed.
    #[default]
    None,
    /// They drift more.
    BeyondBound,
    /// A step's time is the time of the node's step before: read before the input was awaited.
    ReadEarly,
}

/// The defects planted in a schedule. The default is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// The defect of the consensus core.
    #[cfg(feature = "planted")]
    pub core: Option<Fault>,
    /// The defect of the disks.
    pub disk: DiskFault,
    /// The defect of the clocks.
    pub clock: ClockFault,
}

impl Planted {
    /// Whether it is found by schedules aimed at lags alone: then all are.
    pub fn is_of_lags(&self) -> bool {
        #[cfg(feature = "planted")]
        if self.core.is_some_and(|fault| Fault::OF_LAGS.contains(&fault)) {
            return true;
        }
        false
    }

    /// Whether it is found by schedules aimed at leases alone: then all are.
    pub fn is_of_leases(&self) -> bool {
        #[cfg(feature = "planted")]
        if self.core.is_some_and(|fault| Fault::OF_LEASES.contains(&fault)) {
            return true;
        }
        self.clock != ClockFault::None
    }
}

/// How the second phase begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every process restarts.
    RestartAll,
    /// The dead restart, and every link reconnects.
    Reconnect,
    /// As `Reconnect`, but a minority stays down until the rest has fallen silent.
    MinorityDown,
    /// As `Reconnect`, but a minority stays cut off, running, until all have fallen silent.
    MinorityCut,
    /// As `Reconnect`, but a minority hears nobody until the rest has made progress.
    MinorityDeaf,
    /// As `Reconnect`, but nobody hears a minority until the rest has made progress.
    MinorityMute,
    /// All lose power at once; a minority never returns, and nothing else heals.
    MinorityGone,
}

/// What a client or a fault may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One to three commands at a node that believes it leads.
    Propose,
    /// Many commands at once.
    Burst,
    /// A read.
    Read,
    /// A node crashes and restarts later.
    Crash,
    /// Every node crashes at once.
    PowerLoss,
    /// One direction of one link is cut.
    Cut,
    /// The nodes fall into two halves.
    Partition,
    /// Everything heals.
    HealAll,
    /// Leadership is handed over.
    Transfer,
    /// A leader is cut off, and all others notice at once.
    Isolate,
    /// Leadership is handed over by a leader that only the next one still supports.
    Handover,
    /// A leader is paused, and all others notice at once.
    Freeze,
    /// A node crashes and restarts at once.
    Bounce,
    /// A leader gives up.
    Release,
    /// A node stands for election.
    Campaign,
    /// The members change.
    Reconfigure,
    /// A failure detector errs for a while.
    Misjudge,
    /// A disk hangs.
    Hang,
    /// A process pauses.
    Pause,
    /// The state machine's effects become durable.
    Flush,
    /// The log is trimmed as far as allowed.
    Trim,
    /// A removed replica goes for good.
    Retire,
    /// A message is delivered a second time, much later.
    Echo,
    /// A node that leads nothing crashes and stays down for long.
    Lag,
}

/// One schedule's shape.
pub struct Plan {
    /// Voters of the first epoch.
    pub voters: u64,
    /// Nodes beyond them, for reconfiguration.
    pub spares: u64,
    /// Length of the first phase.
    pub steps: u64,
    /// The core's limits.
    pub options: Options,
    /// Greatest drift of a clock, ppm.
    pub drift_ppm: u64,
    /// Messages lost, ‰.
    pub loss: u64,
    /// Messages duplicated, ‰.
    pub duplicate: u64,
    /// Messages that may overtake, ‰.
    pub reorder: u64,
    /// Messages delayed twentyfold, ‰.
    pub slow: u64,
    /// Messages held over a cut rather than lost, ‰.
    pub held: u64,
    /// Delay of a message, µs.
    pub delay: (u64, u64),
    /// Time of a sync, µs.
    pub sync: (u64, u64),
    /// Syncs that cover only some of the waiting writes, ‰.
    pub partial_sync: u64,
    /// Time between the application of entries, µs.
    pub apply: (u64, u64),
    /// Lag of the failure detectors, µs.
    pub detect: (u64, u64),
    /// Time between actions, µs.
    pub act: (u64, u64),
    /// Length of an outage, µs.
    pub outage: (u64, u64),
    /// Longest command, bytes.
    pub command_bytes: u64,
    /// Bytes of messages that may wait on one direction of a link; what finds more is dropped, and its sender is told.
    pub outbox_bytes: u64,
    /// Time that a byte takes on a link, ns.
    pub byte_nanos: u64,
    /// Processes that speak cluster version 1 only, ‰ of their lives.
    pub speak_old: u64,
    /// Whether one of those that return may lack the state that a leader serves from.
    pub abstains: bool,
    /// Actions with their weights.
    pub weights: Vec<(Action, u64)>,
    /// How it ends.
    pub ending: Ending,
    /// What is planted.
    pub planted: Planted,
}

impl Plan {
    /// Chooses a plan.
    pub fn choose(dice: &mut Dice, planted: Planted) -> Self {
        let sought = planted.is_of_leases();
        let pace = if dice.chance(150) { 12 } else { 1 };
        let reconfigures = dice.chance(500);
        let mut options = Options {
            jitter_us: 25_000 * pace,
            campaign_us: 40_000 * pace,
            resend_us: 16_000 * pace,
            notice_us: [0, 500, 5_000][dice.below(3) as usize] * pace,
            transfer_us: 80_000 * pace,
            lease: dice.chance(750) || sought,
            support_us: dice.between(10_000, 60_000) * pace,
            drift_ppm: [0, 10_000, 100_000][dice.below(3) as usize],
            hint_bytes: if dice.chance(700) { dice.between(100, 4_000) as usize } else { 4 << 20 },
            stall_us: 400_000 * pace,
            read_us: 200_000 * pace,
            version: 2,
            ..Options::default()
        };
        // Terms that outlast an election: what is wrong with a lease shows while the old leader is still asked.
        let leased = options.lease && dice.chance(600) || sought;
        if leased {
            options.support_us = dice.between(60_000, 250_000) * pace;
        }
        let beyond = if planted.clock == ClockFault::BeyondBound { 300_000 } else { 0 };
        let aimed = leased && dice.chance(500) || sought;
        if aimed {
            options.drift_ppm = if dice.chance(650) { 100_000 } else { 0 };
        }
        if dice.chance(600) {
            options.message_bytes = dice.between(100, 400) as usize;
            options.inflight_messages = dice.between(1, 4) as usize;
            options.inflight_bytes = dice.between(200, 1500) as usize;
            options.uncommitted_bytes = dice.between(300, 3000) as usize;
            options.cache_bytes = dice.below(600) as usize;
            options.fetch_slots = dice.between(2, 30);
            options.fetch_bytes = dice.between(200, 3_000) as usize;
        }
        #[cfg(feature = "planted")]
        {
            options.fault = planted.core;
        }
        let sync_high = [300, 2_000, 9_000][dice.below(3) as usize] * pace;
        let plan = Self {
            voters: if dice.chance(250) { 5 } else { 3 },
            spares: if reconfigures { dice.between(2, 4) } else { 1 },
            steps: dice.between(500, 1500),
            drift_ppm: options.drift_ppm + beyond,
            weights: Self::choose_weights(dice, reconfigures, leased),
            options,
            loss: if dice.chance(500) { dice.between(5, 300) } else { 0 },
            duplicate: if dice.chance(500) { dice.between(5, 200) } else { 0 },
            reorder: if dice.chance(300) { dice.between(10, 500) } else { 0 },
            slow: if dice.chance(500) { dice.between(5, 100) } else { 0 },
            held: dice.below(600),
            delay: (50 * pace, dice.between(200, 4_000) * pace),
            sync: (50 * pace, sync_high),
            partial_sync: dice.below(700),
            apply: (20, dice.between(50, 8_000) * pace),
            detect: (100 * pace, dice.between(1_000, 30_000) * pace),
            act: (100 * pace, dice.between(1_500, 8_000) * pace),
            outage: (1_000 * pace, dice.between(20_000, 150_000) * pace),
            command_bytes: dice.between(8, 120),
            outbox_bytes: if dice.chance(300) { dice.between(1_000, 8_000) } else { u64::MAX },
            byte_nanos: if dice.chance(300) { dice.between(100, 3_000) } else { 0 },
            speak_old: [0, 0, 300, 1_000][dice.below(4) as usize],
            abstains: false,
            ending: match dice.below(10) {
                0..=1 => Ending::RestartAll,
                2..=3 => Ending::Reconnect,
                4..=5 => Ending::MinorityDown,
                6 => Ending::MinorityCut,
                7 => Ending::MinorityDeaf,
                8 => Ending::MinorityGone,
                _ => Ending::MinorityMute,
            },
            planted,
        };
        let lags = planted.is_of_lags() || !aimed && dice.chance(200);
        match (aimed, lags) {
            (true, false) => plan.aimed_at_leases(dice, pace),
            (_, true) => plan.aimed_at_lags(dice, pace),
            (false, false) if dice.chance(150) => plan.far_apart(dice, pace),
            (false, false) => plan,
        }
    }

    /// The limits of one life of one process: not every node of a cluster has the same, and no support may ever become less.
    pub fn options_of_a_life(&self, dice: &mut Dice) -> Options {
        let mut options = self.options.clone();
        if dice.chance(self.speak_old) {
            options.version = 1;
        }
        if self.options.lease && dice.chance(100) && !self.planted.is_of_leases() {
            options.lease = false;
        }
        if dice.chance(200) {
            options.hint_bytes = dice.between(100, 4_000) as usize;
            options.cache_bytes = dice.below(600) as usize;
        }
        options
    }

    /// Little goes wrong but what leases must stand: so that much of it happens while one holds.
    fn aimed_at_leases(mut self, dice: &mut Dice, pace: u64) -> Self {
        let term = self.options.support_us;
        self.steps = dice.between(1_200, 2_400);
        self.loss /= 10;
        (self.duplicate, self.reorder, self.slow) = (self.duplicate / 10, self.reorder / 10, self.slow / 10);
        self.held = 900;
        self.delay = (50 * pace, dice.between(200, 1_500) * pace);
        self.sync = (50 * pace, 400 * pace);
        self.partial_sync = 0;
        self.apply = (20, 200 * pace);
        self.act = (200 * pace, dice.between(1_500, 4_000) * pace);
        self.outage = (term / 2, 2 * term);
        let mut some = |low, high| dice.between(low, high);
        self.weights = vec![
            (Action::Propose, some(20, 60)),
            (Action::Read, some(150, 250)),
            (Action::Isolate, some(3, 7)),
            (Action::Handover, some(1, 4)),
            (Action::Freeze, some(2, 6)),
            (Action::Release, some(0, 3)),
            (Action::Transfer, some(0, 3)),
            (Action::Bounce, some(0, 2)),
            (Action::HealAll, some(1, 4)),
            (Action::Reconfigure, if self.spares > 1 { some(0, 2) } else { 0 }),
            (Action::Flush, 5),
            (Action::Trim, 5),
        ];
        self
    }

    fn choose_weights(dice: &mut Dice, reconfigures: bool, leased: bool) -> Vec<(Action, u64)> {
        // A lease lives on reads.
        let (reads, strikes) = if leased { (8, 1000) } else { (1, 100) };
        let mut some = |per_mille, low, high| if dice.chance(per_mille) { dice.between(low, high) } else { 0 };
        vec![
            (Action::Propose, some(1000, 60, 120)),
            (Action::Burst, some(400, 4, 20)),
            (Action::Read, some(800, 10 * reads, 40 * reads)),
            (Action::Crash, some(750, 3, 16)),
            (Action::PowerLoss, some(250, 1, 4)),
            (Action::Cut, some(500, 3, 14)),
            (Action::Partition, some(500, 2, 8)),
            (Action::HealAll, some(500, 1, 4)),
            (Action::Transfer, some(400, 2, 10)),
            (Action::Isolate, some(strikes, 2, 10)),
            (Action::Freeze, some(strikes / 4, 1, 4)),
            (Action::Bounce, some(strikes / 2, 1, 6)),
            (Action::Release, some(250, 1, 5)),
            (Action::Campaign, some(500, 2, 12)),
            (Action::Reconfigure, if reconfigures { some(1000, 4, 20) } else { 0 }),
            (Action::Misjudge, some(500, 2, 12)),
            (Action::Hang, some(300, 1, 6)),
            (Action::Pause, some(300, 1, 6)),
            (Action::Flush, some(800, 5, 20)),
            (Action::Trim, some(600, 4, 16)),
            (Action::Retire, some(500, 1, 4)),
            (Action::Echo, some(400, 2, 12)),
        ]
    }

    /// Takes the faults away for the second phase.
    pub fn calm(&mut self) {
        (self.loss, self.duplicate, self.reorder, self.slow, self.partial_sync) = (0, 0, 0, 0, 0);
    }
}
