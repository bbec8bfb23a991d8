//! The kept corpus, replayed: every input that a fuzzer found worth keeping, or that once was a fault.
//!
//! One input alone: `DECODER=message INPUT=path cargo test --release --workspace --test replay`

use std::time::Instant;
use synod_decoders::{TARGETS, corpus, target};

#[test]
fn every_kept_input_is_taken_or_refused_in_order() {
    if let (Ok(name), Ok(path)) = (std::env::var("DECODER"), std::env::var("INPUT")) {
        let input = std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let target = target(&name).unwrap_or_else(|| panic!("no target {name}"));
        println!("{name}: {path}: decoded: {}", (target.run)(&input));
        return;
    }
    for target in TARGETS {
        let began = Instant::now();
        let inputs = corpus::read(target.name).unwrap();
        let mut decoded = 0;
        for (line, input) in inputs.iter().enumerate() {
            println!("{}:{}", corpus::file(target.name).display(), line + 1);
            decoded += usize::from((target.run)(input));
        }
        println!("{}: {} inputs, {decoded} decoded, {:?}", target.name, inputs.len(), began.elapsed());
        assert!(decoded > 0, "{}: no input of the corpus reaches past the first checks", target.name);
    }
}

#[test]
fn every_target_has_its_fuzzer_and_its_corpus_and_the_corpus_is_small() {
    let manifest = std::fs::read_to_string(corpus::folder().join("../Cargo.toml")).unwrap();
    let mut bytes = 0;
    for target in TARGETS {
        let binary = format!("name = \"{0}\"\npath = \"targets/{0}.rs\"", target.name);
        assert!(manifest.contains(&binary), "tests/fuzz has no binary {}", target.name);
        bytes += std::fs::metadata(corpus::file(target.name)).unwrap().len();
    }
    let files = std::fs::read_dir(corpus::folder()).unwrap().count();
    assert_eq!(files, TARGETS.len(), "a corpus of no target");
    assert!(bytes < 1 << 20, "the corpus has {bytes} bytes");
}
