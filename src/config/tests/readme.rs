//! README's table of settings against the settings: every key that the help shows, each with its default.

use std::collections::BTreeMap;

use crate::config::settings::{DEFAULTS, Settings};

const README: &str = include_str!("../../../README.md");

/// Settings for tests alone, which the help does not show either.
const HIDDEN: [&str; 2] = ["crash_at", "cpu"];

/// The texts in backticks of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The value of a cell that is one.
fn value(cell: &str) -> Option<&str> {
    let value = cell.strip_prefix('`')?.strip_suffix('`')?;
    (!value.contains('`')).then_some(value)
}

/// The cells of a line of a table; a bar within a cell is escaped.
fn cells(line: &str) -> Vec<&str> {
    let line = line.trim().trim_matches('|');
    let mut begin = 0;
    let mut cells = Vec::new();
    for (at, _) in line.match_indices('|') {
        if !line[..at].ends_with('\\') {
            cells.push(line[begin..at].trim());
            begin = at + 1;
        }
    }
    cells.push(line[begin..].trim());
    cells
}

/// Each key of README's table with its default, if the table gives one as a value.
fn table() -> BTreeMap<&'static str, Option<&'static str>> {
    let (_, rest) = README.split_once("| key | default | what it is |").unwrap();
    let lines = rest.lines().skip(2);
    let mut table = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells = cells(line);
        let [keys, default, text] = cells[..] else {
            panic!("{line}: expected three cells");
        };
        assert!(!text.is_empty(), "{line}");
        let keys = quoted(keys);
        // One default stands for all keys of a line, or each has its own; a dash and plain words are no value.
        let defaults: Vec<_> = default.split(", ").map(value).collect();
        let defaults = match defaults.len() {
            count if count == keys.len() => defaults,
            _ => vec![value(default); keys.len()],
        };
        for (key, default) in keys.into_iter().zip(defaults) {
            let before = table.insert(key, default);
            assert!(before.is_none(), "{key} has two lines");
        }
    }
    table
}

#[test]
fn readme_names_every_setting_with_its_default_and_no_other() {
    let defaults: BTreeMap<&str, &str> = DEFAULTS.iter().copied().collect();
    let keys = Settings::KEYS.iter().filter(|key| !HIDDEN.contains(key));
    let expected: BTreeMap<&str, Option<&str>> =
        keys.map(|key| (*key, defaults.get(key).copied())).collect();
    let table = table();
    for (key, default) in &expected {
        assert_eq!(table.get(key), Some(default), "README's line of {key}");
    }
    for key in table.keys() {
        assert!(expected.contains_key(key), "{key} is no setting");
    }
}
