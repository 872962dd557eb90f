//! Self-contained HTML reports: text, tables, figures; one file without a script or a link to anywhere.
//!
//! Invariant: every text that a caller gives is escaped; only [`chart`] and [`sheet`] make markup for figures.

use std::fmt::Write;

pub mod chart;
mod matrix;
pub mod sheet;

pub use matrix::Matrix;

const STYLE: &str = include_str!("report/style.css");

/// Markup that goes into a page without being escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markup(String);

impl Markup {
    /// The markup's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Escapes a text for use between tags and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A table: the first column names the row, the others are aligned to the right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// Cells of each row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text for a terminal, columns two spaces apart.
    pub fn to_text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let longest = cells
                .chain(self.columns.get(column))
                .map(|cell| cell.chars().count());
            longest.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&self.columns).chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = match column {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A page that sections, tables and figures are added to.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with a title and a sentence below it.
    pub fn new(title: &str, lead: &str) -> Self {
        let (title, lead) = (escape(title), escape(lead));
        Self {
            body: format!("<header><h1>{title}</h1><p>{lead}</p></header>\n"),
            title,
        }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) -> &mut Self {
        self.add(&format!("<h2>{}</h2>\n", escape(title)))
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        self.add(&format!("<p>{}</p>\n", escape(text)))
    }

    /// Adds large figures with a caption each.
    pub fn tiles(&mut self, tiles: &[(String, String)]) -> &mut Self {
        self.add("<div class=\"tiles\">");
        for (figure, caption) in tiles {
            self.add(&format!(
                "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
                escape(figure),
                escape(caption)
            ));
        }
        self.add("</div>\n")
    }

    /// Adds a table. Where it is wider than the page, each row becomes a list of the columns' heads and its cells.
    pub fn table(&mut self, table: &Table) -> &mut Self {
        let head = |column: &String| format!("<th scope=\"col\">{}</th>", escape(column));
        let heads: String = table.columns.iter().map(head).collect();
        self.add(&format!(
            "<table class=\"stack\"><thead><tr>{heads}</tr></thead><tbody>\n"
        ));
        for row in &table.rows {
            let cell = |(column, cell): (&String, &String)| {
                format!("<td data-head=\"{}\">{}</td>", escape(column), escape(cell))
            };
            let cells: String = table.columns.iter().zip(row).map(cell).collect();
            self.add(&format!("<tr>{cells}</tr>\n"));
        }
        self.add("</tbody></table>\n")
    }

    /// Adds names with their values.
    pub fn facts(&mut self, facts: &[(String, String)]) -> &mut Self {
        self.add("<dl class=\"facts\">");
        for (name, value) in facts {
            let (name, value) = (escape(name), escape(value));
            self.add(&format!("<div><dt>{name}</dt><dd>{value}</dd></div>"));
        }
        self.add("</dl>\n")
    }

    /// Adds confusion matrices side by side, as far as there is room.
    pub fn matrices(&mut self, matrices: &[Matrix]) -> &mut Self {
        self.add("<div class=\"figures\">\n");
        for matrix in matrices {
            self.add(&matrix.markup());
        }
        self.add("</div>\n")
    }

    /// Adds a figure with a caption.
    pub fn figure(&mut self, figure: &Markup, caption: &str) -> &mut Self {
        self.add(&format!(
            "<figure>{}<figcaption>{}</figcaption></figure>\n",
            figure.as_str(),
            escape(caption)
        ))
    }

    /// Adds figures side by side, as far as there is room.
    pub fn figures(&mut self, figures: &[(Markup, String)]) -> &mut Self {
        self.add("<div class=\"figures\">\n");
        for (figure, caption) in figures {
            self.figure(figure, caption);
        }
        self.add("</div>\n")
    }

    /// The whole file.
    pub fn finish(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            self.title, self.body
        )
    }

    fn add(&mut self, markup: &str) -> &mut Self {
        self.body.push_str(markup);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        let mut table = Table::new(&["task", "accuracy"]);
        table.row(vec!["<b>left & right</b>".to_owned(), "0.97".to_owned()]);
        let mut page = Page::new("A \"report\"", "it's <short>");
        page.section("One").paragraph("a < b").table(&table);
        page.tiles(&[("0.97".to_owned(), "of unseen clips".to_owned())]);
        page.facts(&[("cores".to_owned(), "2 < 3".to_owned())]);
        page.finish()
    }

    #[test]
    fn texts_are_escaped() {
        let page = page();
        assert!(page.contains("<td data-head=\"task\">&lt;b&gt;left &amp; right&lt;/b&gt;</td>"));
        assert!(page.contains("<title>A &quot;report&quot;</title>"));
        assert!(!page.contains("it's <short>"));
        assert!(page.contains("<dt>cores</dt><dd>2 &lt; 3</dd>"));
    }

    #[test]
    fn a_page_refers_to_nothing_outside() {
        let page = page();
        for reference in ["http:", "https:", "src=\"/", "<script", "<link", "url("] {
            assert!(!page.contains(reference), "{reference}");
        }
    }

    #[test]
    fn nothing_is_wider_than_the_page() {
        let page = page();
        assert!(!page.contains("overflow-x") && !page.contains("nowrap"));
        assert!(page.contains("@media print"));
    }

    #[test]
    fn a_table_lines_up_as_text() {
        let mut table = Table::new(&["task", "accuracy"]);
        table.row(vec!["direction".to_owned(), "0.9".to_owned()]);
        assert_eq!(
            table.to_text(),
            "task       accuracy\ndirection       0.9\n"
        );
    }
}
