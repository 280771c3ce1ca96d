//! Generates the messages and stubs of `sluice.v1` from the protos, without protoc.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

/// The folder that imports are relative to.
const INCLUDE: &str = "proto";
/// Where the protos of the package are.
const PACKAGE: &str = "proto/sluice/v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PACKAGE}");
    let mut protos = Vec::new();
    for entry in fs::read_dir(PACKAGE)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            protos.push(path);
        }
    }
    protos.sort();
    let mut compiler = protox::Compiler::new([INCLUDE])?;
    compiler.include_source_info(true).include_imports(true).open_files(&protos)?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    let descriptors = Path::new(&out).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
