//! The protocol's golden scripts: one section for every row of the tables in `src/protocol.md`.
//!
//! Owns: the list of scripts, and the check that no row goes without one. Must never: judge an output; the files do.
//! `UPDATE_GOLDENFILES=1` writes them; a change of a golden file is to be explained.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("the scripts are there").map(|e| e.expect("readable").path()).collect();
    found.sort();
    found
}

/// `# name/of-row: what it shows` begins a row's section.
fn sections() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in scripts() {
        for line in std::fs::read_to_string(path).expect("readable").lines() {
            let name = line.strip_prefix("# ").and_then(|rest| rest.split_once(':')).map(|(name, _)| name);
            if let Some(name) = name.filter(|n| n.contains('/') && !n.contains(' ')) {
                assert!(names.insert(name.to_string()), "{name} has two sections");
            }
        }
    }
    names
}

fn rows() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in include_str!("../src/protocol.md").lines() {
        let name = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name);
        if let Some(name) = name.filter(|n| n.contains('/')) {
            assert!(names.insert(name.to_string()), "{name} is two rows");
        }
    }
    names
}

#[test]
fn every_script_says_what_its_file_says() {
    for path in scripts() {
        println!("{}", path.display());
        goldenscript::run(&mut synod_scripts::Runner::default(), &path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

#[test]
fn every_row_of_the_tables_has_a_section() {
    let (rows, sections) = (rows(), sections());
    assert!(rows.len() > 150, "only {} rows were found", rows.len());
    let missing: Vec<&String> = rows.difference(&sections).collect();
    let unknown: Vec<&String> = sections.difference(&rows).collect();
    assert!(missing.is_empty(), "rows without a section: {missing:?}");
    assert!(unknown.is_empty(), "sections without a row: {unknown:?}");
}
