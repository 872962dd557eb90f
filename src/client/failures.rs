//! Files of which some failed: each is named, and the others are done.
//!
//! Invariant: a server that has gone, has no room or does not know the caller ends the command at once, since it refuses all the others, too.

use super::Error;
use super::output::Output;

/// Counts failures of a command over several files.
#[derive(Debug)]
pub(super) struct Failures {
    total: usize,
    output: Output,
    failed: usize,
    /// The exit code of the first failure.
    code: u8,
}

impl Failures {
    pub(super) fn new(total: usize, output: Output) -> Self {
        Self {
            total,
            output,
            failed: 0,
            code: 0,
        }
    }

    /// Names a file that failed.
    ///
    /// # Errors
    /// The failure itself when it is the only file's or would be every file's.
    pub(super) fn add(&mut self, name: &str, source: Error) -> Result<(), Error> {
        let code = source.exit_code();
        let error = Error::File {
            name: name.to_owned(),
            source: Box::new(source),
        };
        if self.total == 1 || matches!(code, 69 | 70 | 75 | 77) {
            return Err(error);
        }
        if self.failed == 0 {
            self.code = code;
        }
        self.failed += 1;
        match self.output.is_json() {
            true => self.output.result(String::new, || error.json()),
            false => self.output.note(&error.to_string()),
        }
        Ok(())
    }

    /// The end of the command.
    ///
    /// # Errors
    /// When a file failed.
    pub(super) fn end(self) -> Result<(), Error> {
        match self.failed {
            0 => Ok(()),
            failed => Err(Error::SomeFailed {
                failed,
                total: self.total,
                code: self.code,
            }),
        }
    }
}
