//! The rule on every crate of this repository.
//!
//! Owns: which crates there are. Must never: leave one out, or let a cycle in.

use std::fs;
use std::path::{Path, PathBuf};

use synod_structure::cycles_of;

/// Every root of a crate: library, binary or program of the package in this folder.
fn roots_of(package: &Path) -> Vec<PathBuf> {
    let src = package.join("src");
    let mut roots: Vec<PathBuf> = ["lib.rs", "main.rs"].map(|name| src.join(name)).into();
    let programs = fs::read_dir(src.join("bin")).into_iter().flatten().flatten().map(|entry| entry.path());
    roots.extend(programs.filter(|path| path.extension().is_some_and(|extension| extension == "rs")));
    roots.retain(|path| path.is_file());
    roots.sort();
    roots
}

/// Every folder with a package, this one and below.
fn packages(folder: &Path, found: &mut Vec<PathBuf>) {
    if folder.join("Cargo.toml").is_file() {
        found.push(folder.to_owned());
    }
    let entries = fs::read_dir(folder).expect("a folder of the repository can be read");
    for path in entries.map(|entry| entry.expect("an entry can be read").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "src" {
            packages(&path, found);
        }
    }
}

#[test]
fn no_modules_use_one_another_in_a_cycle() {
    // Asked at run time: clones that share a target directory share the test's binary too.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let repository = Path::new(&here).join("../..").canonicalize().expect("there is a repository");
    let mut folders = Vec::new();
    packages(&repository, &mut folders);
    let (mut crates, mut modules, mut uses, mut cycles) = (0, 0, 0, Vec::new());
    for root in folders.iter().flat_map(|folder| roots_of(folder)) {
        let found = cycles_of(&root, &|path| fs::read_to_string(path).ok()).expect("the crate can be read");
        (crates, modules, uses) = (crates + 1, modules + found.modules, uses + found.uses);
        let root = root.strip_prefix(&repository).expect("it lies in the repository").display();
        cycles.extend(found.cycles.iter().map(|cycle| format!("{root}, {cycle}")));
    }
    println!("{crates} crates, {modules} modules, {uses} uses of one by another");
    assert!(crates >= 15 && modules >= 400 && uses >= 1_000, "too little was found to say anything");
    assert!(
        cycles.is_empty(),
        "modules use one another in a cycle (move what they share to a module that both can see):\n{}",
        cycles.join("\n")
    );
}
