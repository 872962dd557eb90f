//! What was measured, each figure beside its goal.

use std::time::Duration;

use serde_json::{Value, json};

use crate::tools::show;

/// What a figure is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// The figure is told only.
    None,
    /// The figure is this or less.
    AtMost(f64),
    /// The figure is this or more.
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
        }
    }

    fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
        }
    }
}

/// Prints figures as they are measured.
pub(super) struct Figures {
    is_json: bool,
    /// Names of figures that missed their goals.
    missed: Vec<String>,
}

impl Figures {
    pub(super) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            missed: Vec::new(),
        }
    }

    /// Names of figures that missed their goals.
    pub(super) fn missed(self) -> Vec<String> {
        self.missed
    }

    /// Tells a figure, with whatever explains it.
    pub(super) fn tell(&mut self, name: &str, (value, unit): (f64, &str), goal: Goal, more: Value) {
        let is_met = goal.is_met(value);
        if is_met == Some(false) {
            self.missed.push(name.to_owned());
        }
        if self.is_json {
            let mut line = json!({
                "what": name, "value": value, "unit": unit, "goal": goal.text(), "met": is_met,
            });
            if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
                line.extend(more);
            }
            return show(line);
        }
        let met = match is_met {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let mut details = String::new();
        if let Value::Object(more) = more {
            for (name, value) in more {
                let value = match value.as_f64() {
                    Some(value) if value.fract() != 0.0 => format!("{value:.3}"),
                    Some(_) | None => value.to_string(),
                };
                details.push_str(&format!("  {name} {value}"));
            }
        }
        show(format!(
            "{name:<58} {value:>11.3} {unit:<8} {:<9} {met:<6}{details}",
            goal.text()
        ));
    }

    /// Says why a figure was not measured.
    pub(super) fn skip(&self, name: &str, why: &str) {
        match self.is_json {
            true => show(json!({ "what": name, "skipped": why })),
            false => show(format!("{name:<58} not measured: {why}")),
        }
    }

    /// Tells something that was done once, in seconds.
    pub(super) fn once(&mut self, name: &str, took: Duration, goal: Goal) {
        self.tell(name, (took.as_secs_f64(), "s"), goal, Value::Null);
    }

    /// Tells times: the value is the median.
    pub(super) fn times(&mut self, name: &str, times: &[Duration], goal: Goal) {
        let at = |share| ms(quantile(times, share));
        let more = json!({
            "count": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
        });
        self.tell(name, (at(0.5), "ms"), goal, more);
    }
}

/// The time that this share of the times does not exceed.
pub(super) fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() as f64 * share) as usize;
    let time = sorted.get(place.min(sorted.len().saturating_sub(1)));
    time.copied().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_says_whether_it_is_met() {
        assert_eq!(Goal::AtMost(5.0).is_met(5.0), Some(true));
        assert_eq!(Goal::AtMost(0.0).is_met(1.0), Some(false));
        assert_eq!(Goal::AtLeast(0.95).is_met(0.94), Some(false));
        assert_eq!(Goal::None.is_met(1.0), None);
        let mut figures = Figures::new(true);
        figures.tell("slow", (2.0, "s"), Goal::AtMost(1.0), Value::Null);
        figures.tell("fine", (1.0, "s"), Goal::AtMost(1.0), Value::Null);
        assert_eq!(figures.missed(), ["slow"]);
    }

    #[test]
    fn the_last_quantile_is_the_longest_time() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 1.0), Duration::from_millis(100));
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
