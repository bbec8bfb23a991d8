//! Runs golden scripts over the core with a planted fault that is left to them, and demands that they notice.
//!
//! Owns: that each such fault is found by the section written for it. Must never: count a fault as found where the unharmed core
//! says something else than the script too; `the_unharmed_core_says_what_the_scripts_say` is that control.

use std::path::Path;
use synod_paxos_planted::planted::Fault;
use synod_scripts_planted::Runner;

fn script(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine/paxos/tests/scripts").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The section of the first line that differs.
fn differs_in(script: &str, said: &str) -> Option<String> {
    let at = script.lines().zip(said.lines()).position(|(one, other)| one != other)?;
    let headings: Vec<&str> = script.lines().take(at).filter_map(|line| line.strip_prefix("# ")).collect();
    let named = headings.iter().rev().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    named.filter(|name| name.contains('/') && !name.contains(' ')).map(str::to_owned).next()
}

#[test]
fn scripts_notice_the_faults_planted_for_them() {
    for (fault, name) in Fault::OF_SCRIPTS {
        let script = script(name);
        let said = goldenscript::generate(&mut Runner::planted(Some(*fault)), &script);
        // A command that fails unannounced is noticed too.
        let section = said.map_or_else(|why| Some(why.to_string()), |said| differs_in(&script, &said));
        println!("{fault:?}: {section:?}");
        assert_eq!(section.as_deref(), Some("promise/fetched-before"), "{fault:?} in {name}");
    }
}

#[test]
fn the_unharmed_core_says_what_the_scripts_say() {
    for (_, name) in Fault::OF_SCRIPTS {
        let script = script(name);
        let said = goldenscript::generate(&mut Runner::planted(None), &script).unwrap();
        assert_eq!(differs_in(&script, &said), None);
    }
}
