//! Checkpoints that the real libraries wrote: each loads and computes what its library computes, or is refused for the right reason.
//!
//! Every case of `golden/backbones` is walked, never a list of names; a case or file that is not understood is a failure.

mod adapters;
mod case;
mod forward;
mod golden;
mod identity;
mod refusals;

use std::path::PathBuf;
use std::sync::Arc;

use case::Case;
use frameshift::model::Backbone;
use frameshift::model::load::{Error, Overrides, Plan, plan};
use frameshift::spec::Precision;

use crate::shared;

fn root() -> PathBuf {
    shared::root().join("golden/backbones")
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = case::folders(&root())
        .into_iter()
        .filter(|folder| !folder.ends_with("bad"))
        .map(|folder| Case::read(&folder))
        .collect();
    assert!(!cases.is_empty(), "no case in {:?}", root());
    cases
}

#[test]
fn every_checkpoint_computes_what_its_library_computes() {
    let cases = cases();
    let (mut adapters, mut said) = (0, 0);
    for case in &cases {
        let plan = plan_of(case);
        let backbone =
            Arc::new(Backbone::from_plan(&plan, Precision::F32).unwrap_or_else(|e| panic!("{e}")));
        case.check_config(backbone.config());
        assert_eq!(backbone.name(), case.name);
        assert_eq!(backbone.origin().family, case.family(), "{}", case.name);
        forward::check(case, &backbone);
        adapters += adapters::check(case, &backbone);
        said += usize::from(!case.overrides().is_empty());
    }
    println!(
        "{} cases match, with {adapters} adapter runs; for {said} the operator had to say what the file does not",
        cases.len()
    );
}

/// What the loader makes of a case's files; without the operator's word it refuses those that need one.
fn plan_of(case: &Case) -> Plan {
    let said = case.overrides();
    let overrides: Overrides = said.parse().expect("overrides");
    if !said.is_empty() {
        match plan(&case.folder, &Overrides::default()) {
            Ok(_) => panic!("{}: {said} was guessed", case.name),
            Err(error) => assert!(matches!(error, Error::Undecided { .. }), "{error}"),
        }
    }
    plan(&case.folder, &overrides).unwrap_or_else(|error| panic!("{error}"))
}
