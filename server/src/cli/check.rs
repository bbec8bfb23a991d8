//! `synod check`: every checksum of a data directory, offline.
//!
//! Owns how damage is told. Must never change a byte of the directory, or look at one that a process uses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use synod_cluster::ids::ShardId;
use synod_engine::check::{self, Report, check, is_snapshot};
use synod_engine::clock::wall_us;
use synod_engine::worker::AHEAD_US;

use super::context::Context;
use super::error::{CliError, Result};
use crate::node::data_dir::DataDir;

/// `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The node's data directory
    data_dir: PathBuf,
}

#[derive(Serialize)]
struct Damage {
    what: String,
    why: String,
}

/// What was looked at, and what is wrong.
#[derive(Serialize)]
struct Checked {
    data_dir: String,
    groups: u64,
    entries: u64,
    rows: u64,
    snapshots: u64,
    damages: Vec<Damage>,
    notes: Vec<Damage>,
    unlisted: u64,
}

/// Runs `check`.
pub fn run(context: &mut Context, args: &CheckArgs) -> Result<()> {
    let failed = |error: anyhow::Error| CliError::failed("not_checked", format!("{error:#}"));
    let data = DataDir::open_existing(&args.data_dir).map_err(failed)?;
    let mut files = Vec::new();
    for folder in ["built", "fetched"] {
        files.extend(snapshots(&data.snapshots().join(folder)));
    }
    let Report { groups, entries, rows, snapshots, times, damages, notes, unlisted } =
        check(&data.log(), &data.state(), &files);
    let told = |list: Vec<check::Damage>| list.into_iter().map(|d| Damage { what: d.what, why: d.why }).collect();
    let (damages, mut notes): (Vec<Damage>, Vec<Damage>) = (told(damages), told(notes));
    let now = wall_us();
    notes.extend(times.into_iter().filter_map(|(shard, time)| ahead(shard, time, now)));
    let count = damages.len() as u64 + unlisted;
    let data_dir = args.data_dir.display().to_string();
    let checked = Checked { data_dir, groups, entries, rows, snapshots, damages, notes, unlisted };
    context.out.value(&checked, as_text)?;
    if count == 0 {
        return Ok(());
    }
    let message = format!("{}: {count} damaged", checked.data_dir);
    Err(CliError::failed("damaged", message).with("data_dir", checked.data_dir).with("damages", count))
}

/// No date has a longer year, µs since 1970.
const YEAR_10000: u64 = 253_402_300_800_000_000;

/// What is said of a shard whose time is far ahead of this machine's clock.
fn ahead(shard: ShardId, time_us: u64, now_us: u64) -> Option<Damage> {
    let by = time_us.checked_sub(now_us).filter(|by| *by > AHEAD_US)?;
    let time = if time_us < YEAR_10000 {
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_micros(time_us)).to_string()
    } else {
        format!("{time_us} µs")
    };
    let by = humantime::format_duration(Duration::from_secs(by / 1_000_000));
    let why = format!(
        "its time is {time}, {by} ahead of this machine's clock: the clocks of a majority of its nodes were ahead once, or this \
         one is behind. It takes writes all the same, and its timestamps go on from there"
    );
    Some(Damage { what: format!("shard {shard}"), why })
}

fn snapshots(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_snapshot(path)).collect();
    files.sort();
    files
}

fn as_text(checked: &Checked) -> Vec<String> {
    let mut lines: Vec<String> = checked.damages.iter().map(|d| format!("damaged {}: {}", d.what, d.why)).collect();
    lines.extend(checked.notes.iter().map(|d| format!("note on {}: {}", d.what, d.why)));
    if checked.unlisted > 0 {
        lines.push(format!("and {} more", checked.unlisted));
    }
    let Checked { data_dir, groups, entries, rows, snapshots, .. } = checked;
    lines.push(format!(
        "{data_dir}: {groups} groups, {entries} log entries, {rows} rows, {snapshots} snapshots verified"
    ));
    lines
}
