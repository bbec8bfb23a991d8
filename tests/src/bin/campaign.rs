//! `make campaign NAME=… REPEATS=…`: fault campaigns against the real binary.
//!
//! Owns: the command line, and the summary of several. Must never: report a campaign that was skipped as passed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{fs, io};

use synod_tests::campaign::{CAMPAIGNS, Campaign, find, isolate, row, run};

/// Without a number of one's own.
const REPEATS: usize = 10;
/// The exit code of a campaign that was skipped.
const SKIPPED: i32 = 77;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut words = args.iter().map(String::as_str).peekable();
    let long = words.next_if_eq(&"--long").is_some();
    let Some(name) = words.next().filter(|name| !name.is_empty()) else { return usage("no campaign was named") };
    let repeats = match words.next().map(str::parse::<usize>) {
        None => None,
        Some(Ok(repeats)) if repeats > 0 => Some(repeats),
        Some(_) => return usage("the number of repeats is 1 or more"),
    };
    let artefacts = PathBuf::from(std::env::var_os("SYNOD_ARTEFACTS").unwrap_or_else(|| "campaign-artefacts".into()));
    let turns = |campaign: &Campaign| repeats.unwrap_or(if long { campaign.repeats } else { REPEATS });
    if name == "all" {
        return all(&artefacts, turns);
    }
    match find(name) {
        Ok(campaign) => one(campaign, turns(campaign), &artefacts),
        Err(why) => usage(&why),
    }
}

/// One campaign, and its row.
fn one(campaign: &Campaign, repeats: usize, artefacts: &Path) -> ! {
    let began = Instant::now();
    let ran = isolate(campaign).and_then(|()| run(campaign.name, repeats, artefacts, |line| eprintln!("{line}")));
    let (line, code) = match ran {
        Ok(report) => {
            println!("{report}");
            (report.row(), i32::from(!report.failures.is_empty()))
        }
        Err(why) => {
            let skipped = why.starts_with("skipped");
            let result = if skipped { why } else { format!("FAILED: {why}") };
            println!("{}: {result}\n", campaign.name);
            (row(campaign.name, "0", "0", "", &result, began.elapsed()), if skipped { SKIPPED } else { 1 })
        }
    };
    if let Err(error) = note(&row_path(artefacts, campaign), &line) {
        eprintln!("campaign: its row cannot be written: {error}");
    }
    std::process::exit(code)
}

fn row_path(artefacts: &Path, campaign: &Campaign) -> PathBuf {
    artefacts.join("rows").join(campaign.name)
}

fn note(path: &Path, text: &str) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, format!("{text}\n"))
}

/// Each campaign in a process of its own, so that none ends with another; then their table.
fn all(artefacts: &Path, turns: impl Fn(&Campaign) -> usize) -> ExitCode {
    let Ok(program) = std::env::current_exe() else { return usage("this program has no path") };
    let mut table = "| campaign | turns | operations | pause p50, worst | result | time |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    let mut failed = false;
    for (number, campaign) in CAMPAIGNS.iter().enumerate() {
        eprintln!("campaign {} of {}: {}, {}", number + 1, CAMPAIGNS.len(), campaign.name, campaign.what);
        let path = row_path(artefacts, campaign);
        // One of an earlier run.
        let _ = fs::remove_file(&path);
        let began = Instant::now();
        let ended = Command::new(&program).args([campaign.name, &turns(campaign).to_string()]).status();
        let code = ended.as_ref().ok().and_then(std::process::ExitStatus::code);
        failed |= !matches!(code, Some(0) | Some(SKIPPED));
        let ended = || {
            let result = format!("FAILED: it ended without a report ({ended:?})");
            row(campaign.name, "0", "0", "", &result, began.elapsed()) + "\n"
        };
        table.push_str(&fs::read_to_string(&path).unwrap_or_else(|_| ended()));
    }
    println!("{table}");
    if let Err(error) = note(&artefacts.join("campaigns.md"), table.trim_end()) {
        eprintln!("campaign: the table cannot be written: {error}");
        failed = true;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("campaign: {why}\nusage: campaign [--long] NAME|all [REPEATS]");
    CAMPAIGNS.iter().for_each(|Campaign { name, what, .. }| eprintln!("  {name:<18} {what}"));
    ExitCode::from(2)
}
