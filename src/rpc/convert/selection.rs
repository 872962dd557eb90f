//! Evaluations of a job beside its training, and the choice of the weights that it publishes.

use tonic::Status;

use crate::proto::v1;
use crate::rpc::status;
use crate::spec::{BestBy, ClassWeights, Mirror, Publish, Selection};

/// The selection of submitted hyper-parameters; the jobs check ranges.
pub(super) fn selection(given: &v1::HyperParameters) -> Result<Selection, Status> {
    let unknown = |field: &str, number: i32| {
        let path = format!("hyper_parameters.{field}");
        status::invalid(&path, format!("unknown: {number}"))
    };
    let best_by = |number: i32| match v1::BestBy::try_from(number) {
        Ok(v1::BestBy::Unspecified) => Ok(None),
        Ok(v1::BestBy::Loss) => Ok(Some(BestBy::Loss)),
        Ok(v1::BestBy::Top1) => Ok(Some(BestBy::Top1)),
        Ok(v1::BestBy::Map) => Ok(Some(BestBy::Map)),
        Err(_) => Err(unknown("best_by", number)),
    };
    let publish = |number: i32| match v1::Publish::try_from(number) {
        Ok(v1::Publish::Unspecified) => Ok(None),
        Ok(v1::Publish::Best) => Ok(Some(Publish::Best)),
        Ok(v1::Publish::Last) => Ok(Some(Publish::Last)),
        Err(_) => Err(unknown("publish", number)),
    };
    Ok(Selection {
        eval_every: given.eval_every,
        best_by: given.best_by.map(best_by).transpose()?.flatten(),
        publish: given.publish.map(publish).transpose()?.flatten(),
        patience: given.patience,
        validation_share: given.validation_share,
        evaluate_test: given.evaluate_test,
        near_duplicates: given.near_duplicates,
        by_size: None,
    })
}

/// Whether clips are mirrored, of submitted hyper-parameters.
pub(super) fn mirror(given: &v1::HyperParameters) -> Result<Option<Mirror>, Status> {
    let Some(number) = given.mirror else {
        return Ok(None);
    };
    match v1::Mirror::try_from(number) {
        Ok(v1::Mirror::Unspecified) => Ok(None),
        Ok(v1::Mirror::Off) => Ok(Some(Mirror::Off)),
        Ok(v1::Mirror::On) => Ok(Some(Mirror::On)),
        Ok(v1::Mirror::Auto) => Ok(Some(Mirror::Auto)),
        Err(_) => Err(status::invalid(
            "hyper_parameters.mirror",
            format!("unknown: {number}"),
        )),
    }
}

/// How much each label's clips count, of submitted hyper-parameters.
pub(super) fn class_weights(given: Option<i32>) -> Result<Option<ClassWeights>, Status> {
    let Some(number) = given else {
        return Ok(None);
    };
    match v1::ClassWeights::try_from(number) {
        Ok(v1::ClassWeights::Unspecified) => Ok(None),
        Ok(v1::ClassWeights::Equal) => Ok(Some(ClassWeights::Equal)),
        Ok(v1::ClassWeights::Balanced) => Ok(Some(ClassWeights::Balanced)),
        Err(_) => Err(status::invalid(
            "hyper_parameters.class_weights",
            format!("unknown: {number}"),
        )),
    }
}

/// How much each label's clips count, as the API shows it.
pub(super) fn of_class_weights(weights: Option<ClassWeights>) -> Option<i32> {
    let shown = weights.map(|weights| match weights {
        ClassWeights::Equal => v1::ClassWeights::Equal,
        ClassWeights::Balanced => v1::ClassWeights::Balanced,
    });
    shown.map(Into::into)
}

/// Whether clips are mirrored, as the API shows it.
pub(super) fn of_mirror(mirror: Option<Mirror>) -> Option<i32> {
    let shown = mirror.map(|mirror| match mirror {
        Mirror::Off => v1::Mirror::Off,
        Mirror::On => v1::Mirror::On,
        Mirror::Auto => v1::Mirror::Auto,
    });
    shown.map(Into::into)
}

/// Hyper-parameters with nothing but a selection.
pub(super) fn of_selection(selection: Option<&Selection>) -> v1::HyperParameters {
    let Some(own) = selection else {
        return v1::HyperParameters::default();
    };
    let best_by = own.best_by.map(|by| match by {
        BestBy::Loss => v1::BestBy::Loss,
        BestBy::Top1 => v1::BestBy::Top1,
        BestBy::Map => v1::BestBy::Map,
    });
    let publish = own.publish.map(|publish| match publish {
        Publish::Best => v1::Publish::Best,
        Publish::Last => v1::Publish::Last,
    });
    v1::HyperParameters {
        eval_every: own.eval_every,
        best_by: best_by.map(Into::into),
        publish: publish.map(Into::into),
        patience: own.patience,
        validation_share: own.validation_share,
        evaluate_test: own.evaluate_test,
        near_duplicates: own.near_duplicates,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_weights_are_shown_as_they_were_given() {
        for weights in [
            None,
            Some(ClassWeights::Equal),
            Some(ClassWeights::Balanced),
        ] {
            assert_eq!(class_weights(of_class_weights(weights)).unwrap(), weights);
        }
        assert!(class_weights(Some(9)).is_err());
    }

    #[test]
    fn a_selection_is_shown_as_it_was_given() {
        for (best_by, publish) in [(BestBy::Loss, Publish::Last), (BestBy::Top1, Publish::Best)] {
            let given = Selection {
                eval_every: Some(2),
                best_by: Some(best_by),
                publish: Some(publish),
                patience: Some(0),
                validation_share: Some(0.25),
                evaluate_test: Some(false),
                near_duplicates: Some(false),
                by_size: None,
            };
            assert_eq!(selection(&of_selection(Some(&given))).unwrap(), given);
        }
        let absent = selection(&of_selection(None)).unwrap();
        assert_eq!(absent, Selection::default());
        let odd = v1::HyperParameters {
            publish: Some(9),
            ..Default::default()
        };
        assert!(selection(&odd).is_err());
    }
}
