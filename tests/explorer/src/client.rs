//! The clients: writes and reads.
//!
//! Owns: unique commands and open reads. Must never: propose the same command twice.

use super::events::Event;
use super::violation::{Check, Violation, ensure};
use super::world::World;
use bytes::Bytes;
use synod_paxos::io::Input;
use synod_paxos::types::{Ballot, EntryId, NodeId, ReadId, Slot};

impl World {
    fn command(&mut self) -> Bytes {
        self.commands += 1;
        let name = format!("c{}", self.commands);
        let pad = self.dice.below(self.plan.command_bytes) as usize;
        Bytes::from(name + &".".repeat(pad))
    }

    /// Proposes `count` new commands at `id`; the slots they got, where they were taken.
    pub fn propose(&mut self, id: NodeId, count: u64) -> Result<Option<(Slot, Ballot)>, Violation> {
        let first = self.commands + 1;
        let now = self.now;
        let commands: Vec<_> = (0..count)
            .map(|_| {
                let command = self.command();
                // Clocks differ between nodes and go back now and then.
                (1_000_000 + (now + self.dice.below(50_000)), command)
            })
            .collect();
        self.in_flight = commands.iter().map(|(_, command)| command.clone()).collect();
        let carried = self.step_replica(id, Input::Propose { commands })?;
        self.in_flight.clear();
        let refusals = carried.refused.iter().filter(|(_, read)| read.is_none()).count();
        ensure!(
            carried.proposed.is_some() != (refusals == 1) && refusals <= 1,
            "a proposal is taken or refused, once",
            "{id:?} answers c{first}.. with {:?} and {:?}",
            carried.proposed,
            carried.refused
        );
        Ok(carried.proposed)
    }

    /// Notes the slots of the commands in flight, before anything that carries them is judged.
    pub fn note_proposed(&mut self, first: Slot, ballot: Ballot) -> Check {
        let commands = std::mem::take(&mut self.in_flight);
        ensure!(!commands.is_empty(), "a proposal is taken or refused, once", "{first} in {ballot:?} for nothing");
        for (slot, command) in (first.0..).map(Slot).zip(commands) {
            self.observer.proposed(command, EntryId { slot, origin: ballot })?;
        }
        Ok(())
    }

    /// Asks for a read at `id`.
    pub fn read(&mut self, id: NodeId) -> Check {
        self.reads += 1;
        let read = ReadId(self.reads);
        let required = (self.observer.acknowledged(), self.observer.newest_led());
        let came = self.now;
        let node = self.node_mut(id)?;
        let boot = node.boot;
        node.reads.insert(read, required);
        if self.is_paused(id) {
            self.agenda.add(came, Event::Ask { node: id, boot, read, came });
            return Ok(());
        }
        self.step_replica(id, Input::ReadIndex(read)).map(|_| ())
    }

    /// Takes a read that came while the process was paused. It may have read the time when the read came: what it concludes
    /// from that is late, but not wrong.
    pub fn ask(&mut self, id: NodeId, read: ReadId, came: u64) -> Check {
        let early = self.dice.chance(500);
        let at = if early { came } else { self.now };
        self.step_replica_at(id, Input::ReadIndex(read), at).map(|_| ())
    }

    /// A read got its slot, or was refused.
    pub fn read_ended(&mut self, id: NodeId, read: ReadId, slot: Option<Slot>, leads: Option<Ballot>) -> Check {
        let open = self.node_mut(id)?.reads.remove(&read);
        let Some((required, newest)) = open else {
            return Err(Violation::new("a read is answered once", format!("{id:?} answers {read} with {slot:?}")));
        };
        if let Some(slot) = slot {
            ensure!(
                slot >= required,
                "12: a read sees every write acknowledged before it",
                "{id:?} answers {read} with {slot}, acknowledged before it was {required}"
            );
            ensure!(
                leads.is_none_or(|ballot| ballot >= newest),
                "10: while a lease holds there is no later leader",
                "{id:?} answers {read} in {leads:?}, {newest:?} was led before it was asked for"
            );
            self.coverage.count("event", "read served", "");
        }
        Ok(())
    }
}
