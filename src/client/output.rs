//! Where results go: text for people, one JSON value a line for scripts; progress bars on a terminal, plain lines otherwise.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// The form in which a command prints.
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
        // A reader that has gone (`| head`) is no error.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    /// Prints a note for people to standard error; with JSON output it is left out.
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
            "{prefix:20!} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
        )
    }

    /// A bar over things, for example steps or files.
    pub fn count(&self, total: u64, name: &str) -> Progress {
        self.progress(total, name, COUNT)
    }

    fn progress(&self, total: u64, name: &str, template: &'static str) -> Progress {
        let lines = (!self.json && !self.terminal).then(|| {
            Arc::new(Lines {
                total: AtomicU64::new(total),
                ..Lines::default()
            })
        });
        if self.json || lines.is_some() {
            return Progress {
                bar: None,
                lines,
                name: name.to_owned(),
            };
        }
        let bar = ProgressBar::new(total);
        // A length that is not known yet is not shown as 0.
        let template = if total == 0 {
            "{prefix:20!} {wide_msg}"
        } else {
            template
        };
        bar.set_style(style(template));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress {
            bar: Some(bar),
            lines: None,
            name: name.to_owned(),
        }
    }
}

/// A bar over things; the message is cut at the terminal's edge.
const COUNT: &str = "{prefix:12!} {bar:20} {pos}/{len} {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a wrong one shows the default bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Progress without a terminal: every tenth is a line, so that a log stays short.
#[derive(Debug, Default)]
struct Lines {
    position: AtomicU64,
    total: AtomicU64,
    /// The tenth after the last that was printed.
    next: AtomicU64,
}

impl Lines {
    /// Whether another tenth is done since this was asked last.
    fn is_due(&self) -> bool {
        let position = self.position.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed).max(1);
        let tenth = position.saturating_mul(10) / total;
        let next = self.next.load(Ordering::Relaxed);
        if tenth < next {
            return false;
        }
        self.next.store(tenth + 1, Ordering::Relaxed);
        true
    }
}

/// Progress of one thing: a bar, some lines, or nothing. Clones move the same bar.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: Option<Arc<Lines>>,
    name: String,
}

impl Progress {
    /// Moves the bar to a position.
    pub fn set(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
        }
        if let Some(lines) = &self.lines {
            lines.position.store(position, Ordering::Relaxed);
        }
    }

    /// Moves the bar on.
    pub fn add(&self, amount: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(amount);
        }
        if let Some(lines) = &self.lines {
            lines.position.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Sets the bar's length, which may be known late.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar
            && bar.length() != Some(total)
        {
            bar.set_length(total);
            bar.set_style(style(COUNT));
        }
        if let Some(lines) = &self.lines {
            lines.total.store(total, Ordering::Relaxed);
        }
    }

    /// Shows a text beside the bar; without a terminal a line for every tenth.
    pub fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
        if let Some(lines) = &self.lines
            && lines.is_due()
        {
            let position = lines.position.load(Ordering::Relaxed);
            let total = lines.total.load(Ordering::Relaxed);
            let name = &self.name;
            let _ = writeln!(
                std::io::stderr().lock(),
                "{name} {position}/{total}: {text}"
            );
        }
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if self.lines.is_some() => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_a_line_for_each_tenth() {
        let lines = Lines {
            total: AtomicU64::new(500),
            ..Lines::default()
        };
        let due = (1..=500).filter(|position| {
            lines.position.store(*position, Ordering::Relaxed);
            lines.is_due()
        });
        assert_eq!(due.count(), 11);
    }

    #[test]
    fn the_bars_are_as_wide_as_the_terminal() {
        for template in [COUNT, "{prefix:20!} {wide_bar} {bytes}/{total_bytes}"] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
            assert!(template.contains("{wide_"), "{template}");
        }
    }
}
