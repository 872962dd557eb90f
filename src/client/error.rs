//! What can go wrong on the client's side, and the exit code that says so to scripts.

use std::path::PathBuf;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached.
    #[error("cannot connect to {server}")]
    Connect {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The tenant cannot be sent.
    #[error("tenant {tenant:?} is not printable ascii")]
    Tenant {
        /// The tenant.
        tenant: String,
    },
    /// The server refused. The status is no source: the text has all of it.
    #[error("{}", describe(.0))]
    Rpc(Box<Status>),
    /// The command's arguments do not make sense.
    #[error("{0}")]
    Usage(String),
    /// A local file cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A local file cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file's ending says no format.
    #[error("{path}: expected a file name that ends in .safetensors, .pth or .pt", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// What came is not what the server promised.
    #[error("the server's answer does not have the sha256 that it promised")]
    Damaged,
    /// Nothing to export.
    #[error("{task} serves nothing yet: name a version with --version")]
    NoVersion {
        /// The task.
        task: String,
    },
    /// A file changed while it was being uploaded.
    #[error("{path} changed while it was uploaded", path = .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// An annotation list has something wrong in it.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A folder or a list names a label that cannot be one.
    #[error("{place}: {problem}")]
    Label {
        /// The folder, or the list and the line.
        place: String,
        /// What is wrong with the label.
        problem: String,
    },
    /// A folder holds no labelled videos.
    #[error("{path} has no labelled videos: expected <split>/<label>/<video> (splits: train, val, test), a csv with the columns label and youtube_id or path, a Something-Something json, or lines of \"path label\"{notes}", path = .path.display())]
    NoExamples {
        /// The folder.
        path: PathBuf,
        /// What was found in its place, a line each.
        notes: String,
    },
    /// Some files of a data set were refused; the others are in it.
    #[error("{refused} of {total} videos were refused")]
    SomeRefused {
        /// How many were refused.
        refused: usize,
        /// How many there were.
        total: usize,
    },
    /// Some of several files failed; each was named.
    #[error("{failed} of {total} files failed")]
    SomeFailed {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
        /// The exit code of the first that failed.
        code: u8,
    },
    /// A file that the server or this program refused.
    #[error("{name}: {source}")]
    File {
        /// The file, or the video's name.
        name: String,
        /// Why.
        source: Box<Error>,
    },
    /// Ctrl-C ended the watching of a job, which goes on.
    #[error("interrupted; the job goes on")]
    Interrupted,
    /// A file is in the way.
    #[error("{path} exists; --force replaces it", path = .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The job did not succeed.
    #[error("{job} ended as {state}{}{message}", if message.is_empty() { "" } else { ": " })]
    Job {
        /// Its name.
        job: String,
        /// Its last state.
        state: &'static str,
        /// Why.
        message: String,
    },
    /// A version was published, but cannot be served.
    #[error("{version} does not serve: {why}")]
    Unserved {
        /// Its name.
        version: String,
        /// Why.
        why: String,
    },
    /// The server answers, and says that it does not serve.
    #[error("{server} is not serving")]
    NotServing {
        /// Its address.
        server: String,
    },
    /// The server's stream ended too early.
    #[error("the server ended its answer early")]
    Truncated,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

impl Error {
    /// The process's exit code, by sysexits where one fits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Connect { .. } | Self::NotServing { .. } | Self::Truncated | Self::Damaged => 69,
            Self::Tenant { .. } | Self::Format { .. } | Self::Usage(_) => 64,
            Self::Read { .. } => 66,
            Self::Write { .. } | Self::Exists { .. } => 73,
            Self::Interrupted => 130,
            Self::SomeFailed { code, .. } => *code,
            Self::File { source, .. } => source.exit_code(),
            Self::List { .. }
            | Self::Label { .. }
            | Self::NoExamples { .. }
            | Self::Changed { .. } => 65,
            Self::SomeRefused { .. }
            | Self::Job { .. }
            | Self::Unserved { .. }
            | Self::NoVersion { .. } => 1,
            Self::Rpc(status) => match status.code() {
                Code::InvalidArgument | Code::OutOfRange | Code::DataLoss => 65,
                Code::Unavailable | Code::DeadlineExceeded => 69,
                Code::Internal | Code::Unknown | Code::Unimplemented => 70,
                Code::ResourceExhausted | Code::Aborted => 75,
                Code::PermissionDenied | Code::Unauthenticated => 77,
                Code::Ok
                | Code::Cancelled
                | Code::NotFound
                | Code::AlreadyExists
                | Code::FailedPrecondition => 1,
            },
        }
    }
}

impl Error {
    /// The error for programs: message, exit code, and what a status says.
    pub fn json(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "message": self.to_string(),
            "exit_code": self.exit_code(),
        });
        let mut error = self;
        while let Self::File { name, source } = error {
            value["file"] = name.as_str().into();
            error = source;
        }
        if let Self::Rpc(status) = error {
            let details = status.get_error_details();
            value["code"] = format!("{:?}", status.code()).into();
            value["reason"] = details.error_info().map(|info| info.reason.as_str()).into();
            value["request_id"] = request_id(status).into();
        }
        serde_json::json!({ "error": value })
    }
}

fn request_id(status: &Status) -> Option<&str> {
    status.metadata().get("x-request-id")?.to_str().ok()
}

/// The code, the message, and what the details add that the message does not say.
fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        text += &format!(" [{}]", info.reason);
    }
    if let Some(id) = request_id(status) {
        text += &format!(" (request {id})");
    }
    for violation in details
        .bad_request()
        .map_or(&[][..], |bad| &bad.field_violations)
    {
        if !status.message().contains(&violation.description) {
            text += &format!("\n  {}: {}", violation.field, violation.description);
        }
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text += &format!(" (try again in {} ms)", delay.as_millis());
    }
    text
}
