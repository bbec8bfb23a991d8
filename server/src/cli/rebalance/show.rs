//! Plans and figures, as people read them.
//!
//! Owns: their tables and lines. Must never: ask anybody anything.

use super::file::{Figures, PlanFile, Planned, What};
use crate::cli::output::text;

/// A plan, in lines.
pub fn plan(plan: &PlanFile) -> Vec<String> {
    let mut lines = vec![match plan.operations.len() {
        0 => "nothing is to be done".to_owned(),
        count => format!("operations: {count}, at most {} at a time", plan.max_concurrent),
    }];
    if !plan.operations.is_empty() {
        let mut rows = text::table(&["#", "shard", "table", "what", "rule", "why", "predicted"]);
        for (number, planned) in (1_u32..).zip(&plan.operations) {
            let Planned { shard, table, rule, why, predicted, .. } = planned;
            rows.add_row([
                number.to_string(),
                shard.to_string(),
                table.as_ref().map_or_else(|| "(system)".to_owned(), |table| text::harmless(table)),
                planned.in_words(),
                text::harmless(rule),
                text::harmless(why),
                format!("{} -> {} {}", predicted.before, predicted.after, text::harmless(&predicted.what)),
            ]);
        }
        lines.extend(text::lines(&rows));
    }
    if plan.operations.iter().any(|planned| planned.change == What::Add) {
        lines.push("adding a voter is not carried out yet: such operations are only shown".to_owned());
    }
    lines.extend(plan.refused.iter().map(|why| format!("cannot be planned: {}", text::harmless(why))));
    lines.extend(silent(plan));
    lines.extend(figures(("now", &plan.before), ("then", &plan.after)));
    lines
}

/// The nodes that said nothing, where there are some.
pub fn silent(plan: &PlanFile) -> Option<String> {
    let nodes = text::list(&plan.silent);
    (!plan.silent.is_empty()).then(|| format!("nodes {nodes} did not answer: what they lead was not seen"))
}

/// The figures of a cluster at two moments.
pub fn figures((one, before): (&str, &Figures), (other, after): (&str, &Figures)) -> Vec<String> {
    let mut rows = text::table(&["placement", one, other]);
    let percent = |percent: u64| if percent == 0 { "-".to_owned() } else { format!("{percent} %") };
    type Figure = fn(&Figures) -> u64;
    let counts: [(&str, Figure); 4] = [
        ("shards", |figures| figures.shards),
        ("voters lost or missing", |figures| figures.lost),
        ("pairs of voters in one zone", |figures| figures.zone_pairs),
        ("replicas on nodes being emptied", |figures| figures.marked),
    ];
    for (name, figure) in counts {
        rows.add_row([name.to_owned(), figure(before).to_string(), figure(after).to_string()]);
    }
    let most: [(&str, Figure); 4] = [
        ("most bytes, of the mean", |figures| figures.bytes_percent),
        ("most replicas, of the mean", |figures| figures.replicas_percent),
        ("most leaderships, of the mean", |figures| figures.leaders_percent),
        ("most load, of the mean", |figures| figures.load_percent),
    ];
    for (name, figure) in most {
        rows.add_row([name.to_owned(), percent(figure(before)), percent(figure(after))]);
    }
    text::lines(&rows)
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::plan as example;
    use super::*;

    #[test]
    fn a_plan_says_what_why_and_what_it_changes() {
        let shown = plan(&PlanFile { silent: vec![2], ..example() });
        let has = |words: &[&str]| shown.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(shown[0].contains("operations: 5, at most 4"), "{shown:?}");
        assert!(
            has(&["(system)", "move the replica of node 1 to node 4", "133 -> 110 percent of the mean"]),
            "{shown:?}"
        );
        assert!(has(&["let node 2 lead", "size balance", "node 1 has 133 %"]), "{shown:?}");
        assert!(has(&["cannot be planned: no room"]) && has(&["nodes", "2", "did not answer"]), "{shown:?}");
        assert!(has(&["most replicas", "133 %", "-"]) && has(&["not carried out yet"]), "{shown:?}");
    }

    #[test]
    fn a_plan_of_nothing_says_so() {
        let nothing = PlanFile { operations: vec![], refused: vec![], ..example() };
        assert_eq!(plan(&nothing)[0], "nothing is to be done");
    }
}
