//! A crate's modules, with the names that each defines and imports and the paths that it writes.
//!
//! Owns: the way from files to modules. Must never: decide what a path leads to; `resolve` does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Expr, Item, ItemMod, Lit, Meta, UseTree};

/// Why a crate cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A module is declared, and no file holds it.
    #[error("{0}: no such file; a module is declared that should be there")]
    Missing(PathBuf),
    /// A file is no Rust.
    #[error("{path}: {why}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
}

/// A path as it is written: `crate::a::B`.
pub(crate) type Names = Vec<String>;

/// The place of a module in [`Tree::modules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ModuleId(pub(crate) usize);

/// One module: a file, or the inside of `mod name { … }`.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// Its path from the root, which has none.
    pub(crate) name: Names,
    pub(crate) parent: Option<ModuleId>,
    pub(crate) children: BTreeMap<String, ModuleId>,
    pub(crate) defined: BTreeSet<String>,
    /// What a `use` brings in, by the name that it has here.
    pub(crate) imported: BTreeMap<String, Names>,
    /// Of `use path::*`.
    pub(crate) globs: Vec<Names>,
    /// Every path that is written, imports included; of one name alone only where a glob may bring it in.
    pub(crate) paths: BTreeSet<Names>,
}

/// A crate; the root comes first.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) modules: Vec<Module>,
}

impl Tree {
    pub(crate) fn module(&self, id: ModuleId) -> &Module {
        &self.modules[id.0]
    }

    fn add(&mut self, parent: Option<(ModuleId, &str)>) -> ModuleId {
        let id = ModuleId(self.modules.len());
        let mut module = Module::default();
        if let Some((parent, name)) = parent {
            module.name = self.module(parent).name.clone();
            module.name.push(name.to_owned());
            module.parent = Some(parent);
            self.modules[parent.0].children.insert(name.to_owned(), id);
        }
        self.modules.push(module);
        id
    }
}

/// Reads a crate from its root file.
pub(crate) fn read(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Result<Tree, SourceError> {
    let mut reader = Reader { tree: Tree::default(), read };
    let id = reader.tree.add(None);
    let beside = parent_of(root);
    reader.file(id, root, &beside)?;
    Ok(reader.tree)
}

fn parent_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

struct Reader<'a> {
    tree: Tree,
    read: &'a dyn Fn(&Path) -> Option<String>,
}

impl Reader<'_> {
    /// Reads a file into a module whose children have their files in `below`.
    fn file(&mut self, id: ModuleId, path: &Path, below: &Path) -> Result<(), SourceError> {
        let text = (self.read)(path).ok_or_else(|| SourceError::Missing(path.to_owned()))?;
        let parsed = syn::parse_file(&text)
            .map_err(|error| SourceError::Parse { path: path.to_owned(), why: error.to_string() })?;
        self.items(id, parsed.items, below, &parent_of(path))
    }

    /// `beside` is where a `#[path]` counts from.
    fn items(&mut self, id: ModuleId, items: Vec<Item>, below: &Path, beside: &Path) -> Result<(), SourceError> {
        let mut words = BTreeSet::new();
        for item in items {
            if attributes(&item).iter().any(is_for_tests) {
                continue;
            }
            match item {
                Item::Mod(item) => self.child(id, item, below, beside)?,
                Item::Use(item) => self.import(id, &mut Vec::new(), &item.tree),
                item => {
                    let module = &mut self.tree.modules[id.0];
                    module.defined.extend(name_of(&item));
                    scan(item.to_token_stream(), &mut module.paths, &mut words);
                }
            }
        }
        let module = &mut self.tree.modules[id.0];
        if !module.globs.is_empty() {
            module.paths.extend(words.into_iter().map(|word| vec![word]));
        }
        Ok(())
    }

    fn child(&mut self, id: ModuleId, item: ItemMod, below: &Path, beside: &Path) -> Result<(), SourceError> {
        let name = item.ident.to_string();
        let child = self.tree.add(Some((id, &name)));
        if let Some((_, items)) = item.content {
            let below = below.join(&name);
            return self.items(child, items, &below, &below);
        }
        if let Some(path) = item.attrs.iter().find_map(path_attribute) {
            let path = beside.join(path);
            let below = parent_of(&path);
            return self.file(child, &path, &below);
        }
        let (file, folder) = (below.join(format!("{name}.rs")), below.join(&name));
        let inside = folder.join("mod.rs");
        let path = if (self.read)(&file).is_none() && (self.read)(&inside).is_some() { inside } else { file };
        self.file(child, &path, &folder)
    }

    /// Takes in a `use`, whose names so far are `prefix`.
    fn import(&mut self, id: ModuleId, prefix: &mut Names, tree: &UseTree) {
        let module = &mut self.tree.modules[id.0];
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(id, prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(id, prefix, tree)),
            UseTree::Glob(_) => {
                module.globs.push(prefix.clone());
                module.paths.insert(prefix.clone());
            }
            UseTree::Name(name) => self.name(id, prefix, &name.ident.to_string(), None),
            UseTree::Rename(rename) => {
                self.name(id, prefix, &rename.ident.to_string(), Some(rename.rename.to_string()));
            }
        }
    }

    fn name(&mut self, id: ModuleId, prefix: &Names, name: &str, here: Option<String>) {
        let module = &mut self.tree.modules[id.0];
        let mut path = prefix.clone();
        // `use a::{self}` names `a`.
        if name != "self" || path.is_empty() {
            path.push(name.to_owned());
        }
        let here = here.or_else(|| path.last().cloned()).unwrap_or_default();
        module.paths.insert(path.clone());
        // `use a;` of a crate or a child brings in what is there already.
        if path.len() > 1 || here != path[0] {
            module.imported.insert(here, path);
        }
    }
}

/// The paths of two names or more, and the single names.
fn scan(tokens: TokenStream, paths: &mut BTreeSet<Names>, words: &mut BTreeSet<String>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, sign: char| matches!(trees.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        match tree {
            TokenTree::Group(group) => scan(group.stream(), paths, words),
            // A field or a method, or what follows a type in angle brackets.
            TokenTree::Ident(_) if at > 0 && (is(at - 1, '.') || is(at - 1, ':') && at > 1 && is(at - 2, ':')) => {}
            TokenTree::Ident(ident) => {
                let mut path = vec![ident.to_string()];
                while is(at + 1, ':')
                    && is(at + 2, ':')
                    && let Some(TokenTree::Ident(next)) = trees.get(at + 3)
                {
                    path.push(next.to_string());
                    at += 3;
                }
                if path.len() > 1 {
                    paths.insert(path);
                } else {
                    words.extend(path);
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        at += 1;
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether it says `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    if !list.path.is_ident("cfg") {
        return false;
    }
    let text: String = list.tokens.to_string().split_whitespace().collect();
    text == "test" || text.starts_with("all(test,")
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    match &pair.value {
        Expr::Lit(expr) if pair.path.is_ident("path") => match &expr.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}
