//! The rule on small crates: what breaks it, and what does not.
//!
//! Owns: one example a clause of the rule. Must never: read the repository; `repository.rs` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use synod_structure::{Cycle, Found, cycles_of};

/// The crate that these files make, `lib.rs` first.
fn found(files: &[(&str, &str)]) -> Found {
    let files: BTreeMap<PathBuf, &str> =
        files.iter().map(|(name, text)| (Path::new("src").join(name), *text)).collect();
    let read = |path: &Path| files.get(path).map(|text| (*text).to_owned());
    cycles_of(Path::new("src/lib.rs"), &read).expect("the sources parse")
}

/// Parents and members of its cycles.
fn cycles(files: &[(&str, &str)]) -> Vec<String> {
    let shown = |Cycle { parent, members, .. }: Cycle| format!("{parent}: {}", members.join(" "));
    found(files).cycles.into_iter().map(shown).collect()
}

#[test]
fn modules_that_use_one_another_are_a_cycle_and_what_ties_them_is_told() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "pub struct B; impl B { fn of(_: &crate::a::A) {} }"),
    ];
    let found = found(&files);
    let told: Vec<String> = found.cycles.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["in the crate's root: a b\n    a uses b: B\n    b uses a: A"]);
    assert_eq!((found.modules, found.uses), (3, 2));
}

#[test]
fn a_cycle_may_go_through_others() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod apart;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::a::A; pub struct C;"),
        ("apart.rs", "use crate::a::A; use crate::b::B;"),
    ];
    assert_eq!(cycles(&files), [": a b c"]);
}

#[test]
fn a_module_is_taken_with_all_that_lies_below_it() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "mod low; mod high;"),
        ("a/low.rs", "pub struct Low;"),
        ("a/high.rs", "use crate::b::B;"),
        ("b.rs", "use crate::a::low::Low; pub struct B;"),
    ];
    assert_eq!(cycles(&files), [": a b"]);
}

#[test]
fn a_cycle_below_a_module_is_found_at_its_level() {
    let files = [
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod x; mod y;"),
        ("a/x.rs", "use super::y::Y; pub struct X;"),
        ("a/y.rs", "use super::super::a::x::X; pub struct Y;"),
    ];
    assert_eq!(cycles(&files), ["a: x y"]);
}

#[test]
fn names_that_are_handed_on_lead_to_their_definition() {
    let handed_on = |a: &'static str| {
        let b = "use crate::a::A; pub struct B;";
        cycles(&[("lib.rs", "mod a; mod b; pub use b::B as Other;"), ("a.rs", a), ("b.rs", b)])
    };
    assert_eq!(handed_on("use crate::Other; pub struct A;"), [": a b"]);
    assert_eq!(handed_on("pub struct A(super::Other);"), [": a b"]);
    assert_eq!(handed_on("use super::*; pub struct A(Other);"), [": a b"]);
    assert_eq!(handed_on("pub struct A;"), [""; 0]);
}

#[test]
fn paths_count_wherever_they_are_written() {
    let with = |a: &str| {
        let a = format!("pub struct A; {a}");
        let b = "use crate::a::A; pub struct B; pub fn b() {}";
        cycles(&[("lib.rs", "mod a; mod b;"), ("a.rs", a.as_str()), ("b.rs", b)])
    };
    assert_eq!(with("fn f() { crate::b::b() }"), [": a b"]);
    assert_eq!(with("fn f() { println!(\"{}\", crate::b::b()) }"), [": a b"]);
    assert_eq!(with("fn f() { use crate::b; b::b() }"), [": a b"]);
    assert_eq!(with("use crate::b; fn f() { b::b() }"), [": a b"]);
    assert_eq!(with("use crate::{b::{self as other}}; fn f() { other::b() }"), [": a b"]);
    assert_eq!(with("impl From<crate::b::B> for A {}"), [": a b"]);
    assert_eq!(with("fn f(x: other::b::B) { x.b() } // crate::b::B"), [""; 0]);
}

#[test]
fn a_module_and_what_lies_below_it_may_use_each_other() {
    let files = [
        ("lib.rs", "mod a; pub struct Root;"),
        ("a.rs", "mod low; use low::Low; pub struct A(Low);"),
        ("a/low.rs", "use super::A; use crate::Root; pub struct Low;"),
    ];
    assert_eq!(cycles(&files), [""; 0]);
}

#[test]
fn what_only_tests_compile_is_no_use() {
    let tests = [
        "#[cfg(test)] mod tests { use crate::b::B; }",
        "#[cfg(test)] mod tests;",
        "#[cfg(all(test, unix))] fn f() { crate::b::b() }",
        "#[cfg(test)] use crate::b::B;",
    ];
    for test in tests {
        let a = format!("pub struct A; {test}");
        let b = "use crate::a::A; pub struct B; pub fn b() {}";
        assert_eq!(cycles(&[("lib.rs", "mod a; mod b;"), ("a.rs", &a), ("b.rs", b)]), [""; 0], "{test}");
    }
    let a = "pub struct A; #[cfg(not(test))] use crate::b::B;";
    let b = "use crate::a::A; pub struct B;";
    assert_eq!(cycles(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b)]), [": a b"]);
}

#[test]
fn modules_may_be_written_in_place_or_have_a_path() {
    let files = [
        ("lib.rs", "mod a { use crate::b::B; pub struct A; pub mod deep; } #[path = \"elsewhere/other.rs\"] mod b;"),
        ("a/deep.rs", ""),
        ("elsewhere/other.rs", "use crate::a::A; pub struct B;"),
    ];
    assert_eq!(cycles(&files), [": a b"]);
}

#[test]
fn imports_that_go_round_in_circles_end() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "pub use crate::b::*; use Thing as T;"),
        ("b.rs", "pub use crate::a::*;"),
    ];
    assert_eq!(cycles(&files), [": a b"]);
}

#[test]
fn a_file_that_is_missing_or_no_rust_is_named() {
    let read = |text: &'static str| move |path: &Path| (path == Path::new("src/lib.rs")).then(|| text.to_owned());
    let told = |text| cycles_of(Path::new("src/lib.rs"), &read(text)).expect_err("it is refused").to_string();
    assert!(told("mod gone;").starts_with("src/gone.rs: no such file"), "{}", told("mod gone;"));
    assert!(told("struct").starts_with("src/lib.rs: "), "{}", told("struct"));
}
