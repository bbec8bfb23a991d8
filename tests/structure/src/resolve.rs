//! From a path to the module that defines what it names.
//!
//! Owns: the following of names that are handed on. Must never: guess: a path that leads out of the crate, or to nothing that
//! is written in it, is no use.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{ModuleId, Names, Tree};

/// Which module uses which, and by what names.
pub(crate) type Uses = BTreeMap<(ModuleId, ModuleId), BTreeSet<String>>;

/// Every use of one module by another.
pub(crate) fn uses(tree: &Tree) -> Uses {
    let mut uses = Uses::new();
    for (at, module) in tree.modules.iter().enumerate() {
        let from = ModuleId(at);
        for path in &module.paths {
            let found = Search { tree, trail: BTreeSet::new() }.path(from, path);
            if let Some(found) = found
                && found.module != from
            {
                uses.entry((from, found.module)).or_default().insert(name_of(path));
            }
        }
    }
    uses
}

/// What a path names, as a reader looks for it: `Type::name` where it ends in one.
fn name_of(path: &[String]) -> String {
    let is_type = |name: &String| name.starts_with(char::is_uppercase);
    let from = path.iter().position(is_type).unwrap_or(path.len().saturating_sub(1));
    path[from..].join("::")
}

/// Where a path leads.
struct Target {
    module: ModuleId,
    /// The path names the module itself, not something in it.
    whole: bool,
}

struct Search<'a> {
    tree: &'a Tree,
    /// Names followed already: imports may go round in circles.
    trail: BTreeSet<(ModuleId, String, bool)>,
}

impl Search<'_> {
    /// A path as it is written in `at`.
    fn path(&mut self, at: ModuleId, path: &[String]) -> Option<Target> {
        match path.first()?.as_str() {
            "crate" => self.walk(ModuleId(0), &path[1..]),
            "self" => self.walk(at, &path[1..]),
            _ => self.walk(at, path),
        }
    }

    /// The names of `path`, one after another, from the inside of `at`.
    fn walk(&mut self, at: ModuleId, path: &[String]) -> Option<Target> {
        let Some((first, rest)) = path.split_first() else { return Some(Target { module: at, whole: true }) };
        let module = self.tree.module(at);
        if first == "super" {
            return self.walk(module.parent?, rest);
        }
        if let Some(child) = module.children.get(first) {
            return self.walk(*child, rest);
        }
        if let Some(import) = module.imported.get(first) {
            return self.imported(at, first, import, rest);
        }
        if module.defined.contains(first) {
            return Some(Target { module: at, whole: false });
        }
        self.by_glob(at, path)
    }

    fn imported(&mut self, at: ModuleId, name: &str, import: &Names, rest: &[String]) -> Option<Target> {
        if !self.trail.insert((at, name.to_owned(), false)) {
            return None;
        }
        let target = self.path(at, import)?;
        if target.whole { self.walk(target.module, rest) } else { Some(target) }
    }

    fn by_glob(&mut self, at: ModuleId, path: &[String]) -> Option<Target> {
        if !self.trail.insert((at, path[0].clone(), true)) {
            return None;
        }
        let tree = self.tree;
        tree.module(at).globs.iter().find_map(|glob| {
            let target = self.path(at, glob).filter(|target| target.whole && target.module != at)?;
            self.walk(target.module, path)
        })
    }
}
