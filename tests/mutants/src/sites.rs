//! Finds the guards of a source file.
//!
//! A guard is a boolean leaf: a condition of an `if` or of a match arm, an operand of `&&` and `||`, and every comparison.
//!
//! Owns: what counts as a guard, and its name. Must never: depend on line numbers for a name, since the list of equivalent
//! mutants has to survive edits elsewhere in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, BinOp, Expr, ExprBinary, ItemFn, ItemMod, Local, Pat};

/// One boolean leaf of the source.
#[derive(Clone, Debug)]
pub struct Site {
    /// `FILE FUNCTION: SOURCE`, with `#N` from the second of its name on.
    pub name: String,
    /// The range of its text in the file, bytes.
    pub range: Range<usize>,
    /// The same comparison with its bound moved by one (`<` for `<=`), where both operands may be evaluated twice.
    pub shifted: Option<String>,
}

/// The guards of one file, in the order of their text. `file` becomes part of their names.
///
/// # Errors
/// The text does not parse as Rust.
pub fn find(file: &str, text: &str) -> syn::Result<Vec<Site>> {
    let parsed = syn::parse_file(text)?;
    let mut finder =
        Finder { file, text, scope: Vec::new(), planted: BTreeSet::new(), seen: BTreeMap::new(), sites: Vec::new() };
    finder.visit_file(&parsed);
    finder.sites.sort_by_key(|site| (site.range.start, std::cmp::Reverse(site.range.end)));
    Ok(finder.sites)
}

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    scope: Vec<String>,
    /// Names of what only builds with planted faults set.
    planted: BTreeSet<String>,
    seen: BTreeMap<String, u32>,
    sites: Vec<Site>,
}

impl Finder<'_> {
    /// Whether a condition holds in builds with planted faults only: it is one, or the name of one.
    fn is_planted(&self, condition: &Expr) -> bool {
        let named = |path: &syn::ExprPath| path.path.get_ident().map(|name| self.planted.contains(&name.to_string()));
        is_planted(condition) || matches!(condition, Expr::Path(path) if named(path) == Some(true))
    }

    /// Splits a condition into its leaves. A pattern (`let … = …`) is none: it cannot be forced.
    fn guard(&mut self, condition: &Expr) {
        match condition {
            _ if self.is_planted(condition) => {}
            Expr::Unary(not) if self.is_planted(&not.expr) => {}
            Expr::Paren(inner) => self.guard(&inner.expr),
            Expr::Binary(both) if matches!(both.op, BinOp::And(_) | BinOp::Or(_)) => {
                self.guard(&both.left);
                self.guard(&both.right);
            }
            Expr::Let(pattern) => self.visit_expr(&pattern.expr),
            Expr::Macro(call) if call.mac.path.is_ident("cfg") => {}
            Expr::Lit(_) => {}
            leaf => {
                self.leaf(leaf);
                match leaf {
                    // Its comparison is this leaf; only what it compares can hold further ones.
                    Expr::Binary(compared) => {
                        self.visit_expr(&compared.left);
                        self.visit_expr(&compared.right);
                    }
                    other => visit::visit_expr(self, other),
                }
            }
        }
    }

    fn leaf(&mut self, leaf: &Expr) {
        let range = leaf.span().byte_range();
        let source = self.text[range.clone()].split_whitespace().collect::<Vec<_>>().join(" ");
        let base = format!("{} {}: {source}", self.file, self.scope.join("::"));
        let count = self.seen.entry(base.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { base } else { format!("{base} #{count}") };
        self.sites.push(Site { name, range, shifted: self.shifted(leaf) });
    }

    fn shifted(&self, leaf: &Expr) -> Option<String> {
        let Expr::Binary(ExprBinary { left, op, right, .. }) = leaf else { return None };
        let other = match op {
            BinOp::Lt(_) => "<=",
            BinOp::Le(_) => "<",
            BinOp::Gt(_) => ">=",
            BinOp::Ge(_) => ">",
            _ => return None,
        };
        if !(repeatable(left) && repeatable(right)) {
            return None;
        }
        let text = |expr: &Expr| &self.text[expr.span().byte_range()];
        Some(format!("{} {other} {}", text(left), text(right)))
    }
}

/// Whether evaluating it twice changes nothing: names, fields, literals, arithmetic, getters without arguments.
fn repeatable(expr: &Expr) -> bool {
    match expr {
        Expr::Path(_) | Expr::Lit(_) => true,
        Expr::Field(field) => repeatable(&field.base),
        Expr::Paren(inner) => repeatable(&inner.expr),
        Expr::Reference(inner) => inner.mutability.is_none() && repeatable(&inner.expr),
        Expr::Unary(inner) => repeatable(&inner.expr),
        Expr::Binary(both) => repeatable(&both.left) && repeatable(&both.right),
        Expr::MethodCall(call) => {
            call.args.is_empty()
                && repeatable(&call.receiver)
                && !["take", "next", "pop", "unwrap"].contains(&call.method.to_string().as_str())
        }
        _ => false,
    }
}

/// Whether a condition holds in builds with planted faults only: `fault!(..)` is one of its conjuncts.
fn is_planted(condition: &Expr) -> bool {
    match condition {
        Expr::Macro(call) => ["fault", "planted"].iter().any(|name| call.mac.path.is_ident(name)),
        Expr::Paren(inner) => is_planted(&inner.expr),
        Expr::Binary(both) if matches!(both.op, BinOp::And(_)) => is_planted(&both.left) || is_planted(&both.right),
        _ => false,
    }
}

/// Code that only tests or planted builds hold.
fn conditional(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| a.path().is_ident("cfg") || a.path().is_ident("test"))
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            Expr::If(chosen) if conditional(&chosen.attrs) => {}
            Expr::If(chosen) => {
                self.guard(&chosen.cond);
                if !is_planted(&chosen.cond) {
                    self.visit_block(&chosen.then_branch);
                }
                if let Some((_, other)) = &chosen.else_branch {
                    self.visit_expr(other);
                }
            }
            Expr::While(repeated) => {
                // Forced to true it would only never end.
                if let Expr::Let(pattern) = &*repeated.cond {
                    self.visit_expr(&pattern.expr);
                }
                self.visit_block(&repeated.body);
            }
            Expr::Binary(both) => match both.op {
                BinOp::And(_) | BinOp::Or(_) => self.guard(expr),
                BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => {
                    self.guard(expr);
                }
                _ => visit::visit_expr(self, expr),
            },
            Expr::Const(_) => {}
            Expr::Block(block) if conditional(&block.attrs) => {}
            _ => visit::visit_expr(self, expr),
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if let (Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
            && is_planted(&init.expr)
        {
            self.planted.insert(name.ident.to_string());
        }
        visit::visit_local(self, local);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if let Some((_, guard)) = &arm.guard {
            self.guard(guard);
        }
        self.visit_expr(&arm.body);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !conditional(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if item.sig.constness.is_none() && !conditional(&item.attrs) {
            self.scope.push(item.sig.ident.to_string());
            let outer = std::mem::take(&mut self.planted);
            visit::visit_item_fn(self, item);
            self.planted = outer;
            self.scope.pop();
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if item.sig.constness.is_none() && !conditional(&item.attrs) {
            self.scope.push(item.sig.ident.to_string());
            let outer = std::mem::take(&mut self.planted);
            visit::visit_impl_item_fn(self, item);
            self.planted = outer;
            self.scope.pop();
        }
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    // Attributes, types and patterns hold no guards that run.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        find("f.rs", text).unwrap().into_iter().map(|site| site.name).collect()
    }

    #[test]
    fn leaves_of_conditions_are_found_once_each() {
        let text = "fn f(a: u8, b: bool, c: Option<u8>) -> bool {
            if (a < 3 || b) && let Some(x) = c && g(x) { return false; }
            match a { 1 if b => true, _ => a == 2 && !b }
        }";
        assert_eq!(
            names(text),
            ["f.rs f: a < 3", "f.rs f: b", "f.rs f: g(x)", "f.rs f: b #2", "f.rs f: a == 2", "f.rs f: !b"]
        );
    }

    #[test]
    fn comparisons_inside_calls_are_found_too() {
        assert_eq!(
            names("fn f(v: &[u8]) { if v.iter().any(|x| *x > 1) { h(v.len() >= 2) } }"),
            ["f.rs f: v.iter().any(|x| *x > 1)", "f.rs f: *x > 1", "f.rs f: v.len() >= 2"]
        );
    }

    #[test]
    fn what_does_not_ship_is_left_alone() {
        let text = "const A: bool = 1 < 2; const fn c(a: u8) -> bool { a < 1 }
            fn f(a: u8) { debug_assert!(a < 3); while a < 9 {} if fault!(self, X) && a == 2 { a > 4 } if !fault!(self, Y) {}
                let z = fault!(self, Z); if z && !z {} #[cfg(feature = \"planted\")] if a > 7 {} }
            #[cfg(test)] mod tests { fn t(a: u8) -> bool { a == 1 } }";
        assert_eq!(names(text), Vec::<String>::new());
    }

    #[test]
    fn bounds_are_shifted_where_that_is_harmless() {
        let sites = find("f.rs", "fn f(a: u8) -> bool { a < b.len() && a == 1 && a > next(a) }").unwrap();
        let shifted: Vec<_> = sites.into_iter().map(|site| site.shifted).collect();
        assert_eq!(shifted, [Some("a <= b.len()".to_owned()), None, None]);
    }
}
