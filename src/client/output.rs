//! Where results go: text for people, one JSON value a line for scripts; progress bars on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// How a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    /// With `json`, results are JSON lines and there is no progress.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Whether results are JSON lines.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one result: `text` for people, `json` for scripts.
    pub fn result(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) {
        let line = if self.json {
            json().to_string()
        } else {
            text()
        };
        // A reader that has gone (`| head`) is no error of ours.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    /// Says something to people; scripts do not see it.
    pub fn note(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// A bar over bytes.
    pub fn bytes(&self, total: u64, name: &str) -> Progress {
        self.progress(
            total,
            name,
            "{msg:20!} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
        )
    }

    /// A bar over things, for example steps or files.
    pub fn count(&self, total: u64, name: &str) -> Progress {
        self.progress(total, name, "{prefix:20!} {bar:30} {pos}/{len} {msg}")
    }

    fn progress(&self, total: u64, name: &str, template: &str) -> Progress {
        if self.json || !self.terminal {
            return Progress {
                bar: None,
                lines: !self.json,
                name: name.to_owned(),
            };
        }
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress {
            bar: Some(bar),
            lines: false,
            name: name.to_owned(),
        }
    }
}

/// Progress of one thing: a bar, plain lines, or nothing. Clones move the same bar.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    name: String,
}

impl Progress {
    /// Moves the bar to a position.
    pub fn set(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
    }

    /// Moves the bar on.
    pub fn add(&self, amount: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(amount);
        }
    }

    /// Sets the bar's length, which may be known late.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// Shows a text beside the bar, or as a line of its own.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if self.lines => {
                let _ = writeln!(std::io::stderr().lock(), "{}: {text}", self.name);
            }
            None => {}
        }
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if self.lines => {
                let _ = writeln!(std::io::stderr().lock(), "{text}");
            }
            None => {}
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
