//! Lags beyond every limit of the core, on links that hold little, and what is left to help itself.
//!
//! Owns: the schedules aimed at that, and the power loss that ends them. Must never: heal anything behind it.

use super::dice::Dice;
use super::events::Event;
use super::plan::{Action, Ending, Plan};
use super::violation::Check;
use super::world::World;
use std::collections::BTreeSet;
use synod_paxos::types::NodeId;

impl Plan {
    /// Little goes wrong but what leaves a node far behind: limits are small, links hold little and are slow, and the schedule ends
    /// in a power loss from which a minority never returns.
    pub(super) fn aimed_at_lags(mut self, dice: &mut Dice, pace: u64) -> Self {
        self.steps = dice.between(1_500, 3_000);
        self.spares = 1;
        (self.loss, self.duplicate, self.reorder, self.slow) = (0, 0, 0, 0);
        self.delay = (50 * pace, dice.between(200, 1_500) * pace);
        self.sync = (50 * pace, 400 * pace);
        self.act = (200 * pace, dice.between(800, 2_000) * pace);
        self.outage = (3_000 * pace, 60_000 * pace);
        self.outbox_bytes = dice.between(800, 3_000);
        self.byte_nanos = if dice.chance(500) { dice.between(100, 1_500) } else { 0 };
        self.speak_old = if dice.chance(250) { 1_000 } else { 0 };
        self.abstains = dice.chance(400);
        self.ending = Ending::MinorityGone;
        let options = &mut self.options;
        options.message_bytes = dice.between(100, 400) as usize;
        options.inflight_messages = dice.between(2, 8) as usize;
        options.inflight_bytes = dice.between(300, 2_000) as usize;
        options.uncommitted_bytes = dice.between(3_000, 20_000) as usize;
        options.cache_bytes = dice.below(600) as usize;
        options.hint_bytes = if dice.chance(500) { dice.between(300, 2_000) as usize } else { 4 << 20 };
        options.fetch_slots = dice.between(3, 20);
        options.fetch_bytes = dice.between(200, 2_000) as usize;
        let mut some = |low, high| dice.between(low, high);
        self.weights = vec![
            (Action::Propose, some(20, 60)),
            (Action::Burst, some(60, 160)),
            (Action::Lag, some(4, 12)),
            (Action::Crash, some(0, 3)),
            (Action::Read, some(0, 20)),
            (Action::Transfer, some(3, 10)),
            (Action::Campaign, some(0, 2)),
            (Action::HealAll, some(0, 2)),
            (Action::Flush, some(0, 10)),
            (Action::Trim, some(0, 6)),
        ];
        self
    }

    /// An answer takes longer than the pauses after which the core asks again.
    pub(super) fn far_apart(mut self, dice: &mut Dice, pace: u64) -> Self {
        self.delay = (8_000 * pace, dice.between(9_000, 12_000) * pace);
        self.sync = (50 * pace, 400 * pace);
        self.slow = 0;
        self
    }
}

impl World {
    /// A node that leads nothing goes down for long.
    pub(super) fn lag(&mut self) -> Check {
        let leaders = self.leaders();
        let others: Vec<_> = self.running().into_iter().filter(|id| !leaders.contains(id)).collect();
        let Some(id) = self.dice.pick(&others).copied() else { return Ok(()) };
        self.coverage.count("event", "node lags", "");
        self.crash(id)?;
        let abstains = self.plan.abstains && self.dice.chance(500);
        self.node_mut(id)?.abstains = abstains;
        let (low, high) = self.plan.outage;
        let outage = self.dice.between(low, high);
        self.agenda.add(self.now + 3 * outage, Event::Start(id));
        Ok(())
    }

    /// All lose power at once. The absent never return; one of the others may lack its state from now on, where what the others
    /// lack of the log is in logs.
    pub(super) fn lose_power(&mut self, absent: &BTreeSet<NodeId>) -> Check {
        self.running().into_iter().try_for_each(|id| self.crash(id))?;
        self.nodes.values_mut().for_each(|node| node.abstains = false);
        for id in absent {
            self.node_mut(*id)?.retired = true;
        }
        let latest = self.observer.latest_membership();
        let present: Vec<_> = latest.voters().filter(|id| !absent.contains(id)).collect();
        let logs: Vec<_> = present.iter().filter_map(|id| self.disks.get(id)).map(|disk| &disk.log).collect();
        let begins = logs.iter().map(|log| log.base.slot).max();
        let ends = logs.iter().map(|log| log.last().slot).min();
        let may = self.plan.abstains && present.len() > 1 && begins <= ends;
        // Who has most can lead least: the others depend on it.
        let most = present.iter().max_by_key(|id| self.disks.get(id).map(|disk| disk.log.last().slot)).copied();
        if let (true, Some(id)) = (may, most) {
            self.coverage.count("event", "replica abstains", "");
            self.trace.line(|| format!("  {id:?} abstains from now on"));
            self.node_mut(id)?.abstains = true;
        }
        Ok(())
    }
}
