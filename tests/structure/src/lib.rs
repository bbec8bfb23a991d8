//! Which modules of a crate import which, and the cycles among them.
//!
//! Owns: the reading of a crate's sources, and the rule. Must never: compile or run what it reads, or look beyond one crate.
//!
//! **The rule.** At each level of a crate's tree, the modules that have one parent form no cycle, each taken with all that
//! lies below it. `a` and `b` break it where something in `a`, or below, uses something in `b`, or below, and the other way
//! round, directly or through others.
//!
//! **A use** is a path, in a `use` or anywhere in the code, macro arguments included. It leads to the module that defines what the
//! path names: names that are handed on (`pub use`) are followed to their definition. A declaration (`mod a;`) is no use. A
//! method call names no module and is no use either, and neither is what only tests compile (`#[cfg(test)]`).
//!
//! **A module and what lies below it** may use each other. Children see the private items of their parent, and a parent is what
//! binds its children: they are one unit, cut into files. To forbid this would ask for one more module beside each such
//! parent, which holds what the children share, and would make public to the crate what is private now.

mod cycles;
mod resolve;
mod source;

use std::path::Path;

pub use cycles::{Cycle, Tie};
pub use source::SourceError;

/// What was found in a crate.
#[derive(Clone, Debug)]
pub struct Found {
    /// How many modules it has, those of tests left out.
    pub modules: usize,
    /// How many pairs of modules have one use the other.
    pub uses: usize,
    /// The cycles, level by level.
    pub cycles: Vec<Cycle>,
}

/// The cycles of the crate whose root is this file. `read` gives a file's text, or `None` where there is no such file.
///
/// # Errors
/// A file does not parse, or a declared module has none.
pub fn cycles_of(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Result<Found, SourceError> {
    let tree = source::read(root, read)?;
    let uses = resolve::uses(&tree);
    Ok(Found { modules: tree.modules.len(), uses: uses.len(), cycles: cycles::find(&tree, &uses) })
}
