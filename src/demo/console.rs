//! The demo's output while it runs: phases with their seconds, bars on a terminal and plain lines elsewhere.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The output of a demo.
pub(super) struct Console {
    phases: usize,
    bars: Option<MultiProgress>,
    current: RefCell<Option<(usize, Instant)>>,
}

impl Console {
    /// Creates a console for this many phases.
    pub(super) fn new(phases: usize) -> Self {
        Self {
            phases,
            bars: std::io::stderr().is_terminal().then(MultiProgress::new),
            current: RefCell::new(None),
        }
    }

    /// Ends the current phase, saying its seconds, and begins the next.
    pub(super) fn phase(&self, name: &str) {
        let number = self.end() + 1;
        self.line(&format!("[{number}/{}] {name}", self.phases));
        self.current.replace(Some((number, Instant::now())));
    }

    /// Ends the last phase.
    pub(super) fn finish(&self) {
        self.end();
    }

    fn end(&self) -> usize {
        let Some((number, begin)) = self.current.take() else {
            return 0;
        };
        self.line(&format!("      {:.1} s", begin.elapsed().as_secs_f64()));
        number
    }

    /// Prints a line, above the bars.
    pub(super) fn line(&self, text: &str) {
        let print = || {
            // A reader that has gone (`| head`) is no error.
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    /// A bar over `total` things; without a terminal each fifth of them is a line.
    pub(super) fn bar(&self, name: &str, total: u64) -> Bar<'_> {
        let bar = self.bars.as_ref().map(|bars| {
            // A bar whose length is not known yet begins empty.
            let bar = bars.add(ProgressBar::new(total.max(1)));
            if let Ok(style) =
                ProgressStyle::with_template("      {prefix:24!} {bar:20} {pos}/{len} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Bar {
            console: self,
            name: name.to_owned(),
            bar,
            state: RefCell::new((0, total, 0)),
        }
    }
}

/// Progress of one thing.
pub(super) struct Bar<'a> {
    console: &'a Console,
    name: String,
    bar: Option<ProgressBar>,
    /// Done, of how many, and the fifth that was last printed.
    state: RefCell<(u64, u64, u64)>,
}

impl Bar<'_> {
    /// Counts one more as done.
    pub(super) fn add(&self) {
        let (done, total, _) = *self.state.borrow();
        self.set(done + 1, total, "");
    }

    /// Sets the number done and the total; `text` is shown beside them.
    pub(super) fn set(&self, done: u64, total: u64, text: &str) {
        let mut state = self.state.borrow_mut();
        let fifth = done * 5 / total.max(1);
        let passed = fifth > state.2;
        *state = (done, total, fifth.max(state.2));
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            None if passed => {
                let line = format!("      {:24} {done}/{total} {text}", self.name);
                self.console.line(line.trim_end());
            }
            None => {}
        }
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
