//! Bends every guard of the consensus core, the sessions and the apply path, one at a time, and asks the tests.
//!
//! A copy of the product is written in which each guard asks whether it is the bent one (`rewrite`); it is built once, and
//! every mutant is a run of the same programs under another `SYNOD_MUTANT` (`suites`). A mutant that passes golden scripts,
//! explorer and simulation shows what no test looks at.

mod report;
mod rewrite;
mod sites;
mod suites;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use report::{MISSED, Results};
use rewrite::Mutant;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;
use suites::{Suite, Verdict};

#[derive(Parser)]
#[command(
    about = "Bends every guard of the core, the sessions and the apply path, one at a time: the tests must notice"
)]
struct Args {
    /// The product's tree.
    #[arg(long, default_value = ".")]
    from: PathBuf,
    /// Where the rewritten copy goes; kept, so that the next build is short.
    #[arg(long)]
    tree: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Writes the copy and lists the mutants.
    List,
    /// Runs the mutants that were not run yet, and prints the score.
    Run {
        /// Results are added to this file, and those it holds are not run again.
        #[arg(long)]
        results: PathBuf,
        /// Runs every Nth mutant only.
        #[arg(long, default_value_t = 1)]
        every: usize,
        /// Only mutants whose name contains this.
        #[arg(long, default_value = "")]
        only: String,
        /// Mutants at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mutants = rewrite::write(&args.from, &args.tree)?;
    match &args.what {
        What::List => {
            mutants.iter().for_each(|mutant| println!("{}", mutant.name));
            println!("{} mutants", mutants.len());
            Ok(())
        }
        What::Run { results, every, only, jobs } => {
            let list = args.from.join("tests/mutants/equivalent.txt");
            let text = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
            let equivalents = report::equivalents(&text)?;
            let suites = suites::build(&args.tree)?;
            let chosen: Vec<&Mutant> =
                mutants.iter().filter(|m| m.name.contains(only.as_str())).step_by((*every).max(1)).collect();
            let known = run(&args.tree, &suites, &chosen, results, *jobs)?;
            let good = report::score(chosen.iter().map(|m| m.name.as_str()), &known, &equivalents);
            std::process::exit(i32::from(!good));
        }
    }
}

/// Runs those of `chosen` that `path` has no result of, several at a time.
fn run(tree: &Path, suites: &[Suite], chosen: &[&Mutant], path: &Path, jobs: usize) -> Result<Results> {
    let known = report::read(path)?;
    let mut left: Vec<&Mutant> = chosen.iter().copied().filter(|m| !known.contains_key(&m.name)).collect();
    left.reverse();
    println!("{} mutants, {} to run", chosen.len(), left.len());
    let (left, known, began) = (Mutex::new(left), Mutex::new(known), Instant::now());
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let next = left.lock().expect("no worker panics").pop();
                let Some(mutant) = next else { return Ok(()) };
                let result = judge(tree, suites, mutant)?;
                let mut known = known.lock().expect("no worker panics");
                report::add(path, &mutant.name, &result)?;
                println!("{:7.0} s {result:12} {}", began.elapsed().as_secs_f64(), mutant.name);
                known.insert(mutant.name.clone(), result);
            }
        };
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(known.into_inner().expect("no worker panics"))
}

/// The first suite that notices.
fn judge(tree: &Path, suites: &[Suite], mutant: &Mutant) -> Result<String> {
    for suite in suites.iter().filter(|suite| suite.sees(mutant.core)) {
        match suite.run(tree, Some(mutant.id))? {
            Verdict::Missed => {}
            Verdict::Found => return Ok(suite.name.into()),
            Verdict::TimedOut => return Ok(format!("{} (no end)", suite.name)),
        }
    }
    Ok(MISSED.into())
}
