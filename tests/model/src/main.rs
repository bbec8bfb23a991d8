//! Searches models, each to its end: `synod-model [--bfs] [--minutes N] [NAME[:BUDGET] …]`; all the long ones where none is
//! named. A model that does not end within its time or 8 GiB is reported as not complete, and the exit code is 1.
//!
//! `NAME:BUDGET` changes a model's bounds: `crash:e=2,p=0` has two elections and no proposal. Letters: e elections, p
//! proposals, c crashes, t ticks, d peers given up, x links cut, r membership changes, s 1 for partial syncs.

use std::process::Command;
use std::time::Duration;
use synod_model::bounds::{LONG, named};
use synod_model::report::{How, search};

fn main() {
    let mut how = How::default();
    let mut options = Vec::new();
    let mut names = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bfs" => how.shortest = true,
            "--minutes" => {
                let minutes = args.next().unwrap_or_default();
                let Ok(number) = minutes.parse::<u64>() else { usage(&format!("--minutes {minutes}")) };
                how.limit = Duration::from_secs(number * 60);
                options.extend([arg, minutes]);
                continue;
            }
            name if named(name).is_some() => names.push(name.to_owned()),
            other => usage(other),
        }
        if arg == "--bfs" {
            options.push(arg);
        }
    }
    if names.is_empty() {
        names.extend(LONG.iter().map(|name| (*name).to_owned()));
    }
    let all_hold = match &names[..] {
        [name] => one(name, how),
        // A process each: what one took of memory is not another's. All are run, whatever one gives.
        several => several.iter().filter(|name| !apart(name, &options)).count() == 0,
    };
    std::process::exit(i32::from(!all_hold));
}

fn one(name: &str, how: How) -> bool {
    let Some(bounds) = named(name) else { usage(name) };
    println!("{name}: {:?}", bounds.budget);
    let found = search(bounds, how);
    print!("{}", found.table());
    found.complete && found.missing.is_empty()
}

fn apart(name: &str, options: &[String]) -> bool {
    let myself = std::env::current_exe().expect("a running program has a path");
    let ended = Command::new(myself).args(options).arg(name).status();
    ended.expect("a program that runs can be run again").success()
}

fn usage(what: &str) -> ! {
    eprintln!(
        "synod-model: {what:?} is no model and no option; usage: synod-model [--bfs] [--minutes N] [NAME[:BUDGET] …]"
    );
    std::process::exit(2);
}
