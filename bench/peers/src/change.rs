//! Two binaries of Synod beside each other, the older one twice.
//!
//! Owns: the turns in which their clusters are measured, and the judgement of the ratios. Must never: measure two clusters at
//! once, or judge a turn in which the machine was taken away.
//!
//! The older binary's second cluster is the control: what its ratios show is the noise of this machine, not the change.

use std::path::{Path, PathBuf};

use serde::Serialize;
use synod_bench::Halt;

use crate::drive::{Plan, preload};
use crate::machine::Ticks;
use crate::measure::{Figures, Measured, measure};
use crate::plan::Cell;
use crate::summary::rate;
use crate::systems::{Place, Running, System};
use crate::{PeersError, Result};

/// Of processor time, the share that other machines took, above which a turn is not judged.
const STOLEN_MOST: f64 = 0.05;
/// A rate is missed where the whole interval of its ratio lies below.
const RATE_LEAST: f64 = 0.95;
/// Processor time an operation is missed where the whole interval of its ratio lies above.
const CPU_MOST: f64 = 1.03;
/// How sure an interval is to hold the true median.
const CONFIDENCE: f64 = 0.9;

/// The clusters, in the order of their ports.
const CLUSTERS: [&str; 3] = ["new", "old", "control"];

/// The median of some ratios, and where the true one lies with 90 % certainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The middle one; of an even number the mean of the two.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Ratio {
    /// Of these, unless there is none. The interval lies between two order statistics and needs no assumption of how ratios are
    /// spread (David and Nagaraja, *Order Statistics*, 3rd edition, section 7.1); of fewer than five it is all of them.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Ratio> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let (first, last) = (values.get(n.checked_sub(1)? / 2)?, values.get(n / 2)?);
        let rank = rank(n);
        Some(Ratio { median: f64::midpoint(*first, *last), low: values[rank], high: values[n - 1 - rank] })
    }
}

/// How many of `n` values lie outside the interval at each end: the most for which the median is inside with 90 % certainty.
fn rank(n: usize) -> usize {
    let mut below = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut term = below;
    let mut rank = 0;
    while 2.0 * below <= 1.0 - CONFIDENCE && 2 * (rank + 1) < n {
        rank += 1;
        term *= (n - rank + 1) as f64 / rank as f64;
        below += term;
    }
    rank.saturating_sub(1)
}

/// What is said of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No bound is missed.
    Holds,
    /// The rate fell.
    Slower,
    /// An operation takes more processor time.
    Dearer,
    /// Nothing could be judged.
    Unknown,
}

/// A cell's turns.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The cell's name.
    pub name: String,
    /// Turns that are judged.
    pub turns: usize,
    /// Turns in which other machines took more than 5 % of the time.
    pub stolen: usize,
    /// How turns ended that did not end in order.
    pub marked: Vec<String>,
    /// The older binary's median rate.
    pub old_rate: Option<Ratio>,
    /// Rates, the newer's over the older's.
    pub rate: Option<Ratio>,
    /// Rates, the control's over the older's.
    pub control: Option<Ratio>,
    /// 99 % latencies, the newer's over the older's.
    pub p99: Option<Ratio>,
    /// Processor time of the servers an operation, the newer's over the older's.
    pub cpu: Option<Ratio>,
    /// The same of the control's.
    pub control_cpu: Option<Ratio>,
    /// What is said of it.
    pub verdict: Verdict,
}

/// One turn: each cluster's figures, in the order of `CLUSTERS`, and the share of the time that was stolen.
#[derive(Clone, Debug)]
pub struct Turn {
    figures: [std::result::Result<Figures, String>; 3],
    stolen: f64,
}

/// Puts the turns of a cell together.
#[must_use]
pub fn compare(cell: &Cell, turns: &[Turn]) -> Compared {
    let calm: Vec<&Turn> = turns.iter().filter(|turn| turn.stolen <= STOLEN_MOST).collect();
    let sound: Vec<[&Figures; 3]> = calm.iter().filter_map(|turn| all(&turn.figures)).collect();
    let ratio = |which: usize, pick: &dyn Fn(&Figures) -> f64| {
        Ratio::of(sound.iter().map(|each| pick(each[which]) / pick(each[1])).collect())
    };
    let (rates, cpu) = (|f: &Figures| rate(cell, f), |f: &Figures| f.cost.servers_us);
    let (new_rate, new_cpu) = (ratio(0, &rates), ratio(0, &cpu));
    let verdict = match (new_rate, new_cpu) {
        (Some(rate), _) if rate.high < RATE_LEAST => Verdict::Slower,
        (_, Some(cpu)) if cpu.low > CPU_MOST => Verdict::Dearer,
        (Some(_), Some(_)) => Verdict::Holds,
        _ => Verdict::Unknown,
    };
    let marked = calm.iter().flat_map(|turn| turn.figures.iter().zip(CLUSTERS));
    Compared {
        name: cell.name(),
        turns: sound.len(),
        stolen: turns.len() - calm.len(),
        marked: marked.filter_map(|(f, name)| f.as_ref().err().map(|why| format!("{name}: {why}"))).collect(),
        old_rate: Ratio::of(sound.iter().map(|each| rates(each[1])).collect()),
        rate: new_rate,
        control: ratio(2, &rates),
        p99: ratio(0, &|f| f.p99_us as f64),
        cpu: new_cpu,
        control_cpu: ratio(2, &cpu),
        verdict,
    }
}

fn all(figures: &[std::result::Result<Figures, String>; 3]) -> Option<[&Figures; 3]> {
    let [Ok(new), Ok(old), Ok(control)] = figures else { return None };
    Some([new, old, control])
}

/// Measures all cells of `plan`, `plan.repeats` turns each.
///
/// # Errors
/// A cluster does not start.
pub async fn run(plan: &Plan, old: &Path, new: &Path, halt: &Halt) -> Result<Vec<Compared>> {
    let programs: [PathBuf; 3] = [new.into(), old.into(), old.into()];
    let mut shardings: Vec<Option<u32>> = Vec::new();
    plan.cells.iter().for_each(|cell| {
        if !shardings.contains(&cell.shards) {
            shardings.push(cell.shards);
        }
    });
    let mut found = Vec::new();
    for shards in shardings {
        let mut clusters = Vec::new();
        for (n, program) in programs.iter().enumerate() {
            let place = place(plan, n, program, shards.unwrap_or(plan.shards))?;
            clusters.push(Running::start(System::Synod, place).await?);
        }
        for cell in plan.cells.iter().filter(|cell| cell.shards == shards) {
            let turns = turns(plan, cell, &mut clusters, halt).await?;
            let compared = compare(cell, &turns);
            println!("{}", line(&compared));
            found.push(compared);
            if halt.halted() {
                break;
            }
        }
        clusters.into_iter().for_each(Running::stop);
        if halt.halted() {
            break;
        }
    }
    Ok(found)
}

fn place(plan: &Plan, n: usize, program: &Path, shards: u32) -> Result<Place> {
    let mut place = plan.place(System::Synod, program, shards)?;
    place.dir = plan.data.join(CLUSTERS[n]);
    // Left by a run that was killed.
    let _ = std::fs::remove_dir_all(&place.dir);
    std::fs::create_dir_all(&place.dir).map_err(|error| PeersError::io(place.dir.display(), &error))?;
    place.port += 100 * n as u16;
    Ok(place)
}

/// A cell's turns; whose cluster is first goes round, so that what one leaves behind (dirty pages, a warm cache) meets all.
async fn turns(plan: &Plan, cell: &Cell, clusters: &mut [Running], halt: &Halt) -> Result<Vec<Turn>> {
    for running in clusters.iter_mut().filter(|_| !cell.appends()) {
        preload(plan, running, cell, halt).await.map_err(|why| PeersError::io("the keys cannot be written", &why))?;
    }
    let mut turns = Vec::new();
    for n in 0..plan.repeats {
        let before = Ticks::now();
        let mut figures = [const { None }; 3];
        for which in (0..3).map(|k| (k + n as usize) % 3) {
            let spec = cell.spec(&plan.run, None)?;
            let measured = measure(&mut clusters[which], cell, spec, n + 1, halt).await;
            figures[which] = Some(outcome(measured));
        }
        if halt.halted() {
            break;
        }
        let figures = figures.map(|f| f.unwrap_or_else(|| Err("not measured".into())));
        turns.push(Turn { figures, stolen: Ticks::now().stolen_since(before) });
    }
    Ok(turns)
}

fn outcome(measured: Measured) -> std::result::Result<Figures, String> {
    let why = format!("{:?}", measured.end);
    measured.sound().cloned().ok_or(why)
}

/// A cell in a line.
#[must_use]
pub fn line(compared: &Compared) -> String {
    let Compared { name, turns, stolen, old_rate, rate, control, p99, cpu, control_cpu, verdict, .. } = compared;
    let ratio = |r: &Option<Ratio>| r.map_or("–".into(), |r| format!("{:.3} [{:.3}–{:.3}]", r.median, r.low, r.high));
    let old = old_rate.map_or("–".into(), |r| format!("{:.0}/s", r.median));
    let rest = compared.marked.first().map_or(String::new(), |why| format!("  NOT IN ORDER: {why}"));
    format!(
        "{name:<28} {old:>10}  rate {} (control {})  p99 {}  cpu {} (control {})  {turns} turns, {stolen} stolen: {verdict:?}{rest}",
        ratio(rate),
        ratio(control),
        ratio(p99),
        ratio(cpu),
        ratio(control_cpu)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::End;
    use crate::summary::tests::measured;

    fn figures(ops_per_s: f64, servers_us: f64) -> std::result::Result<Figures, String> {
        let mut figures = measured(System::Synod, 1, ops_per_s, End::Done).figures.unwrap();
        figures.cost.servers_us = servers_us;
        Ok(figures)
    }

    fn turn(new: f64, cpu: f64, stolen: f64) -> Turn {
        Turn { figures: [figures(new, cpu), figures(100.0, 50.0), figures(101.0, 50.0)], stolen }
    }

    fn verdict(turns: &[Turn]) -> Verdict {
        compare(&Cell::closed("put", 64, 256), turns).verdict
    }

    #[test]
    fn an_interval_holds_the_median_nine_times_of_ten() {
        // P(Bin(12, 1/2) <= 2) = 0.0193, and <= 3 0.073: the third to the tenth of twelve.
        assert_eq!((rank(12), rank(20), rank(5), rank(4), rank(1)), (2, 5, 0, 0, 0));
        let ratio = Ratio::of((1..=12).map(f64::from).collect()).unwrap();
        assert_eq!(ratio, Ratio { median: 6.5, low: 3.0, high: 10.0 });
        assert_eq!(Ratio::of(vec![]), None);
    }

    #[test]
    fn a_bound_is_missed_where_the_whole_interval_lies_beyond() {
        let turns = |news: [f64; 12], cpu: f64| news.map(|new| turn(new, cpu, 0.0));
        let even = [94.0, 93.0, 96.0, 92.0, 94.0, 96.0, 93.0, 96.0, 94.0, 92.0, 93.0, 94.0];
        assert_eq!(verdict(&turns(even, 50.0)), Verdict::Holds);
        assert_eq!(verdict(&turns([94.0; 12], 50.0)), Verdict::Slower);
        assert_eq!(verdict(&turns([100.0; 12], 51.0)), Verdict::Holds);
        assert_eq!(verdict(&turns([100.0; 12], 52.0)), Verdict::Dearer);
        assert_eq!(verdict(&[]), Verdict::Unknown);
    }

    #[test]
    fn turns_without_the_machine_are_told_and_not_judged() {
        let turns = [turn(100.0, 50.0, 0.0), turn(10.0, 500.0, 0.3)];
        let compared = compare(&Cell::closed("put", 64, 256), &turns);
        assert_eq!((compared.turns, compared.stolen, compared.verdict), (1, 1, Verdict::Holds));
        assert_eq!(compared.control.map(|r| r.median), Some(1.01));
        let broken = Turn { figures: [Err("node 2 ended".into()), figures(1.0, 1.0), figures(1.0, 1.0)], stolen: 0.0 };
        let compared = compare(&Cell::closed("put", 64, 256), &[broken]);
        assert_eq!((compared.verdict, &compared.marked[..]), (Verdict::Unknown, &["new: node 2 ended".to_owned()][..]));
    }
}
