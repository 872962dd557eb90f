//! Finds out which FFmpeg there is.

// A build script gets everything from the environment.
#[allow(clippy::disallowed_methods)]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // cargo-fuzz builds with it.
    println!("cargo:rustc-check-cfg=cfg(fuzzing)");
    // The display matrix moved in FFmpeg 6.1; ffmpeg-sys-the-third says which version it was built against.
    println!("cargo:rustc-check-cfg=cfg(ffmpeg_6_1)");
    if std::env::var_os("DEP_FFMPEG_FFMPEG_6_1").is_some() {
        println!("cargo:rustc-cfg=ffmpeg_6_1");
    }
}
