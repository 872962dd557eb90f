//! Tests of the import and export of adapter sets.

use std::collections::BTreeMap;

use super::*;
use crate::Activation;
use crate::Backbone;
use crate::rng::Stream;
use crate::spec::{Normalization, Precision};

const DIGEST: Digest = Digest([7; 32]);
const CLASSES: usize = 3;

fn backbone() -> BackboneConfig {
    BackboneConfig {
        image_size: 8,
        patch_size: 4,
        width: 6,
        layers: 3,
        heads: 2,
        mlp_width: 4,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        pre_norm: true,
        patch_bias: false,
        normalization: Normalization::CLIP,
    }
}

fn configs() -> Vec<AdapterConfig> {
    let both = AdapterConfig {
        adapter_width: 4,
        adapter_layers: None,
        adapter_kernel_size: [3, 1, 1],
        adapter_pre_attn: true,
        adapter_pre_mlp: true,
        head: Head::Mean,
    };
    let late = AdapterConfig {
        adapter_layers: NonZeroU32::new(2),
        adapter_pre_attn: false,
        adapter_kernel_size: [3, 3, 1],
        ..both
    };
    let [frames, conv] = [Head::Frames(NonZeroU16::MIN.saturating_add(4)), Head::Conv];
    let ordered = AdapterConfig {
        head: frames,
        ..late
    };
    let alone = AdapterConfig {
        head: conv,
        ..AdapterConfig::LINEAR_PROBE
    };
    let attentive = AdapterConfig {
        head: Head::Attention(NonZeroU16::MIN.saturating_add(2)),
        ..both
    };
    let probe = AdapterConfig::LINEAR_PROBE;
    vec![both, late, probe, ordered, alone, attentive]
}

/// A backbone of random weights in a precision.
fn resident(precision: Precision) -> Backbone {
    let config = backbone();
    let mut stream = Stream::new(3, "exchange backbone");
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|_| stream.range(-0.2, 0.2)).collect();
        (name, (shape, values))
    });
    let tensors = tensors.collect();
    Backbone::from_tensors_in("test", config, DIGEST, tensors, precision).unwrap()
}

#[test]
fn a_file_read_for_a_backbone_gives_the_bits_of_a_set_that_is_put_beside_it() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let resident = resident(precision);
        for config in configs() {
            let file = set(config).to_safetensors(BTreeMap::new()).unwrap();
            let read = AdapterSet::read_beside(&file, &resident, config, CLASSES).unwrap();
            let exact = AdapterSet::from_safetensors(&file, &backbone(), config, CLASSES).unwrap();
            let beside = exact.beside(&resident).unwrap();
            let bits = |set: &AdapterSet| set.to_safetensors(BTreeMap::new()).unwrap();
            assert_eq!(bits(&read), bits(&beside), "{config} in {precision}");
            assert_eq!(read.bytes(), beside.bytes());
        }
    }
}

#[test]
fn an_imported_set_is_written_as_the_set_would_be() {
    for config in configs() {
        let file = set(config).to_safetensors(BTreeMap::new()).unwrap();
        let read = || super::read(archive(file.clone()), &backbone(), DIGEST).unwrap();
        let made = read().into_set(&backbone(), config).unwrap();
        let (written, parameters) = read().into_file(&backbone(), config).unwrap();
        assert_eq!(written, made.to_safetensors(BTreeMap::new()).unwrap());
        assert_eq!(parameters, made.parameters());
    }
    let file = set(configs()[0]).to_safetensors(BTreeMap::new()).unwrap();
    let read = super::read(archive(file), &backbone(), DIGEST).unwrap();
    let refused = read.into_file(&backbone(), configs()[1]).unwrap_err();
    assert!(
        matches!(refused, crate::Error::WrongShape { .. }),
        "{refused}"
    );
}

#[test]
fn a_file_read_for_a_backbone_is_checked_like_any_other() {
    let resident = resident(Precision::Bf16);
    let config = configs()[0];
    let file = set(config).to_safetensors(BTreeMap::new()).unwrap();
    let read = |file: &[u8], config, classes| {
        AdapterSet::read_beside(file, &resident, config, classes).unwrap_err()
    };
    let more = read(&file, config, CLASSES + 1);
    assert!(
        matches!(&more, crate::Error::WrongShape { name, .. } if name == "fc.bias"),
        "{more}"
    );
    let other = read(&file, configs()[2], CLASSES);
    assert!(
        matches!(other, crate::Error::UnexpectedTensor { .. }),
        "{other}"
    );
    let lacks = AdapterConfig {
        adapter_layers: None,
        ..config
    };
    let late = set(configs()[1]).to_safetensors(BTreeMap::new()).unwrap();
    let missing = read(&late, lacks, CLASSES);
    assert!(
        matches!(missing, crate::Error::MissingTensor { .. }),
        "{missing}"
    );
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut broken = file.clone();
        let at = broken.len() - 4;
        broken[at..].copy_from_slice(&value.to_le_bytes());
        let broken = read(&broken, config, CLASSES);
        assert!(matches!(broken, crate::Error::NotFinite { .. }), "{broken}");
    }
}

fn set(config: AdapterConfig) -> AdapterSet {
    let rng = Stream::new(5, "exchange");
    AdapterSet::fresh(&backbone(), config, CLASSES, &rng).expect("a fresh set")
}

fn archive(bytes: Vec<u8>) -> Archive {
    Archive::in_memory("the file", bytes).expect("an archive")
}

#[test]
fn a_set_goes_out_as_a_pytorch_file_and_comes_back_bit_equal() {
    for config in configs() {
        let set = set(config);
        let metadata = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let stored = set.to_safetensors(metadata.clone()).expect("bytes");
        let torch = to_torch(&stored).expect("a PyTorch file");
        for (bytes, text) in [(stored.clone(), None), (torch, Some("{\"a\":\"1\"}"))] {
            let archive = archive(bytes);
            assert_eq!(texts(&archive).get(MANIFEST_KEY).map(String::as_str), text);
            let imported = read(archive, &backbone(), DIGEST).expect("is read");
            assert_eq!(imported.adapter, config);
            assert_eq!((imported.classes, imported.whole), (3, false));
            let back = imported.into_set(&backbone(), config).expect("it fits");
            let again = back.to_safetensors(metadata.clone()).expect("bytes");
            assert!(again == stored, "{config:?} is bit-equal");
        }
    }
}

#[test]
fn a_pytorch_file_has_the_references_order() {
    let stored = set(configs()[0])
        .to_safetensors(BTreeMap::new())
        .expect("bytes");
    let tensors = file::read(&stored).expect("tensors");
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort_by_key(|name| place(name));
    let first: Vec<&str> = names
        .iter()
        .take(7)
        .map(|name| &name["transformer.resblocks.0.".len()..])
        .collect();
    assert_eq!(
        first,
        [
            "adapter_pre_attn.fc1.weight",
            "adapter_pre_attn.fc1.bias",
            "adapter_pre_attn.conv.weight",
            "adapter_pre_attn.conv.bias",
            "adapter_pre_attn.fc2.weight",
            "adapter_pre_attn.fc2.bias",
            "adapter_pre_mlp.fc1.weight",
        ]
    );
    let last: Vec<&str> = names
        .iter()
        .rev()
        .take(2)
        .map(|name| name.as_str())
        .collect();
    assert_eq!(last, ["fc.bias", "fc.weight"]);
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = set(configs()[1]).tensors().expect("weights");
        change(&mut tensors);
        let bytes = file::write(&tensors, &BTreeMap::new(), load::Float::F32);
        read(archive(bytes), &backbone(), DIGEST)
            .expect_err("refused")
            .to_string()
    };
    let fc1 = "transformer.resblocks.1.adapter_pre_mlp.fc1.weight";
    let missing = refused(&|tensors| drop(tensors.remove(fc1)));
    assert!(missing.contains(fc1), "{missing}");
    let wide = refused(&|tensors| {
        tensors.insert(fc1.into(), (vec![4, 7], vec![0.0; 28]));
    });
    assert!(wide.contains(fc1) && wide.contains("[4, 6]"), "{wide}");
    let nan = refused(&|tensors| {
        if let Some((_, values)) = tensors.get_mut("fc.bias") {
            values[1] = f32::NAN;
        }
    });
    assert!(nan.contains("fc.bias") && nan.contains("NaN"), "{nan}");
    let headless = refused(&|tensors| drop(tensors.remove("fc.bias")));
    assert!(headless.contains("fc.bias"), "{headless}");
    let deep = refused(&|tensors| {
        let taken: Vec<_> = tensors
            .keys()
            .filter(|name| name.contains("adapter"))
            .cloned()
            .collect();
        for name in taken {
            if let Some(tensor) = tensors.remove(&name) {
                tensors.insert(
                    name.replace("blocks.2", "blocks.7")
                        .replace("blocks.1", "blocks.6"),
                    tensor,
                );
            }
        }
    });
    assert!(deep.contains("block 6"), "{deep}");
    let whole = refused(&|tensors| {
        tensors.insert("conv1.weight".into(), (vec![1], vec![0.0]));
    });
    assert!(whole.contains("conv1.weight"), "{whole}");
}

#[test]
fn all_blocks_by_number_are_all_blocks() {
    let [both, late, probe, ordered, ..] = configs()[..] else {
        panic!("four")
    };
    assert!(!Imported::is_same_shape(&late, &ordered, 3));
    let numbered = AdapterConfig {
        adapter_layers: NonZeroU32::new(3),
        ..both
    };
    assert!(Imported::is_same_shape(&both, &numbered, 3));
    assert!(!Imported::is_same_shape(&both, &numbered, 4));
    assert!(!Imported::is_same_shape(&both, &late, 3));
    let wide = AdapterConfig {
        adapter_width: 99,
        ..probe
    };
    assert!(Imported::is_same_shape(&probe, &wide, 3));
}
