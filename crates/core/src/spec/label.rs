//! Labels in one form: texts that look the same are the same label.
//!
//! Invariant: a label that was put into this form and is put into it again stays as it is.

mod example;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::Invalid;

pub use example::{ExampleLabels, MAX_EXAMPLE_LABELS};

/// Most labels of a data set, and so of a task's version.
pub const MAX_LABELS: usize = 20_000;

/// Whether the labels of a data set exclude one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// Every example has exactly one label; the scores of a clip are a softmax over the labels.
    #[default]
    Single,
    /// An example has any number of labels; the score of each label is a sigmoid of its own logit.
    Multi,
}

impl LabelKind {
    /// Returns whether an example has any number of labels.
    pub fn is_multi(self) -> bool {
        self == Self::Multi
    }
}

/// Ordered, distinct labels, and whether they exclude one another: row i of a head is label i.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredLabels", into = "StoredLabels")]
pub struct LabelSet {
    names: Arc<[String]>,
    kind: LabelKind,
}

/// Labels as records and manifests have them: a list, or an object when they do not exclude one another, which releases that know of no such labels refuse.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredLabels {
    Single(Vec<String>),
    Multi { multi: Vec<String> },
}

impl LabelSet {
    /// Checks that labels are well formed, distinct and not too many; the order is kept. The labels exclude one another.
    ///
    /// # Errors
    /// When there are more than [`MAX_LABELS`]; names the first label that is empty, longer than 255 bytes, has control characters or is there twice.
    pub fn new(labels: Vec<String>) -> Result<Self, Invalid> {
        check_label_count(labels.len())?;
        Self::distinct(labels)
    }

    fn distinct(labels: Vec<String>) -> Result<Self, Invalid> {
        let mut seen = std::collections::HashSet::new();
        for label in &labels {
            check_label(label)?;
            if !seen.insert(label) {
                return Err(Invalid::new("label", format!("{label:?} is there twice")));
            }
        }
        Ok(Self {
            names: labels.into(),
            kind: LabelKind::Single,
        })
    }

    /// Returns the same labels as labels of this kind.
    #[must_use]
    pub fn of_kind(self, kind: LabelKind) -> Self {
        Self { kind, ..self }
    }

    /// Whether the labels exclude one another.
    pub fn kind(&self) -> LabelKind {
        self.kind
    }

    /// The labels in order.
    pub fn as_slice(&self) -> &[String] {
        &self.names
    }

    /// Number of labels.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The row of a label.
    pub fn index(&self, label: &str) -> Option<usize> {
        self.names.iter().position(|own| own == label)
    }

    /// The rows by name, for the labels of many examples.
    pub fn by_name(&self) -> LabelRows {
        let mut rows: Vec<(&String, u32)> = self.names.iter().zip(0..).collect();
        rows.sort_unstable();
        LabelRows {
            names: Arc::clone(&self.names),
            sorted: rows.into_iter().map(|(_, row)| row).collect(),
        }
    }
}

/// Rows of the labels of a set by name: a look-up takes about as many comparisons as the number of labels has bits.
#[derive(Debug, Clone)]
pub struct LabelRows {
    names: Arc<[String]>,
    /// Rows in the order of their labels.
    sorted: Box<[u32]>,
}

impl LabelRows {
    /// The rows of an example's labels; `None` when a label is not in the set.
    pub fn of(&self, labels: &ExampleLabels) -> Option<Vec<u32>> {
        labels.iter().map(|label| self.row(label)).collect()
    }

    fn row(&self, label: &str) -> Option<u32> {
        let name = |row: u32| self.names.get(row as usize).map_or("", String::as_str);
        let place = self.sorted.binary_search_by(|row| name(*row).cmp(label));
        self.sorted.get(place.ok()?).copied()
    }
}

impl TryFrom<Vec<String>> for LabelSet {
    type Error = Invalid;

    fn try_from(labels: Vec<String>) -> Result<Self, Invalid> {
        Self::try_from(StoredLabels::Single(labels))
    }
}

impl TryFrom<StoredLabels> for LabelSet {
    type Error = Invalid;

    fn try_from(stored: StoredLabels) -> Result<Self, Invalid> {
        // Release 0.1 stored sets of any size.
        match stored {
            StoredLabels::Single(labels) => Self::distinct(labels),
            StoredLabels::Multi { multi } => Ok(Self::distinct(multi)?.of_kind(LabelKind::Multi)),
        }
    }
}

impl From<LabelSet> for StoredLabels {
    fn from(labels: LabelSet) -> Self {
        let names = labels.names.to_vec();
        match labels.kind {
            LabelKind::Single => Self::Single(names),
            LabelKind::Multi => Self::Multi { multi: names },
        }
    }
}

impl From<LabelSet> for Vec<String> {
    fn from(labels: LabelSet) -> Self {
        labels.names.to_vec()
    }
}

/// Checks a number of labels.
///
/// # Errors
/// When there are more than [`MAX_LABELS`].
pub fn check_label_count(labels: usize) -> Result<(), Invalid> {
    if labels > MAX_LABELS {
        let problem = format!("expected at most {MAX_LABELS}, got {labels}");
        return Err(Invalid::new("labels", problem));
    }
    Ok(())
}

/// Checks one label.
///
/// # Errors
/// When it is empty, longer than 255 bytes or has control characters.
pub fn check_label(label: &str) -> Result<(), Invalid> {
    if label.is_empty() || label.len() > 255 || label.chars().any(char::is_control) {
        return Err(Invalid::new(
            "label",
            format!("{label:?} is not 1 to 255 bytes without control characters"),
        ));
    }
    Ok(())
}

/// A label in the form in which labels are compared and stored: Unicode NFC, without characters that show nothing, without white space at its ends.
///
/// # Errors
/// When nothing is left of it, or it is longer than 255 bytes or has control characters.
pub fn normal_label(text: &str) -> Result<String, Invalid> {
    let composed: String = text.chars().filter(|&c| !is_invisible(c)).nfc().collect();
    let label = composed.trim();
    check_label(label)?;
    Ok(label.to_owned())
}

/// A text with composed characters (Unicode NFC): names of files that look the same are the same.
pub fn composed(text: &str) -> String {
    text.nfc().collect()
}

/// What labels have in common that a reader would take for the same: they differ by case, or by spaces, hyphens and underscores, only.
pub fn label_outline(label: &str) -> String {
    label
        .to_lowercase()
        .split(|c: char| c.is_whitespace() || c == '_' || c == '-')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Byte order marks, zero-width spaces, word joiners and marks of the direction. Joiners stay: they change how Persian, Indic scripts and emoji look.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{feff}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{00ad}'
            | '\u{061c}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_look_the_same_are_the_same() {
        for (text, label) in [
            ("cafe\u{301}", "café"),
            ("café", "café"),
            ("walk ", "walk"),
            ("\u{feff}walk", "walk"),
            ("a\u{200b}b", "ab"),
            ("\u{a0}two  words\t", "two  words"),
            ("\u{202a}left\u{202c}", "left"),
        ] {
            assert_eq!(normal_label(text).unwrap(), label);
            assert_eq!(normal_label(label).unwrap(), label);
        }
        for text in ["", "   ", "\u{200b}", "a\tb", &"x".repeat(256)] {
            assert!(normal_label(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_kind_of_a_label_set_is_stored_with_it() {
        let labels = LabelSet::new(vec!["run".into(), "jump".into()]).unwrap();
        let text = serde_json::to_string(&labels).unwrap();
        assert_eq!(text, r#"["run","jump"]"#, "as earlier releases stored them");
        assert_eq!(serde_json::from_str::<LabelSet>(&text).unwrap(), labels);
        let multi = labels.clone().of_kind(LabelKind::Multi);
        assert_ne!(multi, labels);
        let text = serde_json::to_string(&multi).unwrap();
        assert_eq!(text, r#"{"multi":["run","jump"]}"#);
        assert_eq!(serde_json::from_str::<LabelSet>(&text).unwrap(), multi);
        let twice = serde_json::from_str::<LabelSet>(r#"{"multi":["run","run"]}"#);
        assert!(twice.is_err());
    }

    #[test]
    fn labels_have_their_rows_in_any_order_of_the_set() {
        let names: Vec<String> = (0..1000)
            .map(|i| format!("label {}", i * 7 % 1000))
            .collect();
        let labels = LabelSet::new(names.clone()).unwrap();
        let rows = labels.by_name();
        for (row, name) in (0..).zip(&names) {
            assert_eq!(
                rows.of(&ExampleLabels::from(name.as_str())),
                Some(vec![row])
            );
        }
        let both = ExampleLabels::of([names[30].as_str(), names[7].as_str()]).unwrap();
        let found = rows.of(&both).map(|mut found| {
            found.sort_unstable();
            found
        });
        assert_eq!(found, Some(vec![7, 30]));
        let other = ExampleLabels::of([names[30].as_str(), "fall"]).unwrap();
        assert_eq!(rows.of(&other), None);
        assert_eq!(rows.of(&ExampleLabels::default()), Some(Vec::new()));
        let none = LabelSet::new(Vec::new()).unwrap().by_name();
        assert_eq!(none.of(&both), None);
    }

    #[test]
    fn labels_of_one_outline_are_easily_taken_for_each_other() {
        assert_eq!(label_outline("Walk"), label_outline("walk"));
        assert_eq!(label_outline("high_jump"), label_outline("High  jump"));
        assert_ne!(label_outline("walk"), label_outline("walking"));
    }
}
