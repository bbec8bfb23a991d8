//! `make campaign NAME=… REPEATS=…`: fault campaigns against the real binary.
//!
//! Owns: the command line. Must never: report a campaign that was skipped as passed.

use std::path::PathBuf;
use std::process::ExitCode;

use synod_tests::campaign::{CAMPAIGNS, run};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let repeats = match args.next().map_or(Ok(10), |text| text.parse()) {
        Ok(repeats) if repeats > 0 => repeats,
        _ => return usage("the number of repeats is 1 or more"),
    };
    let names: Vec<&str> = match name.as_str() {
        "" => return usage("no campaign was named"),
        "all" => CAMPAIGNS.iter().map(|(name, ..)| *name).collect(),
        name => vec![name],
    };
    let artefacts = PathBuf::from(std::env::var_os("SYNOD_ARTEFACTS").unwrap_or_else(|| "campaign-artefacts".into()));
    let mut failed = false;
    for name in names {
        match run(name, repeats, &artefacts, |line| eprintln!("{line}")) {
            Ok(report) => {
                println!("{report}");
                failed |= !report.failures.is_empty();
            }
            Err(why) if why.starts_with("skipped") => println!("{name}: {why}\n"),
            Err(why) => {
                println!("{name}: FAILED: {why}\n");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("campaign: {why}\nusage: campaign NAME|all [REPEATS]");
    CAMPAIGNS.iter().for_each(|(name, _, what)| eprintln!("  {name:<12} {what}"));
    ExitCode::from(2)
}
