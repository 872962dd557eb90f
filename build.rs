//! Compiles the public API's proto files; protox does it without an installed `protoc`.

use std::path::PathBuf;

// A build script gets everything from the environment.
#[allow(clippy::disallowed_methods)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("frameshift/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "proto")
    });
    files.sort();
    println!("cargo:rerun-if-changed=proto");

    // cargo-fuzz builds with it.
    println!("cargo:rustc-check-cfg=cfg(fuzzing)");

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // With the options of methods that gateways read, which the types of the set do not have.
    let encoded = compiler.encode_file_descriptor_set();
    std::fs::write(out.join("descriptors.bin"), encoded)?;
    tonic_prost_build::configure()
        .bytes(".frameshift.v1")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
