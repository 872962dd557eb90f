//! One model in every layout that is read, and what may lie beside it.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use super::super::{Archive, Error, Float, Overrides, embedded, open, plan, write_reference};
use super::{Tiny, WIDTH, floats, refusal, tiny, write};
use crate::pretrain::Trainer;
use crate::spec::Normalization;
use crate::{Activation, Backbone};

fn rename(tiny: &mut Tiny, change: impl Fn(&str) -> String) {
    for tensor in &mut tiny.tensors {
        tensor.name = change(&tensor.name);
    }
}

fn store_as(tiny: &mut Tiny, float: Float) {
    for tensor in &mut tiny.tensors {
        let mut values = Vec::new();
        Float::F32.decode(&tensor.bytes, &mut values);
        tensor.bytes = float.encode(&values);
        tensor.dtype = float.dtype();
    }
}

#[test]
fn queries_keys_and_values_are_joined_in_this_order() {
    let loaded = tiny().load().expect("loads");
    let (shape, values) = &loaded.tensors["transformer.resblocks.1.attn.in_proj_weight"];
    assert_eq!(shape, &[3 * WIDTH, WIDTH]);
    let mut expected = Vec::new();
    let mut source = tiny();
    for part in ["q", "k", "v"] {
        let name = format!("vision_model.encoder.layers.1.self_attn.{part}_proj.weight");
        Float::F32.decode(&source.at(&name).bytes, &mut expected);
    }
    assert_eq!(values, &expected);
    assert_eq!(loaded.config.activation, Activation::Gelu);
    assert_eq!(loaded.config.heads, 2);
    assert_eq!(loaded.config.normalization, Normalization::CLIP);
    assert_eq!(
        loaded.tensors.keys().collect::<Vec<_>>(),
        loaded.config.tensors().keys().collect::<Vec<_>>()
    );
}

#[test]
fn every_layout_of_one_model_has_one_digest() {
    let digest = tiny().load().expect("loads").digest;

    let mut bare = tiny();
    rename(&mut bare, |name| name.replace("vision_model.", ""));
    assert_eq!(
        bare.load().expect("transformers 5 names load").digest,
        digest
    );

    for float in [Float::F16, Float::BF16] {
        let mut narrow = tiny();
        store_as(&mut narrow, float);
        assert_eq!(narrow.load().expect("half floats load").digest, digest);
    }

    let mut full = tiny();
    let vision = std::mem::take(&mut full.config);
    full.config = json!({"model_type": "clip", "vision_config": vision, "text_config": {}});
    for (name, shape) in [
        ("text_model.encoder.layers.0.mlp.fc1.weight", vec![3, 2]),
        ("text_projection.weight", vec![2, 2]),
        ("visual_projection.weight", vec![2, WIDTH]),
        ("logit_scale", vec![]),
    ] {
        full.tensors.push(floats(name, &shape, 1));
    }
    let mut ids = floats("vision_model.embeddings.position_ids", &[1, 5], 0);
    ids.dtype = Dtype::I64;
    ids.bytes = (0..5_i64).flat_map(i64::to_le_bytes).collect();
    full.tensors.push(ids);
    let full = full.load().expect("a full CLIP loads");
    assert_eq!(full.digest, digest);

    for float in [Float::F32, Float::F16, Float::BF16] {
        let file = write_reference(&full.config, &full.tensors, float, &BTreeMap::new());
        let folder = TempDir::new().expect("a temporary folder");
        write(folder.path(), "own.safetensors", &file);
        for path in [
            folder.path().to_owned(),
            folder.path().join("own.safetensors"),
        ] {
            let own = open(&path).expect("the reference's names load");
            assert_eq!((own.digest, &own.config), (digest, &full.config));
        }
        let own = embedded("own", file.leak()).expect("loads from the program");
        assert_eq!((own.digest, own.name.as_str()), (digest, "own"));
    }
}

#[test]
fn what_pretraining_saves_loads_with_its_configuration() {
    let config = tiny().load().expect("loads").config;
    let trainer = Trainer::new(config.clone(), &[3], 5, Default::default()).expect("a trainer");
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("own.safetensors");
    let origin = BTreeMap::from([("seed".to_owned(), "5".to_owned())]);
    trainer.save(&path, &origin).expect("is saved");
    let own = open(&path).expect("loads");
    assert_eq!(own.config, config);
    let mut expected = trainer.tensors().expect("tensors");
    for (_, values) in expected.values_mut() {
        let halves = Float::F16.encode(values);
        values.clear();
        Float::F16.decode(&halves, values);
    }
    assert_eq!(own.tensors, expected);
    let backbone = Backbone::load(&path).expect("is built");
    assert_eq!(
        (backbone.digest(), backbone.config()),
        (own.digest, &config)
    );
    let archive = Archive::open(&path).expect("opens");
    assert_eq!(archive.header().metadata["seed"], "5");
}

#[test]
fn a_backbone_file_has_the_same_bytes_every_time() {
    let loaded = tiny().load().expect("loads");
    let more: BTreeMap<_, _> = (0..20)
        .map(|i| (format!("key {i}"), format!("value {i}")))
        .collect();
    let file = || write_reference(&loaded.config, &loaded.tensors, Float::F16, &more);
    assert_eq!(file(), file());
}

#[test]
fn any_tensor_that_is_missing_extra_reshaped_or_not_finite_is_named() {
    for at in 0..tiny().tensors.len() {
        let name = tiny().tensors[at].name.clone();
        let check = |broken: Tiny, expected: fn(&Error) -> bool| {
            let error = broken.load().expect_err("refused");
            assert!(expected(&error), "{error}");
            assert!(error.to_string().contains(&name), "{error}");
        };

        let mut missing = tiny();
        missing.tensors.remove(at);
        check(missing, |error| matches!(error, Error::Missing { .. }));

        let mut flat = tiny();
        flat.tensors[at].shape.push(1);
        check(flat, |error| matches!(error, Error::Shape { .. }));

        let mut integers = tiny();
        integers.tensors[at].dtype = Dtype::I32;
        check(integers, |error| matches!(error, Error::Dtype { .. }));

        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut broken = tiny();
            let end = broken.tensors[at].bytes.len() - 4;
            broken.tensors[at].bytes[end..].copy_from_slice(&bad.to_le_bytes());
            check(broken, |error| matches!(error, Error::NonFinite { .. }));
        }
    }
    let mut scaled = tiny();
    scaled.tensors.push(floats(
        "vision_model.encoder.layers.0.layer_scale1",
        &[2],
        3,
    ));
    assert!(refusal(scaled.load()).contains("layer scale"));
    for name in [
        "vision_model.encoder.layers.2.mlp.fc1.weight",
        "encoder.layers.0.mlp.fc1.weight",
        "lora.weight",
    ] {
        let mut extra = tiny();
        extra.tensors.push(floats(name, &[2], 3));
        let error = extra.load().expect_err("refused");
        assert!(
            matches!(&error, Error::Extra { name: own, .. } if own == name),
            "{error}"
        );
    }
}

#[test]
fn double_floats_are_rounded_and_integers_refused() {
    let mut wide = tiny();
    store_as(&mut wide, Float::F64);
    let digest = tiny().load().expect("loads").digest;
    assert_eq!(wide.load().expect("double floats load").digest, digest);
    let tensor = wide.at("vision_model.post_layernorm.bias");
    tensor.bytes[..8].copy_from_slice(&1e300_f64.to_le_bytes());
    assert!(refusal(wide.load()).contains("inf"));
    let mut quantised = tiny();
    let tensor = quantised.at("vision_model.post_layernorm.bias");
    tensor.dtype = Dtype::I8;
    tensor.bytes = vec![0; WIDTH];
    assert!(refusal(quantised.load()).contains("I8"));
}

#[test]
fn the_preprocessor_gives_mean_and_deviation() {
    let processor = json!({"image_mean": [0.5, 0.25, 0.125], "image_std": [1, 2, 4]});
    let expected = Normalization {
        mean: [0.5, 0.25, 0.125],
        std: [1.0, 2.0, 4.0],
    };
    let own = |name: &str, content: String| {
        let folder = tiny().folder();
        write(folder.path(), name, content);
        open(folder.path())
    };
    let alone = own("preprocessor_config.json", processor.to_string());
    assert_eq!(alone.expect("loads").config.normalization, expected);
    let inside = json!({"image_processor": processor}).to_string();
    let inside = own("processor_config.json", inside);
    assert_eq!(inside.expect("loads").config.normalization, expected);
    for bad in [
        json!({"image_mean": [0.5, 0.5], "image_std": [1, 1, 1]}),
        json!({"image_mean": "x"}),
        json!({"image_std": [1, 0, 1]}),
        json!({"image_std": [1, 1e39, 1]}),
        json!({"rescale_factor": 1}),
        json!({"do_rescale": false}),
        json!([]),
    ] {
        let message = refusal(own("preprocessor_config.json", bad.to_string()));
        assert!(message.contains("preprocessor_config.json"), "{message}");
    }
}

#[test]
fn a_file_without_a_configuration_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    write(folder.path(), "model.safetensors", tiny().file());
    assert!(matches!(open(folder.path()), Err(Error::NoConfig { .. })));
    write(folder.path(), "more.safetensors", tiny().file());
    assert!(matches!(
        open(folder.path()),
        Err(Error::Ambiguous { files: 2, .. })
    ));
    let nothing = TempDir::new().expect("a temporary folder");
    assert!(matches!(open(nothing.path()), Err(Error::NoWeights { .. })));
    let nowhere = nothing.path().join("nowhere");
    assert!(matches!(open(&nowhere), Err(Error::Io { .. })));
}

#[test]
fn a_pipe_is_refused_without_waiting_for_its_writer() {
    let folder = TempDir::new().expect("a temporary folder");
    tiny().write_config(folder.path());
    let pipe = folder.path().join("model.safetensors");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .expect("a pipe is made");
    assert!(matches!(open(folder.path()), Err(Error::NotAFile { .. })));
    assert!(matches!(
        open(Path::new("/dev/zero")),
        Err(Error::NotAFile { .. })
    ));
}

#[test]
fn other_families_are_refused_by_name() {
    let refuse = |files: &[(&str, &[u8])]| {
        let folder = TempDir::new().expect("a temporary folder");
        for (name, content) in files {
            write(folder.path(), name, content);
        }
        let error = open(folder.path()).expect_err("refused");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        error.to_string()
    };
    let of_config = |config: &str| refuse(&[("config.json", config.as_bytes())]);
    let dino = of_config(r#"{"model_type": "dinov2"}"#);
    assert!(dino.contains("\"dinov2\""), "{dino}");
    let text = of_config(r#"{"model_type": "clip_text_model"}"#);
    assert!(text.contains("text tower"), "{text}");
    let timm = of_config(r#"{"architecture": "resnet50"}"#);
    assert!(timm.contains("timm") && timm.contains("resnet50"), "{timm}");
    let args = |args: &str| {
        of_config(&format!(
            r#"{{"architecture": "vit_base_patch16_224", "model_args": {{{args}}}}}"#
        ))
    };
    for (said, named) in [
        (r#""class_token": false"#, "class token"),
        (r#""reg_tokens": 4"#, "register tokens"),
        (r#""init_values": 1e-5"#, "layer scale"),
        (r#""qk_norm": true"#, "norms of queries"),
        (r#""norm_layer": "rmsnorm""#, "norm_layer"),
    ] {
        let refused = args(said);
        assert!(refused.contains(named), "{refused}");
    }
    let of_open_clip = |vision: &str| {
        let config = format!(r#"{{"model_cfg": {{"vision_cfg": {{{vision}}}}}}}"#);
        refuse(&[("open_clip_config.json", config.as_bytes())])
    };
    let resnet = of_open_clip(r#""layers": [3, 4, 6, 3]"#);
    assert!(resnet.contains("ResNet"), "{resnet}");
    let trunk = of_open_clip(r#""timm_model_name": "vit_so400m""#);
    assert!(trunk.contains("timm trunk"), "{trunk}");
    for file in ["ViT-B-16.pt", "full.pth", "pytorch_model.bin"] {
        let other = refuse(&[(file, b"anything")]);
        assert!(other.contains(file) && other.contains("neither"), "{other}");
    }
}

/// The tiny model in the reference's names, below a prefix.
fn canonical(prefix: &str) -> Vec<super::super::Stored> {
    let loaded = tiny().load().expect("loads");
    let stored = loaded
        .tensors
        .iter()
        .map(|(name, (shape, values))| super::super::Stored {
            name: format!("{prefix}{name}"),
            dtype: Dtype::F32,
            shape: shape.clone(),
            bytes: Float::F32.encode(values),
        });
    stored.collect()
}

fn bare(tensors: &[super::super::Stored], overrides: &str) -> Result<super::super::Plan, Error> {
    let folder = TempDir::new().expect("a temporary folder");
    let file = super::super::serialize(tensors, &BTreeMap::new());
    write(folder.path(), "bare.safetensors", file);
    let overrides: Overrides = overrides.parse().expect("overrides");
    plan(&folder.path().join("bare.safetensors"), &overrides)
}

#[test]
fn what_a_bare_file_does_not_say_has_to_be_said() {
    let digest = tiny().load().expect("loads").digest;
    for prefix in ["visual.", "", "module.visual."] {
        let tensors = canonical(prefix);
        let undecided = bare(&tensors, "heads=2").expect_err("no activation");
        assert!(matches!(undecided, Error::Undecided { .. }), "{undecided}");
        assert!(
            undecided
                .to_string()
                .contains("--backbone-override activation="),
            "{undecided}"
        );
        // Its width of 6 fits no rule.
        assert!(bare(&tensors, "activation=gelu").is_err());
        let said = bare(&tensors, "heads=2,activation=gelu").expect("all is said");
        assert_eq!(said.family(), "open_clip");
        assert_eq!(said.digest().expect("finite"), digest);
        let heads = said.decisions().iter().find(|d| d.field == "heads");
        assert!(heads.is_some_and(|heads| heads.from == "--backbone-override"));
        for wrong in ["heads=2,activation=quick_gelu", "heads=3,activation=gelu"] {
            let other = bare(&tensors, wrong).expect("it is said");
            assert_ne!(other.digest().expect("finite"), digest, "{wrong}");
        }
        assert!(
            bare(&tensors, "heads=4,activation=gelu").is_err(),
            "4 does not divide 6"
        );
    }
}

#[test]
fn openais_files_are_told_by_their_scalars_and_have_quickgelu() {
    let mut tensors = canonical("visual.");
    for name in ["input_resolution", "context_length", "vocab_size"] {
        let mut scalar = floats(name, &[], 0);
        scalar.dtype = Dtype::I64;
        scalar.bytes = 8_i64.to_le_bytes().to_vec();
        tensors.push(scalar);
    }
    tensors.push(floats("token_embedding.weight", &[3, 2], 1));
    let plan = bare(&tensors, "heads=2").expect("OpenAI's rule says the rest");
    assert_eq!(plan.family(), "openai_clip");
    assert_eq!(plan.config().activation, Activation::QuickGelu);
    assert_eq!(plan.besides(), 4);
}

#[test]
fn adapters_beside_a_backbone_are_not_its_own() {
    let mut tensors = canonical("");
    tensors.push(floats("fc.weight", &[3, WIDTH], 1));
    tensors.push(floats("fc.bias", &[3], 1));
    let adapter = "transformer.resblocks.0.adapter_pre_mlp.fc1.bias";
    tensors.push(floats(adapter, &[4], 1));
    let plan = bare(&tensors, "heads=2").expect("the reference's rule says the rest");
    assert_eq!((plan.family(), plan.besides()), ("reference", 3));
    let alone = bare(&tensors[tensors.len() - 3..], "").expect_err("no backbone");
    assert!(alone.to_string().contains("import"), "{alone}");
}

#[test]
fn a_file_goes_with_the_configuration_beside_it() {
    let folder = tiny().folder();
    let digest = open(folder.path()).expect("loads").digest;
    let file = open(&folder.path().join("model.safetensors")).expect("loads");
    assert_eq!(file.digest, digest);
}

#[test]
fn overrides_are_part_of_the_identity_and_shown() {
    let folder = tiny().folder();
    let own = plan(folder.path(), &Overrides::default()).expect("a plan");
    let overrides = "eps=1e-6".parse().expect("overrides");
    let other = plan(folder.path(), &overrides).expect("a plan");
    assert_ne!(
        own.digest().expect("finite"),
        other.digest().expect("finite")
    );
    let eps = other.decisions().iter().find(|d| d.field == "eps");
    let eps = eps.expect("eps is shown");
    assert!(
        eps.from
            .contains("instead of 1e-5 (config.json layer_norm_eps)"),
        "{}",
        eps.from
    );
}
