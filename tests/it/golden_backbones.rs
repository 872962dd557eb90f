//! Checkpoints that the real libraries wrote: each loads and computes what its library computes, or is refused for the right reason.
//!
//! Every case of `golden/backbones` is walked, never a list of names; a case or file that is not understood is a failure.

mod adapters;
mod case;
mod forward;
mod golden;
mod refusals;

use std::path::PathBuf;
use std::sync::Arc;

use case::{Case, Expectation};
use frameshift::model::Backbone;
use frameshift::model::load::{Error, open};

use crate::shared;

fn root() -> PathBuf {
    shared::root().join("golden/backbones")
}

#[test]
fn every_hugging_face_clip_matches_and_every_other_family_is_refused() {
    let cases: Vec<Case> = case::folders(&root())
        .into_iter()
        .filter(|folder| !folder.ends_with("bad"))
        .map(|folder| Case::read(&folder))
        .collect();
    let (mut matched, mut refused, mut adapters) = (0, 0, 0);
    for case in &cases {
        match case.expectation() {
            Expectation::Match => {
                let backbone = load(case);
                forward::check(case, &backbone);
                adapters += adapters::check(case, &backbone);
                matched += 1;
            }
            Expectation::Refuse => {
                refuse(case);
                refused += 1;
            }
        }
    }
    println!(
        "{} cases: {matched} match, with {adapters} adapter runs; {refused} of other families are refused",
        cases.len()
    );
    assert!(matched > 0, "no case that can be loaded in {:?}", root());
}

/// Loads a case, and compares what its files say with what its library said.
fn load(case: &Case) -> Arc<Backbone> {
    let backbone = Backbone::load(&case.folder).unwrap_or_else(|error| panic!("{error}"));
    case.check_config(backbone.config());
    assert_eq!(backbone.name(), case.name);
    Arc::new(backbone)
}

fn refuse(case: &Case) {
    let error = match open(&case.folder) {
        Ok(_) => panic!("{}: loaded, but its family is not supported", case.name),
        Err(error) => error,
    };
    println!("{}: {error}", case.name);
    assert!(
        matches!(error, Error::Unsupported { .. }),
        "{}: refused as broken, not as unsupported: {error}",
        case.name
    );
}
