//! docs/errors.md has a row for every reason of the API's statuses, under its code, and none for any other.

use std::collections::BTreeMap;

use frameshift::rpc::Reason;
use tonic::Code;

const DOC: &str = include_str!("../../docs/errors.md");

/// The heading under which a code's reasons stand.
fn heading(code: Code) -> String {
    let name = format!("{code:?}");
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_uppercase());
    }
    text
}

/// Reasons and the heading of each; every cell of a row says something, but the last.
fn documented() -> BTreeMap<String, String> {
    let (_, reasons) = DOC.split_once("\n## Reasons\n").expect("the reasons");
    let reasons = reasons.split("\n## ").next().expect("a section");
    let (mut code, mut rows) = (String::new(), BTreeMap::new());
    for line in reasons.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            code = heading.to_owned();
        }
        let Some(row) = line.strip_prefix("| `") else {
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let reason = cells[0].trim_end_matches('`').to_owned();
        assert!(cells.len() >= 4, "{line}");
        assert!(
            cells[1..3].iter().all(|cell| cell.ends_with('.')),
            "{line}: what happened and what to do are sentences"
        );
        let before = rows.insert(reason, code.clone());
        assert!(before.is_none(), "{line} is there twice");
    }
    rows
}

#[test]
fn every_reason_has_its_row_and_every_row_its_reason() {
    let known: BTreeMap<String, String> = Reason::all()
        .into_iter()
        .map(|reason| (reason.name().to_owned(), heading(reason.code())))
        .collect();
    assert!(known.len() > 50);
    let documented = documented();
    for (reason, code) in &known {
        assert_eq!(documented.get(reason), Some(code), "{reason}");
    }
    for reason in documented.keys() {
        assert!(
            known.contains_key(reason),
            "{reason} is no reason of the API"
        );
    }
}
