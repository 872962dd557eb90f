//! Names the configuration that cargo-fuzz builds with, and compiles the kernels for GPUs.

use std::path::{Path, PathBuf};
use std::process::Command;

// A build script gets everything from the environment.
#[allow(clippy::disallowed_methods)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(fuzzing)");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        kernels(&out)?;
    }
    Ok(())
}

/// Folder of the kernels; `all.cu` includes them all.
const KERNELS: &str = "src/ops/cuda/kernels";

/// Compiles the kernels to one fat binary: machine code for Ampere and Hopper, and PTX for what comes later. Without nvcc the file is empty, and the program
/// says so when it is asked for a GPU; with `FRAMESHIFT_REQUIRE_NVCC=1` a missing nvcc is an error.
#[allow(clippy::disallowed_methods)]
fn kernels(out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={KERNELS}");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=FRAMESHIFT_REQUIRE_NVCC");
    let image = out.join("kernels.fatbin");
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    let is_there = Command::new(&nvcc).arg("--version").output();
    if !is_there.is_ok_and(|tried| tried.status.success()) {
        if std::env::var("FRAMESHIFT_REQUIRE_NVCC").is_ok_and(|value| value == "1") {
            return Err(
                format!("{nvcc} does not run: set NVCC, or run deploy/setup.sh --cuda").into(),
            );
        }
        return Ok(std::fs::write(image, [])?);
    }
    let compiled = Command::new(&nvcc)
        .args(["-O3", "-std=c++17", "-fatbin", "-Werror", "all-warnings"])
        .args([
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_90a,code=sm_90a",
            "-gencode=arch=compute_80,code=compute_80",
        ])
        .arg("-o")
        .arg(&image)
        .arg(Path::new(KERNELS).join("all.cu"))
        .output()?;
    if !compiled.status.success() {
        let errors = String::from_utf8_lossy(&compiled.stderr);
        return Err(format!("{nvcc} did not compile the kernels:\n{errors}").into());
    }
    Ok(())
}
