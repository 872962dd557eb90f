//! The program itself as a command, against a server of the test.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::processes::{LONGEST, output_within};
use crate::server::TestServer;

/// A case's input, which nothing writes to.
pub(crate) fn input(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/reports")
        .join(case)
}

/// What a command printed and ended with.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Standard output's lines as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}")))
            .collect()
    }

    /// Asserts the exit code.
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// The program, without the environment's settings.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .env_remove("FRAMESHIFT_SERVER")
        .env_remove("FRAMESHIFT_TENANT")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command without a server.
pub(crate) async fn run(words: &[&str]) -> Ran {
    output(program().args(words)).await
}

/// Runs a command against a server.
pub(crate) async fn ask(server: &TestServer, words: &[&str]) -> Ran {
    let address = server.address.to_string();
    output(program().args(["--server", &address]).args(words)).await
}

/// Runs a command to its end.
pub(crate) async fn output(command: &mut Command) -> Ran {
    let output = output_within(LONGEST, command).await;
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A path as a word of a command line.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}
