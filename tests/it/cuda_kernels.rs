//! The CUDA kernels without a GPU: their source on the emulated device, what nvcc makes of it, and the registers that this takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::emulated::{self, KERNELS};

/// Runs a program, prints what it says, and fails when it does.
fn passes(command: &mut Command) {
    let output = command.output().expect("the program starts");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}

/// Returns nvcc, from `NVCC` or the path.
fn nvcc() -> Option<PathBuf> {
    let nvcc = PathBuf::from(std::env::var_os("NVCC").unwrap_or_else(|| "nvcc".into()));
    let works = Command::new(&nvcc).arg("--version").output();
    if works.is_ok_and(|nvcc| nvcc.status.success()) {
        return Some(nvcc);
    }
    println!("skipped: there is no nvcc");
    None
}

#[test]
fn kernels_agree_with_64_bit_floats_in_every_order_of_their_threads() {
    if let Some(built) = emulated::built() {
        passes(&mut built.program("check"));
    }
}

#[test]
fn the_emulated_driver_refuses_what_a_driver_refuses_and_shows_a_forgotten_event() {
    let Some(built) = emulated::built() else {
        return;
    };
    passes(&mut built.program("check_driver"));
    for order in ["1", "7"] {
        passes(
            built
                .program("check_driver")
                .env("FS_EMULATED_ORDER", order),
        );
    }
    passes(built.program("check_driver").env("FS_EMULATED_LATE", "1"));
}

/// The program that checks the kernels on a GPU, with the emulated driver in place of NVIDIA's: it knows the kernels by their names, so any file is an image.
#[test]
fn the_checks_for_a_gpu_go_through_the_driver() {
    let Some(built) = emulated::built() else {
        return;
    };
    let table = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(KERNELS)
        .join("resources.txt");
    let check = |what: &str| {
        let mut command = built.program("check_device");
        command.env("FS_IMAGES", &table).env("FS_KERNELS", &table);
        command.arg(what);
        command
    };
    for what in ["functions", "norms", "sums"] {
        passes(&mut check(what));
    }
    for (failure, words) in [
        ("cuLaunchKernel:3:719", "cuLaunchKernel returns 719"),
        ("cuModuleLoadData:1:209", "cuModuleLoadData returns 209"),
    ] {
        let output = check("sums").env("FS_EMULATED_FAIL", failure).output();
        let output = output.expect("the program starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(words),
            "{errors}"
        );
    }
}

#[test]
fn what_nvcc_makes_of_the_kernels_agrees_with_64_bit_floats() {
    let (Some(built), Some(nvcc)) = (emulated::built(), nvcc()) else {
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join(KERNELS);
    let mut files = Vec::new();
    for kernel in emulated::kernels() {
        let name = kernel.file_stem().expect("a file has a name");
        let ptx = folder.join(name).with_extension("ptx");
        let mut command = Command::new(&nvcc);
        command.args(["-O3", "-std=c++17", "-Werror", "all-warnings", "-ptx"]);
        command.arg("-gencode=arch=compute_80,code=compute_80");
        // The functions lie in another folder than what they include.
        command.arg("-I").arg(&headers);
        passes(command.arg("-o").arg(&ptx).arg(&kernel));
        files.push(ptx.display().to_string());
    }
    passes(built.program("check_ptx").env("FS_PTX", files.join(":")));
}

/// GPUs that the image has machine code for.
const CODE: [&str; 2] = ["80", "90a"];
/// What ptxas says of a kernel that keeps everything in registers.
const NO_SPILLS: &str = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";

/// Registers, bytes of stack and of spills of each kernel on one GPU, as ptxas reports them for the translation unit that the program embeds.
fn resources(nvcc: &Path, code: &str) -> BTreeMap<String, String> {
    let mut command = Command::new(nvcc);
    command.args(["-O3", "-std=c++17", "-Xptxas", "-v", "-cubin", "-o"]);
    // A file of its own: as root, nvcc would put one in the place of /dev/null.
    command.arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("all-{code}.cubin")));
    command.arg(format!("-gencode=arch=compute_{code},code=sm_{code}"));
    command.arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(KERNELS)
            .join("all.cu"),
    );
    let output = command.output().expect("nvcc starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let (mut all, mut name, mut stack) = (BTreeMap::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("bytes stack frame") {
            stack = line.trim().to_owned();
        } else if let Some((_, rest)) = line.split_once("Used ") {
            let registers = rest.split(',').next().unwrap_or_default();
            all.insert(name.clone(), format!("sm_{code} {registers}, {stack}"));
        }
    }
    all
}

/// `RESOURCES=write` renews the table.
#[test]
fn kernels_take_the_registers_and_spill_the_bytes_of_the_table() {
    let Some(nvcc) = nvcc() else {
        return;
    };
    let [first, second] = CODE.map(|code| resources(&nvcc, code));
    assert!(!first.is_empty() && first.keys().eq(second.keys()));
    for (name, of) in first.iter().chain(&second) {
        assert!(of.ends_with(NO_SPILLS), "{name}: {of}");
    }
    let lines: Vec<String> = (first.iter().zip(second.values()))
        .map(|((name, of), other)| format!("{name}: {of}; {other}\n"))
        .collect();
    let table = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(KERNELS)
        .join("resources.txt");
    if std::env::var("RESOURCES").is_ok_and(|what| what == "write") {
        fs::write(&table, lines.concat()).expect("the table is writable");
    }
    let table = fs::read_to_string(&table).expect("the table is there");
    assert_eq!(lines.concat(), table, "RESOURCES=write renews the table");
}
