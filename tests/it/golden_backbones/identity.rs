//! A backbone's digest: the same for one model in every layout, another for whatever computes something else.

use std::collections::BTreeMap;

use frameshift::model::Backbone;
use frameshift::model::load::{Overrides, Part, plan, write_torch};
use frameshift::spec::Precision;
use frameshift::tools::convert::{Args, convert};

use super::case::Case;
use super::forward::states;
use super::golden::{Golden, distance};
use super::{cases, plan_of};

/// Files of `case.json` say their figures with this many digits, and inputs are two random pictures.
const SHARE: f64 = 0.02;

#[test]
fn one_model_has_one_digest_in_every_layout() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut by_output: BTreeMap<String, (String, String)> = BTreeMap::new();
    for case in cases() {
        let own = plan_of(&case);
        let digest = own.digest().expect("finite values");
        let backbone = Backbone::from_plan(&own, Precision::F32).expect("is built");
        assert_eq!(backbone.digest(), digest, "{}", case.name);

        let out = folder.path().join(format!("{}.safetensors", case.name));
        let written = convert(&Args {
            path: case.folder.clone(),
            out: out.clone(),
            force: false,
            backbone_override: Some(case.overrides().parse().expect("overrides")),
        })
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(written.digest, digest, "{}", case.name);
        let converted = plan(&out, &Overrides::default()).expect("a converted file loads");
        assert_eq!(converted.digest().expect("finite values"), digest);
        assert_eq!(converted.config(), own.config());

        // The same tensors in one of PyTorch's files, as a bare state dictionary.
        let tensors = own.tensors().expect("finite values");
        let names: Vec<String> = tensors
            .keys()
            .map(|n| format!("module.visual.{n}"))
            .collect();
        if own.config().pre_norm && !own.config().patch_bias {
            let parts: Vec<Part<'_>> = names
                .iter()
                .zip(tensors.values())
                .map(|(name, (shape, values))| Part {
                    name,
                    shape,
                    values,
                })
                .collect();
            let bare = folder.path().join(format!("{}.pth", case.name));
            std::fs::write(&bare, write_torch(&parts, &[])).expect("a file is written");
            let config = own.config();
            let said = format!(
                "heads={},activation={}",
                config.heads,
                config.activation.name()
            );
            let bare = plan(&bare, &said.parse().expect("overrides")).expect("it loads");
            assert_eq!(
                bare.digest().expect("finite values"),
                digest,
                "{}",
                case.name
            );
        }

        // Two cases of one model, as OpenAI's archive and its state dictionary are.
        let golden = Golden::read(&case.folder.join("expected.safetensors"));
        // A case decides itself which outputs it has.
        let last = golden.0.get("tokens").or_else(|| golden.0.get("cls"));
        let Some((_, last)) = last else { continue };
        let key = format!("{:?} {last:?}", own.config());
        let (other, same) = by_output
            .entry(key)
            .or_insert_with(|| (case.name.clone(), digest.to_string()));
        assert_eq!(*same, digest.to_string(), "{other} and {}", case.name);
    }
    println!("{} different models", by_output.len());
}

#[test]
fn a_wrong_activation_or_eps_changes_the_digest_and_the_output() {
    let mut tried = 0;
    for case in cases() {
        let own = plan_of(&case);
        let right = own.digest().expect("finite values");
        let other = match own.config().activation.name() {
            "gelu" => "quick_gelu",
            _ => "gelu",
        };
        let wrong_activation = case
            .change()
            .activation
            .map(|moves| (format!("activation={other}"), moves));
        let wrong_eps = case.change().eps.iter();
        let wrong_eps = wrong_eps.map(|(eps, moves)| {
            let said = format!("{},eps={eps}", case.overrides());
            (said, *moves)
        });
        for (said, expected) in wrong_activation.into_iter().chain(wrong_eps) {
            let overrides = said.parse().expect("overrides");
            let wrong = plan(&case.folder, &overrides).expect("it loads all the same");
            assert_ne!(wrong.digest().expect("finite values"), right, "{said}");
            let moved = moves(
                &case,
                &Backbone::from_plan(&wrong, Precision::F32).expect("is built"),
            );
            assert!(
                (moved - expected).abs() <= SHARE * expected + 2.0 * case.atol,
                "{} with {said}: cls moves by {moved}, the case says {expected}",
                case.name
            );
            tried += 1;
        }
    }
    assert!(tried > 0, "no case says what a mistake would change");
    println!("{tried} mistakes are caught");
}

/// How far the class token is from the golden one.
fn moves(case: &Case, backbone: &Backbone) -> f64 {
    let golden = Golden::read(&case.folder.join("expected.safetensors"));
    let (_, _, class) = states(&golden, backbone);
    let values = class
        .flatten_all()
        .and_then(|flat| flat.to_vec1::<f32>())
        .expect("f32 values");
    distance(&values, &golden.get("cls").1)
}
