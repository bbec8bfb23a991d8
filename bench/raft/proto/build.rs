//! Generates the messages in the form of the original's `protobuf-codec`, without a compiler of `.proto` files.

use protobuf_codegen_pure::{Codegen, Customize};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("protos");
    std::fs::create_dir_all(&out)?;
    // The original sets it by an option of the file, whose definition would have to be found to be read.
    let customize = Customize { carllerche_bytes_for_bytes: Some(true), ..Customize::default() };
    Codegen::new().out_dir(&out).input("proto/eraftpb.proto").include("proto").customize(customize).run()?;
    std::fs::write(out.join("mod.rs"), "pub mod eraftpb;\n")?;
    println!("cargo:rerun-if-changed=proto/eraftpb.proto");
    Ok(())
}
