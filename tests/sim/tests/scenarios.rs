//! Single faults in an otherwise calm world: see `synod_sim::scenarios`.
//!
//! Owns: how many seeds of each an ordinary test makes. Must never: retry a seed that failed, or pass over one.
//!
//! `SYNOD_SIM_SEEDS=N` widens each, `SYNOD_SIM_FROM=S` begins at another seed, `SYNOD_SIM_SEED=S` runs one alone.

use synod_sim::scenarios::{self, Outcome};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs a scenario for `seeds` seeds, or as many as are asked for.
fn hold(name: &str, seeds: u64, scenario: impl Fn(u64) -> Outcome) {
    let range = match number("SYNOD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("SYNOD_SIM_FROM").unwrap_or(0);
            from..from + number("SYNOD_SIM_SEEDS").unwrap_or(seeds)
        }
    };
    for seed in range {
        match scenario(seed) {
            Ok(said) => println!("{name}: seed {seed}: {said}"),
            Err(violation) => panic!(
                "{name}: seed {seed} broke {violation}\nreplay: SYNOD_SIM_SEED={seed} cargo test --release --workspace --test \
                 scenarios {name} -- --nocapture"
            ),
        }
    }
}

#[test]
fn a_disk_that_hangs_loses_its_leaderships_though_its_network_lives() {
    hold("a_disk_that_hangs", 20, scenarios::hung_disk);
}

#[test]
fn a_worker_that_hangs_loses_its_leaderships_though_its_node_pulses_on() {
    hold("a_worker_that_hangs", 20, scenarios::hung_worker);
}

#[test]
fn a_killed_leader_is_replaced_at_once_and_a_silent_one_soon() {
    hold("a_killed_leader", 20, scenarios::leader_gone);
}

#[test]
fn a_leader_cut_off_is_replaced_and_answers_no_read_meanwhile() {
    hold("a_leader_cut_off", 20, scenarios::leader_cut_off);
}

#[test]
fn a_leader_that_was_paused_answers_no_read_by_its_old_lease() {
    hold("a_leader_that_was_paused", 20, |seed| scenarios::leader_paused(seed, false));
    // And only since a round's time is read behind the arrival of its inputs.
    let outlived = (0..20).any(|seed| scenarios::leader_paused(seed, true).is_err());
    assert!(outlived, "a lease that outlives a pause breaks nothing");
}

#[test]
fn a_restart_of_all_serves_soon() {
    hold("a_restart_of_all", 20, scenarios::restart_of_all);
}

#[test]
fn a_node_left_behind_catches_up_by_snapshots() {
    hold("a_node_left_behind", 40, scenarios::left_behind_catches_up);
}

#[test]
fn a_node_left_behind_that_comes_on_slowly_needs_one_snapshot_of_a_shard() {
    hold("a_node_left_behind_that", 20, scenarios::slow_catch_up);
}

#[test]
fn a_snapshot_that_is_damaged_at_its_maker_is_made_anew() {
    hold("a_snapshot_that_is_damaged", 40, |seed| scenarios::damaged_at_its_maker(seed, true));
    // And only since the maker hears of it.
    let unheard = (0..20).any(|seed| scenarios::damaged_at_its_maker(seed, false).is_err());
    assert!(unheard, "it is made anew whether its maker hears of the damage or not");
}

#[test]
fn a_bare_majority_serves_though_one_of_it_is_long_behind() {
    hold("a_bare_majority_serves", 20, |seed| scenarios::bare_majority(seed, false));
}

#[test]
fn a_bare_majority_serves_though_the_one_that_has_all_has_lost_its_state() {
    hold("a_bare_majority_serves_though_the_one_that", 20, |seed| scenarios::bare_majority(seed, true));
}

#[test]
fn a_shard_whose_time_is_ahead_takes_writes_at_once() {
    hold("a_shard_whose_time_is_ahead", 10, scenarios::all_clocks_wrong);
}

#[test]
fn a_write_that_was_executed_and_forgotten_does_not_start_anew() {
    hold("a_write_that_was_executed_and_forgotten", 3, |seed| scenarios::executed_and_forgotten(seed, false));
}
