//! What hyper-parameters mean for labels that exclude one another, and for labels that do not.
//!
//! Invariant: pure; what has no meaning for a data set's labels is refused before a job is queued.

use super::selection;
use crate::spec::{BestBy, HyperParameters, Invalid, LabelKind};

/// Completes what a caller submitted, as far as it depends on the kind of the data set's labels.
///
/// # Errors
/// Names the first field that has no meaning for such labels.
pub(super) fn complete(hyper: &mut HyperParameters, kind: LabelKind) -> Result<(), Invalid> {
    let refused = |field, problem: &str| Err(Invalid::new(field, problem));
    let selection = hyper.selection.get_or_insert_default();
    selection::complete(selection);
    if !kind.is_multi() {
        if selection.best_by == Some(BestBy::Map) {
            let problem = "mean average precision is of data sets with LABEL_KIND_MULTI, and the labels of this one exclude one another";
            return refused("best_by", problem);
        }
        return Ok(());
    }
    if hyper.balanced_sampling == Some(true) {
        let problem = "labels that do not exclude one another (LABEL_KIND_MULTI) cannot take turns: class_weights weighs them in the loss";
        return refused("balanced_sampling", problem);
    }
    if hyper.unknown_below.is_some() {
        let problem = "labels that do not exclude one another (LABEL_KIND_MULTI) have no confidence in common: each has a threshold of its own";
        return refused("unknown_below", problem);
    }
    selection.best_by.get_or_insert(BestBy::Map);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_meaning_for_the_labels_is_refused() {
        let of = |change: fn(&mut HyperParameters), kind| {
            let mut hyper = HyperParameters::default();
            change(&mut hyper);
            let done = complete(&mut hyper, kind);
            done.map(|()| hyper.selection.and_then(|own| own.best_by))
                .map_err(|invalid| invalid.field)
        };
        let map = |hyper: &mut HyperParameters| {
            hyper.selection.get_or_insert_default().best_by = Some(BestBy::Map);
        };
        assert_eq!(of(|_| {}, LabelKind::Single), Ok(None));
        assert_eq!(of(|_| {}, LabelKind::Multi), Ok(Some(BestBy::Map)));
        assert_eq!(of(map, LabelKind::Single), Err("best_by"));
        assert_eq!(of(map, LabelKind::Multi), Ok(Some(BestBy::Map)));
        let turns = |hyper: &mut HyperParameters| hyper.balanced_sampling = Some(true);
        assert_eq!(of(turns, LabelKind::Single), Ok(None));
        assert_eq!(of(turns, LabelKind::Multi), Err("balanced_sampling"));
        let unknown = |hyper: &mut HyperParameters| hyper.unknown_below = Some(0.3);
        assert_eq!(of(unknown, LabelKind::Single), Ok(None));
        assert_eq!(of(unknown, LabelKind::Multi), Err("unknown_below"));
    }
}
