//! The figures of the gates as tables: for a terminal, and in Markdown for a README.
//!
//! Invariant: a gate that was not measured says why in place of a ratio, and is not met.

use super::record::{Conditions, Report};
use super::table::{Bound, Line};
use crate::report::Table;

/// The goal of a gate.
fn goal(line: &Line) -> String {
    let bound = match line.bound {
        Bound::AtLeast => "≥",
        Bound::AtMost => "≤",
    };
    format!("{bound} {}", line.number(line.goal))
}

fn met(line: &Line) -> &'static str {
    if line.met { "yes" } else { "no" }
}

fn errors(line: &Line) -> u64 {
    line.pairs.iter().map(|pair| pair.errors).sum()
}

/// A table for a terminal, below the conditions.
pub(super) fn text(report: &Report) -> String {
    let mut table = Table::new(&["", "ratio", "goal", "met", "pairs", "failed requests"]);
    for line in &report.gates {
        let pairs = line.pairs.iter().map(|pair| line.number(pair.a / pair.b));
        table.row(vec![
            line.name.name(),
            line.ratio
                .map_or_else(|| "–".to_owned(), |ratio| line.number(ratio)),
            goal(line),
            met(line).to_owned(),
            pairs.collect::<Vec<_>>().join(" "),
            errors(line).to_string(),
        ]);
    }
    let Conditions {
        version,
        backbone,
        precision,
        seconds,
        ..
    } = &report.conditions;
    let table = table.to_text();
    format!(
        "frameshift {version}, {backbone} in {precision}, {seconds} s each\n{}",
        table.trim_end()
    )
}

/// A sentence about the circumstances and a table in Markdown.
pub(super) fn markdown(report: &Report) -> String {
    let Conditions {
        version,
        backbone,
        precision,
        cpus,
        seconds,
        pairs,
        ..
    } = &report.conditions;
    let day = report.date.split('T').next().unwrap_or_default();
    let cpus = match cpus {
        Some(split) => format!(
            "server on CPU {:?}, load generator and decoders on CPU {:?}",
            split.server, split.generator
        ),
        None => "CPUs chosen by the system".to_owned(),
    };
    let mut text = format!(
        "`frameshift bench gates` of {day}: frameshift {version}, {backbone} in {precision}, {}; {cpus}; medians of at most {pairs} pairs of {seconds} s each.\n\n| gate | ratio | goal | met | failed requests |\n|---|---|---|---|---|\n",
        report.machine
    );
    for line in &report.gates {
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            line.name.name(),
            line.found().replace('|', "\\|").replace('\n', " "),
            goal(line),
            met(line),
            errors(line)
        );
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::table::{Gate, Pair};
    use super::*;

    #[test]
    fn markdown_has_a_row_for_each_gate_and_says_where_and_when() {
        let pair = Pair {
            a: 99.0,
            b: 100.0,
            errors: 2,
        };
        let report = Report {
            conditions: Conditions {
                version: "1.2.3".to_owned(),
                backbone: "builtin".to_owned(),
                precision: "f32".to_owned(),
                cpus: None,
                full_size: None,
                seconds: 8.0,
                warmup: 1.0,
                pairs: 3,
                seed: 1,
            },
            machine: "A CPU, 2 cores".to_owned(),
            date: "2026-11-30T10:00:00Z".to_owned(),
            gates: vec![
                Line::new(Gate::Tasks64, Ok(vec![pair])),
                Line::new(Gate::Swap14Mb, Err("no | server".to_owned())),
            ],
        };
        let text = markdown(&report);
        let rows: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            rows,
            [
                "| `tasks_64` | 0.990 | ≥ 0.980 | yes | 2 |",
                "| `swap_14_mb` | no \\| server | ≤ 20.0 ms | no | 0 |",
            ]
        );
        let first = text.lines().next().unwrap();
        for part in ["2026-11-30:", "1.2.3", "A CPU, 2 cores", "8 s each"] {
            assert!(first.contains(part), "{first}");
        }
    }
}
