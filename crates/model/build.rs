//! Names the configurations of the crate, and compiles the kernels for GPUs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(fuzzing)");
    println!("cargo:rustc-check-cfg=cfg(cutlass_kernels)");
    if variable("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let out = PathBuf::from(variable("OUT_DIR").ok_or("no OUT_DIR")?);
    println!("cargo:rerun-if-changed={KERNELS}");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=FRAMESHIFT_REQUIRE_NVCC");
    let nvcc = variable("NVCC").unwrap_or_else(|| "nvcc".into());
    let is_there = Command::new(&nvcc).arg("--version").output();
    if !is_there.is_ok_and(|tried| tried.status.success()) {
        if is_required() {
            return Err(
                format!("{nvcc} does not run: set NVCC, or run deploy/setup.sh --cuda").into(),
            );
        }
        return Ok(std::fs::write(out.join("kernels.fatbin"), [])?);
    }
    kernels(&nvcc, &out)?;
    if variable("CARGO_FEATURE_CUTLASS").is_some() {
        cutlass(&nvcc, &out)?;
    }
    Ok(())
}

/// Returns a variable of the environment, which a build script gets everything from.
#[allow(clippy::disallowed_methods)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn is_required() -> bool {
    variable("FRAMESHIFT_REQUIRE_NVCC").is_some_and(|value| value == "1")
}

/// Folder of the kernels; `all.cu` includes them all.
const KERNELS: &str = "src/ops/cuda/kernels";
/// Products that end with their activation.
const PRODUCTS: &str = "src/ops/cuda/cutlass/products.cu";

/// Compiles the kernels to one fat binary: machine code for Ampere and Hopper, and PTX for what comes later. Without nvcc the file is empty, and the program
/// says so when it is asked for a GPU; with `FRAMESHIFT_REQUIRE_NVCC=1` a missing nvcc is an error.
fn kernels(nvcc: &str, out: &Path) -> Result<()> {
    let compiled = Command::new(nvcc)
        .args(["-O3", "-std=c++17", "-fatbin", "-Werror", "all-warnings"])
        .args([
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_90a,code=sm_90a",
            "-gencode=arch=compute_80,code=compute_80",
        ])
        .arg("-o")
        .arg(out.join("kernels.fatbin"))
        .arg(Path::new(KERNELS).join("all.cu"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    ended(compiled).map(drop)
}

/// Compiles the products that end with their activation, for Hopper, and links them with the CUDA runtime that CUTLASS calls. Without its headers the program
/// has no such products; with `FRAMESHIFT_REQUIRE_NVCC=1` that is an error.
fn cutlass(nvcc: &str, out: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={PRODUCTS}");
    println!("cargo:rerun-if-env-changed=FRAMESHIFT_CUTLASS");
    let toolkit = toolkit(nvcc).ok_or_else(|| format!("{nvcc} is in no toolkit"))?;
    // Where deploy/setup.sh --cuda puts the headers: beside the packages of the toolkit.
    let beside = || toolkit.join("../../cutlass_library/source");
    let headers = variable("FRAMESHIFT_CUTLASS").map_or_else(beside, PathBuf::from);
    if !headers.join("include/cutlass/cutlass.h").exists() {
        let headers = headers.display();
        let missing = format!(
            "CUTLASS's headers are not in {headers}: set FRAMESHIFT_CUTLASS, or run deploy/setup.sh --cuda"
        );
        return match is_required() {
            true => Err(missing.into()),
            false => {
                println!("cargo:warning={missing}");
                Ok(())
            }
        };
    }
    // Forward and backward side by side: each takes half a minute or more.
    let compile = |way: &str| -> Result<(PathBuf, Child)> {
        let object = out.join(format!("products-{way}.o"));
        let child = Command::new(nvcc)
            // Without NDEBUG, calls in assertions make ptxas serialise the matrix instructions.
            .args(["-O3", "-std=c++17", "-DNDEBUG", "--expt-relaxed-constexpr"])
            .args(["-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v"])
            .args(["-Xcompiler", "-fPIC", "-c"])
            .arg(format!("-DFS_WAY={way}"))
            .arg(format!("-I{}", headers.join("include").display()))
            .arg(format!(
                "-I{}",
                headers.join("tools/util/include").display()
            ))
            .arg("-o")
            .arg(&object)
            .arg(PRODUCTS)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok((object, child))
    };
    let archive = out.join("libframeshift_cutlass.a");
    let _ = std::fs::remove_file(&archive);
    let mut archiver = Command::new("ar");
    archiver.arg("crs").arg(&archive);
    for (object, child) in [compile("0")?, compile("1")?] {
        let said = ended(child)?;
        if said.contains("C7510") {
            return Err(format!("the matrix instructions are serialised:\n{said}").into());
        }
        std::fs::write(object.with_extension("log"), said)?;
        archiver.arg(object);
    }
    ended(archiver.stderr(Stdio::piped()).spawn()?)?;
    link(&toolkit, out)
}

/// Links the products with the CUDA runtime that they call.
fn link(toolkit: &Path, out: &Path) -> Result<()> {
    println!("cargo:rustc-link-search=native={}", out.display());
    for folder in ["lib", "lib64"] {
        println!(
            "cargo:rustc-link-search=native={}",
            toolkit.join(folder).display()
        );
    }
    // The compiler's own library goes into the program, which then needs none where it runs.
    let library = Command::new("g++")
        .arg("-print-file-name=libstdc++.a")
        .output()?;
    let library = PathBuf::from(String::from_utf8_lossy(&library.stdout).trim());
    if let Some(folder) = library.parent().filter(|_| library.is_absolute()) {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
    for library in [
        "static=frameshift_cutlass",
        "static=cudart_static",
        "static=stdc++",
        "dl",
        "rt",
        "pthread",
    ] {
        println!("cargo:rustc-link-lib={library}");
    }
    println!("cargo:rustc-cfg=cutlass_kernels");
    Ok(())
}

/// Returns the folder of the toolkit that nvcc belongs to.
fn toolkit(nvcc: &str) -> Option<PathBuf> {
    let named = Path::new(nvcc);
    let found = match named.components().count() {
        1 => variable("PATH")?
            .split(':')
            .map(|folder| Path::new(folder).join(named))
            .find(|path| path.exists())?,
        _ => named.to_owned(),
    };
    let own = found.canonicalize().ok()?;
    own.parent()?.parent().map(Path::to_owned)
}

/// Waits for a compiler. Returns what it said; an error when it failed.
fn ended(child: Child) -> Result<String> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("a compiler failed:\n{said}").into()),
    }
}
