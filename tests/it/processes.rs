//! Processes: what they hold (memory, descriptors, children), and programs that are run to their end.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use crate::server::PATIENCE;

/// Resources of a process.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code)]
pub(crate) struct Usage {
    /// Resident memory in KiB.
    pub(crate) resident: u64,
    /// Peak of the resident memory in KiB.
    pub(crate) peak: u64,
    /// Number of open descriptors; `None` when they cannot be read.
    pub(crate) descriptors: Option<usize>,
}

impl Usage {
    /// Returns the resources of a running process.
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.map_or(0, |number| number.parse().expect("a number"))
        };
        Self {
            resident: value("VmRSS:"),
            peak: value("VmHWM:"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .ok()
                .map(Iterator::count),
        }
    }

    /// Asserts that no more is held than before, except what an allocator keeps and what a starting worker needs.
    pub(crate) fn assert_kept(&self, after: &Self, what: &str) {
        let grown = after.resident.saturating_sub(self.resident);
        assert!(grown < 48 << 10, "{what}: {grown} KiB more");
        if let (Some(before), Some(after)) = (self.descriptors, after.descriptors) {
            assert!(
                after <= before + 6,
                "{what}: {before} descriptors, then {after}"
            );
        }
    }
}

/// Returns the children of a process, with their states; `Z` is a child that ended and was not waited for.
pub(crate) fn children(parent: u32) -> Vec<(u32, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("processes") {
        let name = entry.expect("an entry").file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The program's name is in brackets and may contain anything.
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let state = fields.next().and_then(|state| state.chars().next());
        if let (Some(state), Some(own)) = (state, fields.next())
            && own.parse() == Ok(parent)
        {
            found.push((pid, state));
        }
    }
    found
}

/// The time that work takes: real time, or the processor time of this process when that is less, since a busy machine gives it no more.
pub(crate) struct Stopwatch(Instant, Duration);

impl Stopwatch {
    pub(crate) fn begin() -> Self {
        Self(Instant::now(), Self::processor())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed().min(Self::processor() - self.1)
    }

    fn processor() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.try_into().expect("a time since the start")
    }
}

/// Returns what a process and those below it do, to be read by people: state, threads with the kernel's functions that they wait in, children.
pub(crate) fn story(pid: u32) -> String {
    let mut text = String::new();
    tell(pid, 0, &mut text);
    text
}

fn tell(pid: u32, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let _ = writeln!(text, "{indent}process {pid}: {words}");
    let mut threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    threads.sort();
    for thread in threads {
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let (name, status) = (read("comm"), read("status"));
        let state = status.lines().find(|line| line.starts_with("State:"));
        let (place, call) = (read("wchan"), read("syscall"));
        let _ = writeln!(
            text,
            "{indent}  thread {}: {} in {place}, system call {}",
            name.trim(),
            state.unwrap_or("it has ended"),
            call.trim(),
        );
    }
    for (child, _) in children(pid) {
        tell(child, depth + 1, text);
    }
}

/// Returns the processes, besides this one, that hold a pipe of which `ours` is an end.
fn holders(ours: BorrowedFd<'_>) -> String {
    let own = format!("/proc/self/fd/{}", ours.as_raw_fd());
    let Ok(pipe) = fs::read_link(own) else {
        return String::new();
    };
    let mut text = String::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else {
            continue;
        };
        let mut open = (fs::read_dir(entry.path().join("fd")).into_iter())
            .flatten()
            .flatten();
        if open.any(|open| fs::read_link(open.path()).is_ok_and(|to| to == pipe)) {
            tell(pid, 1, &mut text);
        }
    }
    text
}

/// Waits for the end of a child that should end soon.
///
/// # Panics
/// When it does not, with its story.
pub(crate) async fn ended(child: &mut Child) -> ExitStatus {
    let pid = child.id();
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(status) => status.expect("a child"),
        Err(_) => panic!("it did not end:\n{}", pid.map(story).unwrap_or_default()),
    }
}

/// Runs a program that should end soon. Returns how it ended and what it wrote.
///
/// # Panics
/// When it does not end, or another process keeps its output open; with all that can be seen from outside.
pub(crate) async fn output(command: &mut Command) -> Output {
    output_within(PATIENCE, command).await
}

/// Longest time of a program that waits for a job, beside other tests.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);

/// As [`output`], of a program that may take longer.
pub(crate) async fn output_within(patience: Duration, command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.kill_on_drop(true).spawn().expect("it runs");
    let pid = child.id().expect("nobody has waited for it");
    let mut pipes = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), None);
    let all = async {
        tokio::join!(
            async { status = Some(child.wait().await.expect("a child")) },
            read(&mut pipes.0, &mut stdout),
            read(&mut pipes.1, &mut stderr),
        )
    };
    let in_time = tokio::time::timeout(patience, all).await.is_ok();
    match status {
        Some(status) if in_time => Output {
            status,
            stdout,
            stderr,
        },
        status => panic!(
            "{:?} took more than {patience:?}: {status:?}\n{}those with its standard error:\n{}it wrote:\n{}{}",
            command.as_std(),
            story(pid),
            holders(std::os::fd::AsFd::as_fd(&pipes.1)),
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        ),
    }
}

/// Reads a pipe to its end. What was read stays when the future is dropped.
async fn read(pipe: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) {
    while pipe.read_buf(into).await.expect("a pipe") > 0 {}
}

#[tokio::test]
async fn of_a_program_that_does_not_end_it_is_said_what_it_does() {
    let mut told = String::new();
    // A busy machine takes its time to start the program.
    for millis in [200, 1000, 5000] {
        let run = tokio::spawn(async move {
            let mut command = Command::new("sh");
            command.args(["-c", "echo begun >&2; sleep 20 & wait"]);
            output_within(Duration::from_millis(millis), &mut command).await
        });
        let panic = run.await.expect_err("it does not end").into_panic();
        told.clone_from(panic.downcast_ref().expect("a text"));
        let parts = ["echo begun", "\nbegun", ": State:\tS", ": sleep 20"];
        if parts.iter().all(|part| told.contains(part)) {
            return;
        }
    }
    panic!("too little: {told}");
}
