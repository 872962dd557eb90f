//! Values of `config.json` that no CLIP can have.

use serde_json::{Value, json};

use super::super::{Error, open};
use super::{refusal, tiny, write};

#[test]
fn every_bad_value_is_refused_by_its_field() {
    let table: &[(&str, Value)] = &[
        ("image_size", json!(0)),
        ("image_size", json!(-8)),
        ("image_size", json!(8.5)),
        ("image_size", json!("8")),
        ("image_size", json!([8, 12])),
        ("image_size", json!([8, 8, 8])),
        ("image_size", json!([])),
        ("image_size", json!({"height": 8})),
        ("image_size", json!(1_u64 << 40)),
        ("image_size", json!(u64::MAX)),
        ("image_size", json!(1e300)),
        ("patch_size", json!(0)),
        ("patch_size", json!(3)),
        ("patch_size", json!([4, 2])),
        ("patch_size", json!(16)),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(true)),
        ("hidden_size", json!(1_u64 << 33)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_000_000_000)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_hidden_layers", json!([2])),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(-1)),
        ("num_attention_heads", json!(4)),
        ("num_attention_heads", json!(7)),
        ("num_attention_heads", json!("two")),
        ("intermediate_size", json!(0)),
        ("intermediate_size", json!(1_u64 << 60)),
        ("hidden_act", json!("relu")),
        ("hidden_act", json!("gelu_new")),
        ("hidden_act", json!("")),
        ("hidden_act", json!(1)),
        ("hidden_act", json!(["gelu"])),
        ("layer_norm_eps", json!(0)),
        ("layer_norm_eps", json!(-1e-5)),
        ("layer_norm_eps", json!(2)),
        ("layer_norm_eps", json!("1e-5")),
        ("num_channels", json!(1)),
        ("num_channels", json!("rgb")),
        ("model_type", json!(3)),
        ("model_type", Value::Null),
    ];
    for (field, value) in table {
        let mut broken = tiny();
        broken.config[field] = value.clone();
        let error = broken.load().expect_err("refused");
        assert!(
            matches!(error, Error::Config { .. }),
            "{field} = {value}: {error}"
        );
        let message = error.to_string();
        assert!(
            message.contains("config.json"),
            "{field} = {value}: {message}"
        );
    }
}

#[test]
fn sizes_that_are_possible_but_not_the_files_are_refused_by_a_tensor() {
    for (field, value) in [
        ("image_size", json!(12)),
        ("patch_size", json!(2)),
        ("hidden_size", json!(8)),
        ("num_hidden_layers", json!(1)),
        ("num_hidden_layers", json!(3)),
        ("num_hidden_layers", json!(256)),
        ("intermediate_size", json!(12)),
        ("intermediate_size", Value::Null),
    ] {
        let mut broken = tiny();
        broken.config[field] = value.clone();
        let error = broken.load().expect_err("refused");
        let named = matches!(
            error,
            Error::Shape { .. } | Error::Missing { .. } | Error::Extra { .. }
        );
        assert!(named, "{field} = {value}: {error}");
    }
}

#[test]
fn a_square_given_twice_is_a_square() {
    let mut pair = tiny();
    pair.config["image_size"] = json!([8, 8]);
    assert_eq!(pair.load().expect("loads").config.image_size, 8);
}

#[test]
fn absent_values_are_those_of_transformers() {
    let mut sparse = tiny();
    for field in ["hidden_act", "layer_norm_eps"] {
        sparse.config[field] = Value::Null;
    }
    let config = sparse.load().expect("loads").config;
    assert_eq!(config.activation, crate::Activation::QuickGelu);
    assert_eq!(config.eps, 1e-5);
}

#[test]
fn the_older_of_two_vision_configurations_wins_as_in_transformers() {
    let mut both = tiny();
    let vision = std::mem::take(&mut both.config);
    both.config = json!({
        "model_type": "clip",
        "vision_config_dict": vision,
        "vision_config": {"hidden_size": 99},
    });
    both.load().expect("loads");
    both.config["vision_config_dict"] = Value::Null;
    assert!(both.load().is_err());
}

#[test]
fn a_configuration_that_is_no_object_of_json_is_refused() {
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\u{1}",
        "{\"model_type\": \"clip\"}",
        &deep,
    ] {
        let folder = tiny().folder();
        write(folder.path(), "config.json", text);
        let message = refusal(open(folder.path()));
        assert!(message.contains("config.json"), "{message}");
    }
    let folder = tiny().folder();
    let long = format!("{}{}", tiny().config, " ".repeat(2 << 20));
    write(folder.path(), "config.json", long);
    assert!(matches!(open(folder.path()), Err(Error::TooLarge { .. })));
}
