//! The emulated CUDA device of `tests/emulated`, built once with g++ alone: a program that checks the kernels, and the libraries that a program loads in
//! place of NVIDIA's. Machines without g++ skip what needs it, except in CI.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// Root of the package, which the paths below begin at.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Folder of the kernels' source.
pub(crate) const KERNELS: &str = "crates/model/src/ops/cuda/kernels";
const DEVICE: &str = "tests/emulated";
/// Folder of kernels that call one function of `device.cuh` each.
const FUNCTIONS: &str = "tests/emulated/functions";

/// Number of compilers at a time.
const COMPILERS: usize = 2;

/// What was built.
pub(crate) struct Built {
    folder: PathBuf,
}

impl Built {
    /// Returns a program of this name.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
        command.env("LD_LIBRARY_PATH", self.libraries());
        command
    }

    /// Returns the folder with `libcuda.so` and `libcublasLt.so`, for `LD_LIBRARY_PATH`.
    pub(crate) fn libraries(&self) -> PathBuf {
        self.folder.join("lib")
    }
}

/// Says what is left out on this machine; in CI nothing may be.
fn skips(what: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!in_ci, "{what}: not in CI");
    println!("skipped: {what}");
}

/// Builds the device, unless it is there; `None` where there is no g++.
pub(crate) fn built() -> Option<Built> {
    let gcc = Command::new("g++").arg("--version").output();
    if !gcc.is_ok_and(|gcc| gcc.status.success()) {
        skips("there is no g++, so no emulated device");
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated");
    fs::create_dir_all(folder.join("lib")).expect("the target folder is writable");
    // Tests are processes of their own; the first one builds.
    let lock = File::create(folder.join("lock")).expect("the target folder is writable");
    lock.lock().expect("a file can be locked");
    let stamp = folder.join("stamp");
    let now = fingerprint();
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&now) {
        build(&folder);
        fs::write(&stamp, now).expect("the target folder is writable");
    }
    Some(Built { folder })
}

/// Returns the files of a folder of the package with one of these endings, in order.
pub(crate) fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).expect("the folder is there");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| {
            let end = path.extension().and_then(|end| end.to_str());
            end.is_some_and(|end| endings.contains(&end))
        })
        .collect();
    found.sort();
    found
}

/// Returns the files of the kernels, and of those that test `device.cuh`, each a translation unit; `all.cu` is all of the former.
pub(crate) fn kernels() -> Vec<PathBuf> {
    let mut files = [files(KERNELS, &["cu"]), files(FUNCTIONS, &["cu"])].concat();
    files.retain(|file| !file.ends_with("all.cu"));
    files
}

fn fingerprint() -> String {
    let mut hasher = DefaultHasher::new();
    let folders = [
        KERNELS,
        DEVICE,
        FUNCTIONS,
        "tests/emulated/check",
        "tests/emulated/driver",
    ];
    for folder in folders {
        for file in files(folder, &["cu", "cuh", "cpp", "hpp"]) {
            let text = fs::read(&file).expect("a source file is readable");
            (file, text).hash(&mut hasher);
        }
    }
    format!("{:016x}", hasher.finish())
}

fn run(command: &mut Command) {
    let output = command.output().expect("g++ starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}");
}

fn build(folder: &Path) {
    let of = |name: &str| files(name, &["cpp"]);
    let one = |name: &str| vec![Path::new(ROOT).join(DEVICE).join(name)];
    let groups = [
        ("kernel", kernels()),
        ("check", of("tests/emulated/check")),
        ("driver", of("tests/emulated/driver")),
        ("block", one("block.cpp")),
        ("registry", one("registry.cpp")),
        ("ptx", [one("ptx.cpp"), one("ptx_arithmetic.cpp")].concat()),
        ("streams", one("check_driver.cpp")),
        ("device", one("device.cpp")),
    ];
    let objects = compile(folder, &groups);
    let linked = |groups: &[&str]| -> Vec<&PathBuf> {
        let wanted = objects.iter().filter(|(group, _)| groups.contains(group));
        wanted.map(|(_, object)| object).collect()
    };
    let link = |out: &str, groups: &[&str], options: &[&str]| {
        let mut command = Command::new("g++");
        command.args(["-o", out]).args(linked(groups)).args(options);
        run(command.current_dir(folder));
    };
    link("check", &["kernel", "check", "block", "registry"], &[]);
    link("check_ptx", &["check", "block", "ptx"], &[]);
    link("check_device", &["check", "device"], &["-ldl"]);
    let shared = ["-shared", "-Wl,-Bsymbolic"];
    let driver = ["kernel", "driver", "block", "registry"];
    link("lib/libcuda.so", &driver, &shared);
    for name in ["libcuda.so.1", "libcublasLt.so", "libcublasLt.so.13"] {
        let path = folder.join("lib").join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("libcuda.so", path).expect("the target folder is writable");
    }
    let against = ["-Llib", "-lcuda"];
    link("check_driver", &["streams"], &against);
}

/// Compiles all files, two at a time. Returns their objects, each with its group.
fn compile<'g>(folder: &Path, groups: &[(&'g str, Vec<PathBuf>)]) -> Vec<(&'g str, PathBuf)> {
    let pairs = groups
        .iter()
        .flat_map(|(group, files)| files.iter().map(move |file| (*group, file)));
    let all: Vec<(&str, &PathBuf, PathBuf)> = pairs
        .map(|(group, file)| {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            (group, file, folder.join(format!("{group}-{stem}.o")))
        })
        .collect();
    let rest = Mutex::new(all.iter());
    thread::scope(|scope| {
        for _ in 0..COMPILERS {
            scope.spawn(|| {
                loop {
                    let next = rest.lock().expect("no compiler panicked").next();
                    let Some((group, file, object)) = next else {
                        break;
                    };
                    run(&mut compiler(group, file, object));
                }
            });
        }
    });
    all.into_iter()
        .map(|(group, _, object)| (group, object))
        .collect()
}

fn compiler(group: &str, file: &Path, object: &Path) -> Command {
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden"]);
    command.args([
        "-Wall",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wno-unused-function",
    ]);
    if matches!(group, "kernel" | "ptx") {
        command.arg("-DFS_EMULATED");
    }
    for folder in [DEVICE, KERNELS] {
        command.arg("-I").arg(Path::new(ROOT).join(folder));
    }
    command.args(["-x", "c++", "-c"]).arg(file);
    command.arg("-o").arg(object);
    command
}
