//! Writes a copy of the product in which every guard asks whether it is the one to be bent.
//!
//! Owns: the text that is put around a guard, and the module that decides. Must never: write into the tree it copies from.

use crate::sites::{Site, find};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is mutated, and how code there names the module that decides.
const SOURCES: [(&str, &str); 5] = [
    ("engine/paxos/src", "crate"),
    ("engine/src/sessions.rs", "synod_paxos"),
    ("engine/src/machine.rs", "synod_paxos"),
    ("engine/src/machine", "synod_paxos"),
    ("engine/src/shard/apply.rs", "synod_paxos"),
];

/// Not guards of the product: checks of its own sums, and the faults that other builds hold.
const LEFT_OUT: [&str; 5] = ["planted.rs", "canonical.rs", "invariants.rs", "tests.rs", "lib.rs"];

/// Where the module that decides goes.
const DECIDES: &str = "engine/paxos/src/mutant.rs";
/// The module that decides. Read once a process: a mutant is a process of its own.
const MODULE: &str = r#"//! Which guard is bent in this process: `SYNOD_MUTANT`, a number; none where it is not set.
use std::sync::LazyLock;

static BENT: LazyLock<u32> =
    LazyLock::new(|| std::env::var("SYNOD_MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX));

/// The value of a guard whose mutants are `id` (true) and `id + 1` (false).
#[inline]
pub fn leaf(id: u32, value: bool) -> bool {
    let bent = *BENT;
    if bent == id { true } else if bent == id + 1 { false } else { value }
}

/// The same with a third mutant, `id + 2`: its bound moved by one.
#[inline]
pub fn bound(id: u32, value: bool, shifted: bool) -> bool {
    if *BENT == id + 2 { shifted } else { leaf(id, value) }
}
"#;

/// One change of one guard.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// What `SYNOD_MUTANT` selects it by; good for one copy only.
    pub id: u32,
    /// The name of its guard and what it becomes: stable across edits elsewhere.
    pub name: String,
    /// Whether the core holds it; else the engine does.
    pub core: bool,
}

/// Copies what git tracks of `from` to `to` with its guards rewritten. Files that came out the same keep their time, so that a
/// build of the copy begins where the last one ended. Returns the mutants.
///
/// # Errors
/// A file cannot be read, parsed or written.
pub fn write(from: &Path, to: &Path) -> Result<Vec<Mutant>> {
    let listed = Command::new("git").arg("-C").arg(from).args(["ls-files", "-z"]).output().context("git ls-files")?;
    if !listed.status.success() {
        bail!("git ls-files of {}: {}", from.display(), String::from_utf8_lossy(&listed.stderr).trim());
    }
    let mut mutants = Vec::new();
    let mut files: Vec<&str> = std::str::from_utf8(&listed.stdout)?.split('\0').filter(|f| !f.is_empty()).collect();
    files.sort_unstable();
    let mut kept: BTreeSet<PathBuf> = files.iter().map(|file| to.join(file)).collect();
    kept.insert(to.join(DECIDES));
    remove_others(to, &kept)?;
    for file in files {
        let Ok(mut content) = fs::read(from.join(file)) else { continue };
        if let Some(home) = home(file) {
            let text = String::from_utf8(content).with_context(|| file.to_owned())?;
            let sites = find(file, &text).with_context(|| format!("{file} does not parse"))?;
            content = rewritten(&text, &sites, home, home == "crate", &mut mutants).into_bytes();
        }
        if file == "engine/paxos/src/lib.rs" {
            content.extend_from_slice(b"\n#[allow(missing_docs)]\npub mod mutant;\n");
        }
        put(&to.join(file), &content)?;
    }
    put(&to.join(DECIDES), MODULE.as_bytes())?;
    Ok(mutants)
}

/// Removes what an earlier copy holds and this one does not: a test file would be compiled still.
fn remove_others(dir: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// How a source that is mutated names the deciding module's crate; `None`: it is copied as it is.
fn home(file: &str) -> Option<&'static str> {
    let name = file.rsplit('/').next()?;
    if !file.ends_with(".rs") || LEFT_OUT.contains(&name) || file.contains("/tests/") {
        return None;
    }
    SOURCES.iter().find(|(path, _)| file == *path || file.starts_with(&format!("{path}/"))).map(|(_, home)| *home)
}

fn put(path: &PathBuf, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// The text with each guard wrapped; its mutants are numbered on from those there are.
fn rewritten(text: &str, sites: &[Site], home: &str, core: bool, mutants: &mut Vec<Mutant>) -> String {
    // Insertions by place. At one place an inner end comes before an outer one, and an outer start before an inner one:
    // sites are sorted so that outer ones come first.
    let mut starts: Vec<(usize, String)> = Vec::new();
    let mut ends: Vec<(usize, usize, String)> = Vec::new();
    for (order, site) in sites.iter().enumerate() {
        let id = u32::try_from(mutants.len()).unwrap_or(u32::MAX - 8);
        let mut add = |what: &str| {
            let id = u32::try_from(mutants.len()).unwrap_or(u32::MAX);
            mutants.push(Mutant { id, name: format!("{} → {what}", site.name), core });
        };
        add("true");
        add("false");
        match &site.shifted {
            Some(shifted) => {
                add(shifted);
                starts.push((site.range.start, format!("{home}::mutant::bound({id}, ")));
                ends.push((site.range.end, order, format!(", {shifted})")));
            }
            None => {
                starts.push((site.range.start, format!("{home}::mutant::leaf({id}, ")));
                ends.push((site.range.end, order, ")".into()));
            }
        }
    }
    ends.sort_by_key(|(at, order, _)| (*at, std::cmp::Reverse(*order)));
    let mut out = String::with_capacity(text.len() * 2);
    let (mut start, mut end) = (starts.into_iter().peekable(), ends.into_iter().peekable());
    for (at, c) in text.char_indices() {
        while let Some((_, _, suffix)) = end.next_if(|(place, ..)| *place == at) {
            out.push_str(&suffix);
        }
        while let Some((_, prefix)) = start.next_if(|(place, _)| *place == at) {
            out.push_str(&prefix);
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_guards_are_wrapped_from_the_inside() {
        let text = "fn f(v: &[u8]) -> bool { v.len() > 1 && v.iter().any(|x| *x == 1) }\n";
        let sites = find("f.rs", text).unwrap();
        let mut mutants = Vec::new();
        let out = rewritten(text, &sites, "crate", true, &mut mutants);
        assert_eq!(
            out,
            "fn f(v: &[u8]) -> bool { crate::mutant::bound(0, v.len() > 1, v.len() >= 1) && \
             crate::mutant::leaf(3, v.iter().any(|x| crate::mutant::leaf(5, *x == 1))) }\n"
        );
        assert_eq!(mutants.len(), 7);
        assert_eq!(mutants[2].name, "f.rs f: v.len() > 1 → v.len() >= 1");
        assert!(syn::parse_file(&out).is_ok());
    }

    #[test]
    fn files_of_an_earlier_copy_go() {
        let dir = std::env::temp_dir().join(format!("synod-mutants-{}", std::process::id()));
        fs::create_dir_all(dir.join("tests")).unwrap();
        let (old, new) = (dir.join("tests/old.rs"), dir.join("tests/new.rs"));
        fs::write(&old, "").unwrap();
        fs::write(&new, "").unwrap();
        remove_others(&dir, &BTreeSet::from([new.clone()])).unwrap();
        assert_eq!((old.exists(), new.exists()), (false, true));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_mutated_is_named() {
        assert_eq!(home("engine/paxos/src/leader.rs"), Some("crate"));
        assert_eq!(home("engine/src/machine/overlay.rs"), Some("synod_paxos"));
        assert_eq!(home("engine/src/machine.rs"), Some("synod_paxos"));
        let tests = ["engine/src/machine/tests.rs", "engine/src/machine/tests/bench.rs"];
        for other in tests.into_iter().chain(["engine/src/worker.rs", "engine/paxos/src/protocol.md"]) {
            assert_eq!(home(other), None, "{other}");
        }
    }
}
