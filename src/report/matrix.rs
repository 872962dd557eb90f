//! Confusion matrices as shaded tables.

use std::fmt::Write;

use super::escape;

/// Counts of each predicted label for each true label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Caption of the matrix.
    pub caption: String,
    /// Labels of the rows and of the columns.
    pub labels: Vec<String>,
    /// Counts, row by row: row = true label, column = predicted label.
    pub counts: Vec<i64>,
}

impl Matrix {
    /// The matrix as a figure; a cell is as dark as its share of its row.
    pub(super) fn markup(&self) -> String {
        let mut text = String::from(
            "<figure class=\"matrix\"><table><thead><tr><th>truth ↓ &nbsp; predicted →</th>",
        );
        for label in &self.labels {
            let _ = write!(text, "<th scope=\"col\">{}</th>", escape(label));
        }
        text.push_str("</tr></thead><tbody>\n");
        let rows = self.counts.chunks(self.labels.len().max(1));
        for (row, (label, counts)) in self.labels.iter().zip(rows).enumerate() {
            let total = counts.iter().sum::<i64>().max(1) as f64;
            let _ = write!(text, "<tr><th scope=\"row\">{}</th>", escape(label));
            for (column, count) in counts.iter().enumerate() {
                let class = if row == column { "hit" } else { "miss" };
                let share = *count as f64 / total;
                let _ = write!(
                    text,
                    "<td class=\"{class}\" style=\"--share:{share:.2}\">{count}</td>"
                );
            }
            text.push_str("</tr>\n");
        }
        let caption = escape(&self.caption);
        let _ = writeln!(
            text,
            "</tbody></table><figcaption>{caption}</figcaption></figure>"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_truth_and_cells_are_shaded_by_their_share() {
        let matrix = Matrix {
            caption: "a < b".to_owned(),
            labels: vec!["left".to_owned(), "right".to_owned()],
            counts: vec![3, 1, 0, 4],
        };
        let markup = matrix.markup();
        assert!(markup.contains("truth ↓"));
        assert!(markup.contains("<th scope=\"row\">left</th><td class=\"hit\" style=\"--share:0.75\">3</td><td class=\"miss\" style=\"--share:0.25\">1</td>"));
        assert!(markup.contains("a &lt; b"));
    }
}
