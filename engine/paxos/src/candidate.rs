//! Elections: pre-vote, phase 1, and the fetching of what the adopted log lacks here.
//!
//! Sources: Lamport, "Paxos Made Simple" (2001), sections 2.2 and 3 (phase 1 for all slots at once); Ongaro (2014),
//! section 9.6 (pre-vote).
//!
//! Owns: a campaign. Must never: lead a ballot it recovered, count a promise of its own before it is durable, or adopt a
//! log that contradicts what is known chosen.

use crate::fault;
use crate::message::{Held, Message};
use crate::replica::{Io, Replica};
use crate::role::{Candidate, Fetched, Fetching, Phase, Promised, Role};
use crate::types::{Ballot, Entry, EntryId, Micros, NodeId, Slot};
use std::collections::{BTreeMap, BTreeSet};

impl Replica {
    pub(crate) fn on_campaign(&mut self, io: &mut Io<'_>) {
        let may = self.is_voter() && !self.abstains;
        if matches!(self.role, Role::Follower(_)) && may && self.b0_after.is_none() {
            self.start_pre_vote(io);
        }
    }

    fn next_ballot(&self) -> Ballot {
        if fault!(self, ReusedBallot) && self.hard.promised.node == self.me {
            return self.hard.promised;
        }
        let round = self.hard.promised.round.max(self.seen_round) + 1;
        Ballot { epoch: self.epoch(), round, node: self.me }
    }

    /// Becomes a candidate, or begins anew as one.
    pub(crate) fn start_pre_vote(&mut self, io: &mut Io<'_>) {
        assert!(!self.is_leader() && self.is_voter(), "only a voter that does not lead stands for election");
        assert!(!self.abstains, "a replica that abstains stands for no election");
        self.b0_after = None;
        let ballot = self.next_ballot();
        // An answer that takes longer than the pause counts all the same, as long as the question is the same.
        let granted = match &mut self.role {
            Role::Candidate(Candidate { ballot: asked, phase: Phase::PreVote { granted }, .. }) if *asked == ballot => {
                std::mem::take(granted)
            }
            _ => BTreeSet::from([self.me]),
        };
        let held = (self.version >= 2).then(|| Held {
            accepted: self.hard.accepted,
            last: self.log.last(),
            commit: self.commit,
        });
        // A refused pre-vote cost nothing and blocks nobody: it is repeated soon.
        let restart_at = io.now.plus(self.options.resend_us + io.random % self.options.jitter_us.max(1));
        self.role = Role::Candidate(Candidate { ballot, phase: Phase::PreVote { granted }, restart_at });
        for node in self.peer_voters() {
            if self.alive.contains(&node) {
                io.send(node, Message::PreVote { ballot, held });
            }
        }
        self.count_pre_votes(io);
    }

    fn campaign_end(&self, io: &Io<'_>) -> Micros {
        io.now.plus(self.options.campaign_us + io.random % self.options.jitter_us.max(1))
    }

    /// A campaign that got no quorum in time: tries again where a quorum is heard, else waits for that.
    pub(crate) fn restart_campaign(&mut self, io: &mut Io<'_>) {
        if self.quorum_alive() {
            self.start_pre_vote(io);
        } else {
            self.follow(None, io);
        }
    }

    pub(crate) fn on_pre_vote_granted(&mut self, from: NodeId, ballot: Ballot, io: &mut Io<'_>) {
        if let Role::Candidate(Candidate { ballot: mine, phase: Phase::PreVote { granted }, .. }) = &mut self.role
            && *mine == ballot
        {
            granted.insert(from);
            self.count_pre_votes(io);
        }
    }

    fn count_pre_votes(&mut self, io: &mut Io<'_>) {
        let Role::Candidate(Candidate { phase: Phase::PreVote { granted }, .. }) = &self.role else { return };
        // While another is supported the own promise would break that; the pre-vote is repeated.
        if self.is_quorum(|n| granted.contains(&n)) && !self.supports_other_than(self.me, io.now) {
            self.start_prepare(io);
        }
    }

    pub(crate) fn on_pre_vote_refused(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        promised: Ballot,
        leader: Option<Ballot>,
        io: &mut Io<'_>,
    ) {
        self.see_round(promised);
        let waits = match &mut self.role {
            Role::Candidate(Candidate { ballot: asked, phase: Phase::PreVote { granted }, .. }) if *asked == ballot => {
                granted.remove(&from);
                true
            }
            _ => false,
        };
        if let Some(leader) = leader
            && waits
            && leader.node != self.me
        {
            // It will show itself, or release the ballot to the one that refused.
            io.send(leader.node, Message::Confirm { ballot: leader });
        }
    }

    fn see_round(&mut self, promised: Ballot) {
        if promised.epoch == self.epoch() {
            self.seen_round = self.seen_round.max(promised.round);
        }
    }

    /// Phase 1a: the own promise first, on disk; the messages wait for it.
    pub(crate) fn start_prepare(&mut self, io: &mut Io<'_>) {
        let ballot = self.next_ballot();
        assert!(
            ballot > self.hard.promised || fault!(self, ReusedBallot),
            "a campaign at {ballot:?}, promised is {:?}",
            self.hard.promised
        );
        self.hard.promised = ballot;
        self.stage_hard();
        let own = self.writes.covering();
        let mine = Promised {
            accepted: self.hard.accepted,
            commit: self.commit,
            last: self.log.last(),
            runs: self.log.runs_after(self.commit),
        };
        let promises = BTreeMap::from([(self.me, mine)]);
        let restart_at = self.campaign_end(io);
        self.role = Role::Candidate(Candidate { ballot, phase: Phase::Prepare { own, promises }, restart_at });
        let commit = self.commit;
        for node in self.peer_voters() {
            self.send_durable(node, Message::Prepare { ballot, commit });
        }
    }

    pub(crate) fn on_promise(&mut self, from: NodeId, message: Message, io: &mut Io<'_>) {
        let Message::Promise { ballot, accepted, commit, last, runs } = message else { return };
        if let Role::Candidate(Candidate { ballot: mine, phase: Phase::Prepare { promises, .. }, .. }) = &mut self.role
            && *mine == ballot
        {
            promises.insert(from, Promised { accepted, commit, last, runs });
            self.count_promises(io);
        } else if let Role::Leader(leader) = &self.role
            && leader.ballot == ballot
        {
            // Too late for phase 1: what it holds is what a `Sync` needs to know.
            let asked = leader.progress.get(&from).is_some_and(|p| p.mode == crate::progress::Mode::Probe);
            if asked {
                self.begin_sync(from, &Promised { accepted, commit, last, runs }, io);
            }
        }
    }

    /// With a quorum of promises, the own one durable: the greatest (accepted, last) is the log to adopt.
    pub(crate) fn count_promises(&mut self, io: &mut Io<'_>) {
        let Role::Candidate(Candidate { phase: Phase::Prepare { own, promises }, .. }) = &self.role else { return };
        if self.writes.durable() < *own || !self.is_quorum(|n| promises.contains_key(&n)) {
            return;
        }
        let promises = promises.clone();
        let (source, best) = promises
            .iter()
            .max_by_key(|(node, p)| (p.accepted, p.last.slot, **node == self.me))
            .map(|(node, p)| (*node, p.clone()))
            .expect("a quorum is not empty");
        if !self.agrees_with_chosen(&best, &promises) {
            // A later ballot has chosen something else meanwhile: this campaign is overtaken.
            return self.follow(None, io);
        }
        let keep = self.log.match_end(self.commit, &best.runs, best.last.slot);
        let missing = best.last.slot.0.saturating_sub(keep.0);
        let gone = source != self.me && best.first_header() > keep.next();
        if gone {
            self.know_chosen(&best, io);
            return self.learn_instead(source, io);
        }
        // What is not known chosen nobody can teach: however much of it is missing, it is fetched.
        let others = promises.iter().filter(|(node, _)| **node != self.me);
        let knows = others.map(|(node, p)| (*node, p.commit.min(best.last.slot))).max_by_key(|(_, commit)| *commit);
        let teacher = knows.unwrap_or((source, Slot(0)));
        let all = fault!(self, FetchCountsUnknown);
        let known = if all { best.last.slot } else { teacher.1 };
        if missing > 0 && known.0.saturating_sub(keep.0) > self.options.fetch_slots {
            self.know_chosen(&promises[&teacher.0], io);
            return self.learn_instead(teacher.0, io);
        }
        if missing == 0 || source == self.me {
            let keep = if source == self.me { self.log.last().slot } else { keep };
            return self.become_leader(keep, Vec::new(), &promises, io);
        }
        let base = self.log.id_at(keep).expect("the own log agrees with the one to adopt up to a slot that it holds");
        let mut before = self.fetched.take().unwrap_or(Fetched { base, entries: Vec::new() });
        if !before.is_compared_at(base) && !fault!(self, FetchedUncompared) {
            before.entries.clear();
        }
        let before = before.of(&best, base);
        let at = before.end();
        if at == best.last {
            return self.become_leader(keep, before.entries, &promises, io);
        }
        self.fetched = Some(before);
        let ballot = self.hard.promised;
        if let Role::Candidate(candidate) = &mut self.role {
            candidate.restart_at = io.now.plus(self.options.campaign_us);
            candidate.phase = Phase::Fetch(Box::new(Fetching { promises, source, keep, teacher, known_bytes: 0 }));
        }
        io.send(source, Message::Fetch { ballot, accepted: best.accepted, from: at.slot, upto: best.last.slot });
    }

    /// A promiser calls chosen what this log holds too: an equal entry means an equal prefix. Its promise is the own ballot, so the
    /// own promise is no less, and on disk. So nothing is asked for that is here, and may be trimmed there.
    fn know_chosen(&mut self, promised: &Promised, io: &mut Io<'_>) {
        let agrees = self.log.match_end(self.commit, &promised.runs, promised.last.slot).min(promised.commit);
        // Below the trim point nothing is compared, and nothing is raised either.
        if promised.origin_at(agrees) == self.log.id_at(agrees).map(|id| id.origin) {
            self.raise_commit(agrees, io);
        }
    }

    /// The log to adopt cannot be fetched in a campaign's time, or not at all: what of it is chosen is learnt, and others may
    /// lead meanwhile.
    fn learn_instead(&mut self, source: NodeId, io: &mut Io<'_>) {
        let (epoch, commit) = (self.epoch(), self.durable_commit());
        self.send_durable(source, Message::Learned { epoch, commit });
        self.follow(None, io);
    }

    /// Whether the log to adopt holds what every promise calls chosen, as far as headers tell.
    fn agrees_with_chosen(&self, best: &Promised, promises: &BTreeMap<NodeId, Promised>) -> bool {
        let mine = self.log.id_at(self.commit).map(|id| id.origin);
        let own_agrees = match (mine, best.origin_at(self.commit)) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        own_agrees
            && promises.values().all(|p| {
                p.commit <= best.last.slot
                    && match (p.origin_at(p.commit), best.origin_at(p.commit)) {
                        (Some(theirs), Some(adopted)) => theirs == adopted,
                        _ => true,
                    }
            })
    }

    /// A candidate asks for bodies: the log is frozen by the promise made to it.
    pub(crate) fn on_fetch(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        accepted: Ballot,
        (after, upto): (Slot, Slot),
        io: &mut Io<'_>,
    ) {
        if ballot < self.hard.promised {
            return io.send(from, Message::Nack { ballot, promised: self.hard.promised });
        }
        if ballot != self.hard.promised || accepted != self.hard.accepted {
            return;
        }
        let Some(prev) = self.log.id_at(after) else { return };
        let upto = upto.min(self.log.last().slot);
        match self.log.entries(io.log, after, upto, self.options.message_bytes) {
            Ok(entries) => io.send(from, Message::Fetched { ballot, prev, entries }),
            Err(why) => self.fail(why, io),
        }
    }

    /// A piece of a log to adopt arrives, perhaps after the campaign that asked for it: on a slow link every piece may take longer than
    /// a campaign.
    ///
    /// A late piece is kept, and here is why that is safe. It is a run of a log that was accepted, whatever its ballot has become,
    /// and equal ids mean equal entries and equal prefixes (Lamport 2001, section 2.2, as prefixes: see the protocol). So entries
    /// behind one that is held here follow it in that log. What is kept decides nothing: the next campaign gathers promises of its own,
    /// and takes of it only what the headers of the greatest log name ([`Fetched::of`]). During a later fetch the last entry of the late
    /// piece must be the one that those headers name, so all of the piece is of that log.
    pub(crate) fn on_fetched(&mut self, from: NodeId, ballot: Ballot, prev: EntryId, run: Vec<Entry>, io: &mut Io<'_>) {
        let Some(fetched) = &mut self.fetched else { return };
        let Some(last) = run.last().map(|e| e.id).filter(|_| ballot.node == self.me) else { return };
        let Role::Candidate(Candidate { ballot: mine, phase, restart_at }) = &mut self.role else {
            fetched.add(prev, run);
            return;
        };
        // The holder's log is trimmed up to there, and this one took another way before.
        let other_way = fetched.entries.is_empty() && prev.slot == fetched.base.slot && prev != fetched.base;
        let Phase::Fetch(fetching) = phase else {
            if other_way {
                return self.learn_instead(from, io);
            }
            fetched.add(prev, run);
            return;
        };
        let Fetching { promises, source, keep, teacher, known_bytes } = &mut **fetching;
        let (asked, best) = (*mine == ballot && *source == from, &promises[source]);
        let late = ballot < *mine && best.origin_at(last.slot) == Some(last.origin);
        if !asked && !late {
            return;
        }
        if other_way {
            return self.learn_instead(from, io);
        }
        let before = fetched.entries.len();
        if !fetched.add(prev, run) {
            return;
        }
        let known = fetched.entries[before..].iter().filter(|e| e.id.slot <= teacher.1);
        *known_bytes += known.map(Entry::size).sum::<usize>();
        let (at, end, accepted) = (fetched.end(), best.last, best.accepted);
        if *known_bytes > self.options.fetch_bytes && at.slot < teacher.1 {
            let teacher = teacher.0;
            return self.learn_instead(teacher, io);
        }
        if at.slot < end.slot {
            // Behind a late piece the one that was asked for is still to come.
            if asked {
                *restart_at = io.now.plus(self.options.campaign_us);
                io.send(from, Message::Fetch { ballot, accepted, from: at.slot, upto: end.slot });
            }
            return;
        }
        if at != end {
            // The source has meanwhile learnt what a later ballot chose: this campaign is overtaken.
            return self.follow(None, io);
        }
        let (promises, keep, entries) = (std::mem::take(promises), *keep, std::mem::take(&mut fetched.entries));
        self.fetched = None;
        self.become_leader(keep, entries, &promises, io);
    }

    /// Somebody promised more than this replica's ballot.
    pub(crate) fn on_nack(&mut self, from: NodeId, ballot: Ballot, promised: Ballot, io: &mut Io<'_>) {
        self.see_round(promised);
        if fault!(self, NackCountsAsPromise)
            && let Role::Candidate(Candidate { ballot: mine, phase: Phase::Prepare { promises, .. }, .. }) =
                &mut self.role
            && *mine == ballot
        {
            let (commit, last) = (Slot(0), EntryId::ZERO);
            promises.insert(from, Promised { accepted: Ballot::default(), commit, last, runs: Vec::new() });
            return self.count_promises(io);
        }
        let mine = match &self.role {
            Role::Follower(_) => None,
            Role::Candidate(candidate) => Some(candidate.ballot),
            Role::Leader(leader) => Some(leader.ballot),
        };
        if mine == Some(ballot) && promised > ballot {
            self.follow(None, io);
            self.stand_soon(io);
        }
    }
}
