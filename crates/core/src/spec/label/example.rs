//! The labels of one example of a data set.
//!
//! Invariant: labels are in order, each once; their text is one label as it is, or several that are joined by a character that no label can hold.

use super::{Invalid, check_label};

/// Most labels of one example.
pub const MAX_EXAMPLE_LABELS: usize = 64;
/// Separates the labels in the text: a control character, which no label has.
const JOINT: char = '\u{1f}';

/// The labels of one example: exactly one, or any number when labels do not exclude one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExampleLabels(String);

impl ExampleLabels {
    /// Collects labels in any order; equal ones count once.
    ///
    /// # Errors
    /// Names the first label that is malformed, or says that there are more than [`MAX_EXAMPLE_LABELS`].
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        let mut labels: Vec<&str> = labels.into_iter().collect();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() > MAX_EXAMPLE_LABELS {
            let problem = format!(
                "expected at most {MAX_EXAMPLE_LABELS}, got {}",
                labels.len()
            );
            return Err(Invalid::new("labels", problem));
        }
        labels.iter().try_for_each(|label| check_label(label))?;
        Ok(Self(labels.join(&String::from(JOINT))))
    }

    /// Reads the text that [`Self::text`] gives.
    pub fn read(text: String) -> Self {
        Self(text)
    }

    /// The labels as one text, which is equal for equal labels; a single label is its own text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The labels in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(JOINT).filter(|label| !label.is_empty())
    }

    /// The label, when there is exactly one.
    pub fn only(&self) -> Option<&str> {
        let is_one = !self.0.is_empty() && !self.0.contains(JOINT);
        is_one.then_some(self.0.as_str())
    }
}

impl From<&str> for ExampleLabels {
    fn from(label: &str) -> Self {
        Self(label.to_owned())
    }
}

impl From<String> for ExampleLabels {
    fn from(label: String) -> Self {
        Self(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_text_whatever_their_order() {
        let labels = ExampleLabels::of(["run", "jump", "run"]).unwrap();
        assert_eq!(labels, ExampleLabels::of(["jump", "run"]).unwrap());
        assert!(labels.iter().eq(["jump", "run"]));
        assert_eq!(ExampleLabels::read(labels.text().to_owned()), labels);
        assert_eq!(labels.only(), None);
        let one = ExampleLabels::of(["run"]).unwrap();
        assert_eq!((one.text(), one.only()), ("run", Some("run")));
        assert_eq!(one, "run".into());
        let none = ExampleLabels::of([]).unwrap();
        assert_eq!((none.iter().count(), none.only()), (0, None));
    }

    #[test]
    fn malformed_labels_and_too_many_are_refused() {
        assert!(ExampleLabels::of(["a", ""]).is_err());
        assert!(ExampleLabels::of(["a\u{1f}b"]).is_err());
        let many: Vec<String> = (0..=MAX_EXAMPLE_LABELS).map(|i| i.to_string()).collect();
        let all = || many.iter().map(String::as_str);
        assert!(ExampleLabels::of(all().skip(1)).is_ok());
        assert!(ExampleLabels::of(all()).is_err());
    }
}
