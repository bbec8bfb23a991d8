//! The corpus as the fuzzer wants it, and back: `corpus unpack TARGET DIR`, `corpus pack TARGET DIR`, `corpus targets`.

use std::path::Path;
use std::process::ExitCode;
use synod_decoders::{TARGETS, corpus, target};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["targets"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["unpack", name, dir] => known(name).and_then(|()| unpack(name, Path::new(dir))),
        ["pack", name, dir] => known(name).and_then(|()| pack(name, Path::new(dir))),
        _ => Err("corpus targets | corpus unpack TARGET DIR | corpus pack TARGET DIR".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn known(name: &str) -> Result<(), String> {
    target(name).map(|_| ()).ok_or_else(|| format!("no target {name}; `corpus targets` prints them"))
}

/// Each input into a file of its own.
fn unpack(name: &str, dir: &Path) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for (number, input) in corpus::read(name)?.iter().enumerate() {
        let path = dir.join(format!("kept-{number:05}"));
        std::fs::write(&path, input).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// The files of a folder in place of the kept corpus.
fn pack(name: &str, dir: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        inputs.push(std::fs::read(entry.map_err(failed)?.path()).map_err(failed)?);
    }
    let file = corpus::file(name);
    std::fs::write(&file, corpus::print(inputs)).map_err(|e| format!("{}: {e}", file.display()))
}
