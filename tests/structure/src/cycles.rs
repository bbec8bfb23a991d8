//! Cycles among the modules of one parent.
//!
//! Owns: the rule of the crate's documentation. Must never: report one cycle twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::resolve::Uses;
use crate::source::{Names, Tree};

/// Modules of one parent that use one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The parent's path; empty for the crate's root.
    pub parent: String,
    /// The modules, by name.
    pub members: Vec<String>,
    /// What ties them.
    pub ties: Vec<Tie>,
}

/// One use that belongs to a cycle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tie {
    /// The module that uses.
    pub from: String,
    /// The module that defines what is used.
    pub to: String,
    /// The names used.
    pub names: Vec<String>,
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = if self.parent.is_empty() { "the crate's root" } else { &self.parent };
        write!(f, "in {parent}: {}", self.members.join(" "))?;
        for Tie { from, to, names } in &self.ties {
            write!(f, "\n    {from} uses {to}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// The uses between the children of one parent: from, to, and the modules below them that these come from.
type Level = BTreeMap<(String, String), BTreeSet<Tie>>;

/// All cycles.
pub(crate) fn find(tree: &Tree, uses: &Uses) -> Vec<Cycle> {
    let mut levels: BTreeMap<Names, Level> = BTreeMap::new();
    for ((from, to), names) in uses {
        let (from, to) = (&tree.module(*from).name, &tree.module(*to).name);
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        // Else one lies below the other.
        if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
            let tie = Tie { from: from.join("::"), to: to.join("::"), names: names.iter().cloned().collect() };
            let level = levels.entry(from[..common].to_vec()).or_default();
            level.entry((a.clone(), b.clone())).or_default().insert(tie);
        }
    }
    levels.iter().flat_map(|(parent, level)| of_level(&parent.join("::"), level)).collect()
}

fn of_level(parent: &str, level: &Level) -> Vec<Cycle> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        level.keys().map(|(from, _)| (from.as_str(), reached_from(from, level))).collect();
    let mutual = |a: &str, b: &str| reached[a].contains(b) && reached.get(b).is_some_and(|set| set.contains(a));
    let mut told = BTreeSet::new();
    let mut cycles = Vec::new();
    for name in reached.keys().filter(|name| mutual(name, name)) {
        let members: Vec<String> =
            reached.keys().filter(|other| mutual(name, other)).map(|&other| other.to_owned()).collect();
        if told.insert(members.clone()) {
            let inside = |(from, to): &(String, String)| members.contains(from) && members.contains(to);
            let ties = level.iter().filter(|(pair, _)| inside(pair)).flat_map(|(_, ties)| ties.clone()).collect();
            cycles.push(Cycle { parent: parent.to_owned(), members, ties });
        }
    }
    cycles
}

/// Every module that `from` uses, directly or through others.
fn reached_from<'a>(from: &str, level: &'a Level) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        for (_, to) in level.keys().filter(|(from, _)| from == at) {
            if reached.insert(to.as_str()) {
                open.push(to);
            }
        }
    }
    reached
}
