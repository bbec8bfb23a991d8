//! The `synod` binary: parses the command line, does what it says, exits with its code.
//!
//! Owns the process: allocator and exit code. Must never hold logic; everything else is in the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    ExitCode::from(synod_server::cli::run(std::env::args_os()))
}
