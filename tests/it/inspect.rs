//! What `inspect` reports about backbones, adapter files, and files that are neither.

use std::collections::BTreeMap;
use std::fs;

use frameshift::model::load::{self, Float, Stored, open};
use frameshift::tools::inspect::{Error, Kind, inspect};

use crate::shared;

fn floats(name: &str, shape: &[usize]) -> Stored {
    Stored {
        name: name.to_owned(),
        dtype: Float::F32.dtype(),
        shape: shape.to_vec(),
        bytes: vec![0; 4 * shape.iter().product::<usize>()],
    }
}

fn file(tensors: &[Stored], metadata: &[(&str, &str)]) -> tempfile::TempDir {
    let metadata: BTreeMap<_, _> = metadata
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bytes = load::serialize(tensors, &metadata);
    fs::write(folder.path().join("own.safetensors"), bytes).expect("a file is written");
    folder
}

#[test]
fn a_golden_checkpoint_is_shown_as_the_loader_sees_it() {
    let root = shared::root().join("golden/backbones");
    let mut shown = 0;
    for entry in fs::read_dir(root).expect("the golden backbones are readable") {
        let folder = entry.expect("readable").path();
        let Ok(loaded) = open(&folder) else { continue };
        let report = inspect(&folder).expect("a report");
        assert_eq!(report.kind, Kind::Backbone);
        let backbone = report.backbone.as_ref().expect("a backbone");
        assert_eq!(backbone.digest, loaded.digest);
        assert_eq!(backbone.layers, loaded.config.layers);
        assert_eq!(report.refusal, None);
        let text = report.to_string();
        assert!(text.contains(&loaded.digest.to_string()), "{text}");
        assert!(text.contains("ln") || text.contains("norm"), "{text}");
        assert_eq!(backbone.decisions.len(), 5);
        for decided in &backbone.decisions {
            assert!(
                !decided.from.is_empty() && text.contains(&decided.from),
                "{text}"
            );
        }
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(json["backbone"]["digest"], loaded.digest.to_string());
        shown += 1;
    }
    assert!(shown > 0);
}

#[test]
fn an_adapter_file_shows_its_sites_head_and_metadata() {
    let block = "transformer.resblocks.10.adapter_pre_mlp";
    let tensors = [
        floats(&format!("{block}.conv.weight"), &[16, 1, 3, 1, 1]),
        floats(&format!("{block}.conv.bias"), &[16]),
        floats("fc.weight", &[4, 48]),
        floats("fc.bias", &[4]),
    ];
    let folder = file(&tensors, &[("labels", "[\"left\",\"right\"]")]);
    let report = inspect(&folder.path().join("own.safetensors")).expect("a report");
    assert_eq!((report.kind, &report.refusal), (Kind::AdapterSet, &None));
    let adapters = report.adapters.as_ref().expect("an adapter set");
    assert_eq!((adapters.classes, adapters.width), (Some(4), Some(48)));
    assert_eq!(adapters.parameters, 48 + 16 + 4 * 48 + 4);
    let [site] = adapters.sites.as_slice() else {
        panic!("one site")
    };
    assert_eq!(site.block, 10);
    assert_eq!(site.adapter_width, Some(16));
    assert_eq!(site.adapter_kernel_size, Some([3, 1, 1]));
    let text = report.to_string();
    for part in [
        "adapter_pre_mlp",
        "kernel 3 x 1 x 1",
        "labels = [\"left\"",
        "4 classes",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_head_alone_is_a_linear_probe() {
    let folder = file(
        &[floats("fc.weight", &[3, 8]), floats("fc.bias", &[3])],
        &[],
    );
    let report = inspect(folder.path()).expect("a report");
    assert_eq!(report.kind, Kind::AdapterSet);
    assert!(report.to_string().contains("linear probe"));
}

#[test]
fn a_refused_checkpoint_is_shown_with_the_reason() {
    let folder = file(&[floats("blocks.0.weight", &[3])], &[]);
    let report = inspect(folder.path()).expect("a report");
    assert_eq!(report.kind, Kind::Tensors);
    assert!(
        report
            .refusal
            .as_ref()
            .is_some_and(|why| why.contains("is missing") || why.contains("class token"))
    );
    assert_eq!(report.files[0].tensors[0].name, "blocks.0.weight");
}

#[test]
fn a_path_without_anything_readable_is_an_error_with_the_loaders_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = |error: Error| error.to_string();
    let nothing = inspect(folder.path()).map_err(message);
    assert!(nothing.is_err_and(|why| why.contains("no weights")));
    let pickle = folder.path().join("model.pt");
    fs::write(&pickle, "anything").expect("a file is written");
    let pickle = inspect(&pickle).map_err(message);
    assert!(pickle.is_err_and(|why| why.contains("neither a safetensors nor a PyTorch file")));
    let broken = folder.path().join("broken.safetensors");
    fs::write(&broken, [0; 3]).expect("a file is written");
    let broken = inspect(&broken).map_err(message);
    assert!(broken.is_err_and(|why| why.contains("too few")));
}
