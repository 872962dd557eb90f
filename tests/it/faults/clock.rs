//! A clock that is ten minutes ahead, for one server among others: a library that is loaded before the C library's and built when it is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds by which the clock is ahead. A bucket refuses signatures that are a quarter of an hour off.
pub(crate) const AHEAD: i64 = 600;

/// Adds to the wall clock; clocks that measure how long something takes stay as they are. The C library's own function is asked, which makes no system
/// call, since the workers that decode videos may make few.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

static int (*own)(clockid_t, struct timespec *);
__attribute__((constructor)) static void find(void) { own = dlsym(RTLD_NEXT, "clock_gettime"); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!own) find();
    int failed = own(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += AHEAD;
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"#;

/// Builds the library in a folder. Returns its path.
pub(crate) fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-w"]);
    cc.arg(format!("-DAHEAD={AHEAD}"));
    let built = cc.arg("-o").arg(&library).arg(&source).arg("-ldl").output();
    let built = built.expect("a C compiler, which the build needs, too");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    library
}

#[test]
fn the_clock_of_a_program_is_ahead_with_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let library = library(folder.path());
    let now = |library: Option<&Path>| {
        let mut date = Command::new("date");
        date.arg("+%s")
            .envs(library.map(|path| ("LD_PRELOAD", path)));
        let said = String::from_utf8(date.output().unwrap().stdout).unwrap();
        said.trim().parse::<i64>().unwrap()
    };
    let (plain, ahead) = (now(None), now(Some(&library)));
    assert!(
        (AHEAD..AHEAD + 30).contains(&(ahead - plain)),
        "{plain}, {ahead}"
    );
}
