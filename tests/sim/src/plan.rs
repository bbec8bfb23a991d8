//! What one run will be like: sizes, limits, and how often each fault strikes.
//!
//! Owns: the choice, made once from the seed. Must never: change while the run goes on, apart from [`Plan::calm`].
//!
//! Each run has only some of the faults, at its own rates: a world with every fault at once seldom gets anywhere.

use crate::dice::Dice;
use synod_engine::worker::WorkerOptions;
use synod_paxos::io::Options;

/// What a monotone clock may gain or lose, millionths: leases assume no more, and many clocks do so much.
pub(crate) const DRIFT_PPM: u64 = 10_000;

/// What a wall clock may gain or lose at most, millionths: no more than its error within a run's length.
pub(crate) const WALL_PPM: u64 = 50_000;

/// A defect that the simulation itself plants under the production code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFault {
    /// None.
    #[default]
    None,
    /// A write is reported synced long before it is.
    AckBeforeSync,
    /// A crash may lose the last synced writes too.
    LosesSynced,
    /// A torn record at the log's tail is taken for what is left of it.
    TornTailKept,
    /// A disk that was wiped or set back is started under its old name, and peers' answers about it are lost.
    WipedVotes,
    /// A damaged record is passed over at recovery and with it all that follow: the end of the log, as it seems.
    DamageEndsLog,
    /// A crash keeps the first part of a freeze of the state: effects apart from their position and sessions.
    FreezeTorn,
    /// Rows of a snapshot are reported durable long before they are.
    LoadAckedEarly,
}

/// The defects planted in a run. The default is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// The defect of the consensus core.
    #[cfg(feature = "planted")]
    pub core: Option<synod_paxos::planted::Fault>,
    /// The defect of the engine.
    #[cfg(feature = "planted")]
    pub engine: Option<synod_engine::planted::Fault>,
    /// The defect of what nodes decide alike.
    #[cfg(feature = "planted")]
    pub cluster: Option<synod_cluster::planted::Fault>,
    /// The defect of the disks.
    pub disk: DiskFault,
    /// The clients give each attempt of a write a name of its own.
    pub forgetful_clients: bool,
    /// A round's time is read before its inputs are awaited: a lease outlives a pause.
    pub early_clock: bool,
    /// The clients make a write that came too late anew though an earlier attempt may have been executed.
    pub renewing_clients: bool,
}

/// Whose wall clocks may be hours off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongClocks {
    /// Nobody's.
    Nobodys,
    /// Those of one node, which no quorum confirms.
    Ones,
    /// All, at once and for a while: timestamps follow them.
    Alls,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A process is killed; its machine lives and refuses connections.
    Kill,
    /// A machine loses power: silence.
    PowerLoss,
    /// All lose power at once.
    PowerLossAll,
    /// A process hands over its leaderships and ends in order.
    Shutdown,
    /// A process stands still, its network too.
    Pause,
    /// One direction of one pair is cut.
    Cut,
    /// One node is cut off.
    Isolate,
    /// Two nodes do not hear each other, the others hear both.
    Bridge,
    /// Connections of one pair break.
    Reset,
    /// Everything heals.
    Heal,
    /// A sync takes seconds, the network lives.
    Hang,
    /// A write of the log fails.
    FailWrite,
    /// A reading of the log fails.
    FailRead,
    /// A flush of the state fails.
    FailFlush,
    /// A bit flips in the log.
    FlipLog,
    /// A bit flips in the state of a process that is down.
    FlipState,
    /// A disk is set back to an older copy, or wiped.
    SetBack,
    /// A wall clock jumps.
    ClockJump,
    /// A leadership is moved.
    Transfer,
    /// A frame is damaged on its way.
    Garble,
    /// A part of a snapshot is damaged on its way.
    GarblePart,
    /// A bit flips in a snapshot's file.
    FlipFile,
    /// An operation on a snapshot's file fails.
    FailFile,
    /// The loading of a snapshot's rows into the state fails.
    FailLoad,
}

/// Where nodes write their logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogWrites {
    /// In the worker's round.
    Inline,
    /// Beside it, as the log writer's thread does.
    Beside,
}

/// One run's shape.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Founders: each table has as many replicas.
    pub(crate) nodes: u64,
    /// Nodes that join later and hold nothing at first.
    pub(crate) standby: u64,
    /// Time between looks at replicas that move; none moves where it is 0. Time given to a move before it is taken back, µs.
    pub(crate) moves: (u64, u64),
    pub(crate) move_patience: (u64, u64),
    /// Length of the first phase, µs.
    pub(crate) length: u64,
    pub(crate) options: WorkerOptions,
    /// A process asks to freeze its state after so many bytes.
    pub(crate) freeze_bytes: usize,
    /// Frames lost, ‰.
    pub(crate) loss: u64,
    /// Frames delivered a second time, ‰.
    pub(crate) duplicate: u64,
    /// Frames delayed twentyfold (and all behind them on the connection), ‰.
    pub(crate) slow: u64,
    /// Delay of a frame, µs.
    pub(crate) delay: (u64, u64),
    /// What a link carries a second, and what waits for it at most, bytes; `None`: all at once.
    pub(crate) bandwidth: Option<u64>,
    pub(crate) queue_bytes: u64,
    /// Requests and answers of clients lost, ‰.
    pub(crate) client_loss: u64,
    pub(crate) log_writes: LogWrites,
    /// Workers of a process, at most.
    pub(crate) workers: u16,
    /// Time of a sync, of a flush of the state, µs.
    pub(crate) sync: (u64, u64),
    pub(crate) flush: (u64, u64),
    /// Greatest drift of a monotone clock, ppm; greatest error of a wall clock, µs.
    pub(crate) drift_ppm: u64,
    pub(crate) wall_error: u64,
    /// What a wall clock may gain or lose, ppm.
    pub(crate) wall_ppm: u64,
    pub(crate) wrong_clocks: WrongClocks,
    /// Time between faults, length of an outage, µs.
    pub(crate) act: (u64, u64),
    pub(crate) outage: (u64, u64),
    /// Clients, writes each may have under way, their pause between operations, µs.
    pub(crate) clients: u64,
    pub(crate) lanes: u64,
    pub(crate) think: (u64, u64),
    /// Operations on the first shard of a table, ‰; the others are spread over all.
    pub(crate) hot: u64,
    /// Time between the making and dropping of tables, µs; none where it is 0.
    pub(crate) admin: (u64, u64),
    /// Time a client gives an operation, µs.
    pub(crate) patience: (u64, u64),
    pub(crate) value_bytes: u64,
    /// Each process is started with limits, times and leases of its own.
    pub(crate) mixed: bool,
    /// One node does not come back when faults stop.
    pub(crate) gone: bool,
    /// Time of an operation on a snapshot's file, between its parts on their way, µs.
    pub(crate) file_time: (u64, u64),
    pub(crate) part_pause: (u64, u64),
    /// Processes killed while they make, receive, load or install one, ‰ of steps.
    pub(crate) snapshot_kill: u64,
    /// A maker hears that its file cannot be read.
    pub(crate) tells_spoilt: bool,
    /// A snapshot's rows are gathered into chunks of so many bytes.
    pub(crate) gather_bytes: usize,
    pub(crate) weights: Vec<(Action, u64)>,
    pub(crate) planted: Planted,
}

impl Plan {
    pub(crate) fn choose(dice: &mut Dice, planted: Planted) -> Self {
        let sync_high = [400, 3_000, 20_000][dice.below(3) as usize];
        let mut paxos = Options::default();
        if dice.chance(400) {
            paxos.message_bytes = dice.between((300, 4_000)) as usize;
            paxos.inflight_messages = dice.between((1, 8)) as usize;
            paxos.cache_bytes = dice.below(4_000) as usize;
            paxos.uncommitted_bytes = dice.between((4_000, 60_000)) as usize;
        }
        // Most with leases. Clocks drift up to the bound that these assume here.
        paxos.lease = dice.chance(800);
        paxos.drift_ppm = DRIFT_PPM;
        #[cfg(feature = "planted")]
        {
            paxos.fault = planted.core;
        }
        // Logs so short, and nodes away so long, that members need snapshots.
        let short = dice.chance(500);
        let freeze_bytes = if short { (1_000, 8_000) } else { (4_000, 120_000) };
        let options = WorkerOptions {
            freeze_log_bytes: dice.between(freeze_bytes) as usize,
            waiting_max: if dice.chance(100) { 3 } else { 1_000 },
            trim_slots: dice.between(if short { (2, 8) } else { (8, 60) }),
            trim_slots_flushed: dice.between(if short { (1, 4) } else { (2, 20) }),
            log_keep_bytes: if short { dice.between((200, 2_500)) } else { 512 << 20 },
            snapshot_unused_us: dice.between((500_000, 10_000_000)),
            // The runs throw which shards go: a quiet cluster must stay silent.
            balance_us: 0,
            paxos,
            ..WorkerOptions::default()
        };
        let moving = dice.chance(400);
        let delay_high = [600, 4_000, 30_000][dice.below(3) as usize];
        // Most commands are small; some fill messages, and links.
        let large = dice.chance(150);
        let value_bytes = dice.between(if large { (4_000, 20_000) } else { (8, 300) });
        // A link carries some dozens of the greatest commands a second, or many more.
        let bandwidth = dice.chance(300).then(|| dice.between((100_000, 2_000_000)).max(value_bytes * 100));
        Self {
            nodes: if dice.chance(200) { 5 } else { 3 },
            standby: u64::from(moving),
            moves: if moving { (100_000, dice.between((200_000, 700_000))) } else { (0, 0) },
            move_patience: (1_500_000, dice.between((2_000_000, 12_000_000))),
            length: dice.between((6_000_000, 24_000_000)),
            options,
            freeze_bytes: dice.between(freeze_bytes) as usize,
            loss: if dice.chance(500) { dice.between((2, 300)) } else { 0 },
            duplicate: if dice.chance(300) { dice.between((2, 60)) } else { 0 },
            slow: if dice.chance(300) { dice.between((2, 40)) } else { 0 },
            delay: (80, delay_high),
            client_loss: if dice.chance(500) { dice.between((2, 100)) } else { 0 },
            sync: (100, sync_high),
            flush: (500, [3_000, 60_000, 900_000][dice.below(3) as usize]),
            drift_ppm: [0, 200, DRIFT_PPM][dice.below(3) as usize],
            wall_error: [0, 50_000, 2_000_000][dice.below(3) as usize],
            wall_ppm: [0, 500, WALL_PPM][dice.below(3) as usize],
            wrong_clocks: [WrongClocks::Nobodys, WrongClocks::Ones, WrongClocks::Alls][dice.below(3) as usize],
            act: (20_000, dice.between((150_000, 1_200_000))),
            outage: (50_000, dice.between(if short { (1_000_000, 5_000_000) } else { (400_000, 3_000_000) })),
            clients: 8,
            lanes: dice.between((1, 2)),
            think: (1_000, dice.between(if short { (5_000, 30_000) } else { (20_000, 200_000) })),
            hot: if short { 800 } else { 0 },
            admin: if dice.chance(400) { (200_000, dice.between((500_000, 4_000_000))) } else { (0, 0) },
            patience: (1_500_000, dice.between((3_000_000, 12_000_000))),
            value_bytes,
            bandwidth,
            queue_bytes: dice.between((8_000, 120_000)),
            mixed: dice.chance(400),
            gone: dice.chance(300),
            file_time: (20, [400, 8_000, 120_000][dice.below(3) as usize]),
            part_pause: (100, [1_000, 20_000, 150_000][dice.below(3) as usize]),
            snapshot_kill: if dice.chance(500) { dice.between((5, 80)) } else { 0 },
            tells_spoilt: true,
            gather_bytes: dice.between((500, 6_000)) as usize,
            weights: Self::choose_weights(dice, planted),
            log_writes: if dice.chance(500) { LogWrites::Beside } else { LogWrites::Inline },
            workers: [1, 2, 3][dice.below(3) as usize],
            planted,
        }
    }

    fn choose_weights(dice: &mut Dice, planted: Planted) -> Vec<(Action, u64)> {
        let mut some = |per_mille, low, high| if dice.chance(per_mille) { dice.between((low, high)) } else { 0 };
        let wipes = if planted.disk == DiskFault::WipedVotes { 1000 } else { 120 };
        let flips = if planted.disk == DiskFault::DamageEndsLog { 1000 } else { 200 };
        let pauses = if planted.early_clock { 1000 } else { 400 };
        vec![
            (Action::Kill, some(700, 4, 20)),
            (Action::PowerLoss, some(600, 4, 20)),
            (Action::PowerLossAll, some(350, 1, 8)),
            (Action::Shutdown, some(300, 1, 6)),
            (Action::Pause, some(pauses, 1, 8)),
            (Action::Cut, some(500, 2, 12)),
            (Action::Isolate, some(500, 2, 12)),
            (Action::Bridge, some(400, 1, 8)),
            (Action::Reset, some(500, 2, 12)),
            (Action::Heal, some(700, 2, 10)),
            (Action::Hang, some(400, 1, 8)),
            (Action::FailWrite, some(350, 1, 6)),
            (Action::FailRead, some(200, 1, 4)),
            (Action::FailFlush, some(200, 1, 4)),
            (Action::FlipLog, some(flips, 1, 4)),
            (Action::FlipState, 3 * some(200, 1, 4)),
            (Action::SetBack, some(wipes, 1, 5)),
            (Action::ClockJump, some(300, 1, 4)),
            (Action::Transfer, some(400, 2, 10)),
            (Action::Garble, some(200, 1, 4)),
            (Action::GarblePart, some(300, 1, 6)),
            (Action::FlipFile, some(400, 1, 12)),
            (Action::FailFile, some(300, 1, 6)),
            (Action::FailLoad, some(200, 1, 4)),
        ]
    }

    /// What a process is started with: in a mixed run each has its own, as in a change of the configuration node by node.
    pub(crate) fn options_of_a_process(&self, dice: &mut Dice) -> WorkerOptions {
        let mut options = self.options.clone();
        if !self.mixed {
            return options;
        }
        let paxos = &mut options.paxos;
        paxos.lease = dice.chance(500);
        paxos.message_bytes = dice.between((300, 1 << 20)) as usize;
        paxos.inflight_messages = dice.between((1, 64)) as usize;
        paxos.cache_bytes = dice.below(64_000) as usize;
        paxos.uncommitted_bytes = dice.between((60_000, 32 << 20)) as usize;
        for micros in [&mut paxos.jitter_us, &mut paxos.campaign_us, &mut paxos.resend_us] {
            *micros = *micros * dice.between((50, 200)) / 100;
        }
        // Without a throw of its own. What any process of the node gave may be owed to somebody.
        let share = 50 + paxos.message_bytes as u64 % 100;
        paxos.support_owed_us = 2 * paxos.support_us;
        paxos.support_us = paxos.support_us * share / 100;
        options
    }

    /// With how many workers a process is started: as many or fewer than the one before it.
    pub(crate) fn workers_of_a_process(&self, dice: &mut Dice) -> u16 {
        if self.workers > 1 { dice.between((1, self.workers.into())) as u16 } else { 1 }
    }

    /// How often this fault strikes beside the others.
    pub(crate) fn weight(&self, action: Action) -> u64 {
        self.weights.iter().filter(|(of, _)| *of == action).map(|(_, weight)| weight).sum()
    }

    /// Takes the faults away for the second phase.
    pub(crate) fn calm(&mut self) {
        (self.loss, self.duplicate, self.slow, self.client_loss) = (0, 0, 0, 0);
        self.delay.1 = self.delay.1.min(4_000);
        self.sync.1 = self.sync.1.min(3_000);
        self.flush.1 = self.flush.1.min(60_000);
        self.part_pause.1 = self.part_pause.1.min(20_000);
    }
}
