//! What is known of each mutant, kept in a file so that a run that was interrupted goes on.
//!
//! Owns: the results file, the list of equivalent mutants and the score. Must never: count an equivalent mutant that a suite
//! finds, or one whose argument is missing.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Share of the mutants that are not equivalent, %, which must be found.
pub const LEAST_FOUND: f64 = 95.0;
/// Most mutants that may be called equivalent.
pub const MOST_EQUIVALENT: usize = 20;
/// The result of one that no suite found.
pub const MISSED: &str = "missed";

/// Results by mutant name: the suite that found it, or [`MISSED`].
pub type Results = BTreeMap<String, String>;

/// Reads what earlier runs found.
///
/// # Errors
/// The file cannot be read, or a line has no tab.
pub fn read(path: &Path) -> Result<Results> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Results::new()),
        other => other.with_context(|| path.display().to_string())?,
    };
    text.lines()
        .map(|line| {
            let (result, name) = line.split_once('\t').with_context(|| format!("{}: {line:?}", path.display()))?;
            Ok((name.to_owned(), result.to_owned()))
        })
        .collect()
}

/// Adds one result to the file.
///
/// # Errors
/// The file cannot be written.
pub fn add(path: &Path, name: &str, result: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{result}\t{name}").with_context(|| path.display().to_string())
}

/// The list of equivalent mutants: `NAME` on a line, its argument on indented lines below.
///
/// # Errors
/// A mutant has no argument, or there are too many.
pub fn equivalents(text: &str) -> Result<Vec<String>> {
    let mut names: Vec<(String, bool)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if line.starts_with(' ') {
            names.last_mut().context("an argument before the first mutant")?.1 = true;
        } else {
            names.push((line.to_owned(), false));
        }
    }
    if let Some((name, _)) = names.iter().find(|(_, argued)| !argued) {
        bail!("{name}: why is it equivalent?");
    }
    if names.len() > MOST_EQUIVALENT {
        bail!("{} mutants are called equivalent, {MOST_EQUIVALENT} may be", names.len());
    }
    Ok(names.into_iter().map(|(name, _)| name).collect())
}

/// Prints the score of `mutants`; whether it is good enough.
#[must_use]
pub fn score<'a>(mutants: impl Iterator<Item = &'a str>, results: &Results, equivalents: &[String]) -> bool {
    let mut by_suite: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut counted, mut found, mut unknown) = (0usize, 0usize, 0usize);
    let mut wrong = Vec::new();
    for name in mutants {
        let equivalent = equivalents.iter().any(|e| e == name);
        match results.get(name).map(String::as_str) {
            None => unknown += 1,
            Some(MISSED) if equivalent => {}
            Some(MISSED) => {
                counted += 1;
                println!("missed: {name}");
            }
            Some(suite) => {
                counted += 1;
                found += 1;
                *by_suite.entry(suite).or_default() += 1;
                if equivalent {
                    wrong.push(name);
                }
            }
        }
    }
    for (suite, number) in by_suite {
        println!("found by {suite}: {number}");
    }
    wrong.iter().for_each(|name| println!("called equivalent, but found: {name}"));
    #[allow(clippy::cast_precision_loss)]
    let share = found as f64 * 100.0 / counted.max(1) as f64;
    println!("{found} of {counted} found: {share:.1} %; {} called equivalent, {unknown} not run", equivalents.len());
    share >= LEAST_FOUND && wrong.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equivalent_mutant_needs_an_argument() {
        assert_eq!(equivalents("# why\na → true\n  because\n  so\n\nb → false\n  since\n").unwrap().len(), 2);
        assert!(equivalents("a → true\nb → false\n  since\n").is_err());
        let many: String = (0..21).map(|n| format!("m{n} → true\n  because\n")).collect();
        assert!(equivalents(&many).is_err());
    }

    #[test]
    fn what_is_missed_counts_and_what_was_not_run_does_not() {
        let results = |missed: usize| -> Results {
            (0..100).map(|n| (format!("m{n}"), if n < missed { MISSED.into() } else { "sim".to_owned() })).collect()
        };
        let names: Vec<String> = (0..120).map(|n| format!("m{n}")).collect();
        let good =
            |missed, equivalent: &[String]| score(names.iter().map(String::as_str), &results(missed), equivalent);
        assert!(good(5, &[]));
        assert!(!good(6, &[]));
        assert!(good(6, &["m0".into(), "m1".into()]));
        assert!(!good(0, &["m0".into()]), "an equivalent mutant that is found is not equivalent");
    }
}
