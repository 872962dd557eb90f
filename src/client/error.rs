//! Errors on the client's side, and their exit codes.

use std::collections::HashMap;
use std::path::PathBuf;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::annotations::Note;
use super::unreachable;
use crate::proto::v1;

/// Reasons why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached.
    #[error("cannot connect to {server}: {}", causes(source))]
    Connect {
        /// Address of the server.
        server: String,
        /// The transport's error.
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
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A local file cannot be written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file's ending names no format.
    #[error("{path}: expected a file name that ends in .safetensors, .pth or .pt", path = .path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not those that the server promised.
    #[error("the server's answer does not have the sha256 that it promised")]
    Damaged,
    /// The task has no version to export.
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
    /// A data set changed between two evaluations on it.
    #[error(
        "data set {dataset} changed between the two evaluations, which had other clips or labels then: compare the versions on a version of it, datasets/{dataset}/versions/N"
    )]
    DatasetChanged {
        /// The data set.
        dataset: String,
    },
    /// An annotation list has something wrong in it.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The fault, and how to mend it.
        problem: String,
    },
    /// A folder or a list names a label that cannot be one.
    #[error("{place}: {problem}")]
    Label {
        /// The folder, or the list and the line.
        place: String,
        /// The fault of the label.
        problem: String,
    },
    /// A folder holds no labelled videos.
    #[error("{path} {problem}{}", lines(notes), path = .path.display())]
    NoExamples {
        /// The folder.
        path: PathBuf,
        /// The message after the path.
        problem: &'static str,
        /// What was found instead.
        notes: Vec<Note>,
    },
    /// Some files of a data set were refused; the others are in it.
    #[error("{refused} of {total} videos were refused")]
    SomeRefused {
        /// Number of refused videos.
        refused: usize,
        /// Number of all.
        total: usize,
    },
    /// Some of several files failed; each was named.
    #[error("{failed} of {total} files failed")]
    SomeFailed {
        /// Number of failed files.
        failed: usize,
        /// Number of all.
        total: usize,
        /// The exit code of the first that failed.
        code: u8,
    },
    /// A file that the server or this program refused.
    #[error("{}", named(name, source))]
    File {
        /// The file, or the video's name.
        name: String,
        /// The fault of the file.
        source: Box<Error>,
    },
    /// Ctrl-C ended the command.
    #[error("interrupted; {next}")]
    Interrupted {
        /// The way to go on.
        next: String,
    },
    /// A file is in the way.
    #[error("{path} exists; --force replaces it", path = .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The job did not succeed.
    #[error("{job} ended as {state}{}{message}", if message.is_empty() { "" } else { ": " })]
    Job {
        /// Name of the job.
        job: String,
        /// The job's last state.
        state: &'static str,
        /// The job's message.
        message: String,
    },
    /// A version was published, but cannot be served.
    #[error("{version} does not serve: {why}")]
    Unserved {
        /// Name of the version.
        version: String,
        /// The server's reason.
        why: String,
    },
    /// The server answers that it does not serve.
    #[error("{server} is not serving")]
    NotServing {
        /// Address of the server.
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
            Self::Connect { source, .. } if unreachable::is_of_certificate(source) => 77,
            Self::Connect { .. } | Self::NotServing { .. } | Self::Truncated | Self::Damaged => 69,
            Self::Tenant { .. } | Self::Format { .. } | Self::Usage(_) => 64,
            Self::Read { .. } => 66,
            Self::Write { .. } | Self::Exists { .. } => 73,
            Self::Interrupted { .. } => 130,
            Self::SomeFailed { code, .. } => *code,
            Self::File { source, .. } => source.exit_code(),
            Self::SomeRefused { .. }
            | Self::List { .. }
            | Self::Label { .. }
            | Self::NoExamples { .. }
            | Self::Changed { .. }
            | Self::DatasetChanged { .. } => 65,
            Self::Job { .. } | Self::Unserved { .. } | Self::NoVersion { .. } => 1,
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
    /// The error of one of several tasks, as a call for it alone would have said it.
    pub fn of_task(error: v1::TaskError) -> Self {
        let mut details = ErrorDetails::with_error_info(error.reason, "frameshift", HashMap::new());
        let delay = error.retry_delay.and_then(|delay| delay.try_into().ok());
        details.set_retry_info(delay);
        let code = Code::from_i32(error.code);
        Status::with_error_details(code, error.message, details).into()
    }

    /// The error for programs: message, exit code, and what a status says.
    pub fn json(&self) -> serde_json::Value {
        let mut all = json(&self.to_string(), self.exit_code());
        let value = &mut all["error"];
        let mut error = self;
        while let Self::File { name, source } = error {
            value["file"] = name.as_str().into();
            error = source;
        }
        if let Self::NoExamples { notes, .. } = error {
            value["notes"] = notes.iter().map(Note::json).collect();
        }
        if let Self::Rpc(status) = error {
            let details = status.get_error_details();
            value["code"] = format!("{:?}", status.code()).into();
            value["reason"] = details.error_info().map(|info| info.reason.as_str()).into();
            value["request_id"] = request_id(status).into();
        }
        all
    }
}

/// An error of this program for other programs: its message and the exit code.
pub fn json(message: &str, exit_code: u8) -> serde_json::Value {
    let value = serde_json::json!({ "message": message, "exit_code": exit_code });
    serde_json::json!({ "type": "error", "error": value })
}

/// A file's name before what is wrong with it, unless the message names the file already.
fn named(name: &str, source: &Error) -> String {
    let names_it = matches!(
        source,
        Error::Read { .. } | Error::Write { .. } | Error::Changed { .. } | Error::Exists { .. }
    );
    match names_it {
        true => source.to_string(),
        false => format!("{name}: {source}"),
    }
}

/// Notes below a message.
fn lines(notes: &[Note]) -> String {
    notes.iter().map(|note| format!("\n  {note}")).collect()
}

/// The innermost cause of a failed connection, and what to do about it.
fn causes(error: &tonic::transport::Error) -> String {
    let cause = unreachable::innermost(error);
    match unreachable::certificate(&cause) {
        Some(why) => format!("it {why}"),
        None => format!("{cause}{}", unreachable::advice(&cause)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_file_once_and_says_why() {
        let file = |name: &str, source: Error| Error::File {
            name: name.to_owned(),
            source: Box::new(source),
        };
        let missing = file(
            "a.mp4",
            Error::Read {
                path: "a.mp4".into(),
                source: std::io::ErrorKind::NotFound.into(),
            },
        );
        assert_eq!(missing.to_string(), "cannot read a.mp4: entity not found");
        assert_eq!(missing.exit_code(), 66);
        let mut status = Status::internal("internal error");
        let id = "0192f0c1".parse().unwrap();
        status.metadata_mut().insert("x-request-id", id);
        let refused = file("b.mp4", status.into());
        assert_eq!(
            refused.to_string(),
            "b.mp4: Internal: internal error (request 0192f0c1)"
        );
        let json = refused.json();
        assert_eq!(json["type"], "error");
        assert_eq!(json["error"]["file"], "b.mp4");
        assert_eq!(json["error"]["request_id"], "0192f0c1");
        assert_eq!(json["error"]["exit_code"], 70);
    }
}
