//! Checkpoints in several files, and indices that lie.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::{Error, IndexError, Loaded, open, serialize};
use super::{tiny, write};

const INDEX: &str = "model.safetensors.index.json";

/// Every third tensor in each of three shards; `map` may change the index before it is written.
fn sharded(map: impl FnOnce(&mut BTreeMap<String, String>)) -> TempDir {
    let tiny = tiny();
    let folder = TempDir::new().expect("a temporary folder");
    tiny.write_config(folder.path());
    let mut weight_map = BTreeMap::new();
    for part in 0..3 {
        let shard = shard(part);
        let tensors: Vec<_> = tiny.tensors.iter().skip(part).step_by(3).cloned().collect();
        for tensor in &tensors {
            weight_map.insert(tensor.name.clone(), shard.clone());
        }
        write(folder.path(), &shard, serialize(&tensors, &BTreeMap::new()));
    }
    map(&mut weight_map);
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    write(folder.path(), INDEX, index.to_string());
    folder
}

fn shard(part: usize) -> String {
    format!("model-0000{}-of-00003.safetensors", part + 1)
}

fn index_error(loaded: Result<Loaded, Error>) -> IndexError {
    match loaded {
        Err(Error::Index { source, .. }) => source,
        Err(other) => panic!("another refusal: {other}"),
        Ok(_) => panic!("loaded what must be refused"),
    }
}

#[test]
fn shards_give_the_same_backbone_as_one_file() {
    let one = tiny().load().expect("loads");
    let several = open(sharded(|_| {}).path()).expect("loads");
    assert_eq!((one.digest, one.config), (several.digest, several.config));
}

#[test]
fn one_file_is_preferred_to_an_index() {
    let folder = sharded(|map| map.clear());
    write(folder.path(), "model.safetensors", tiny().file());
    open(folder.path()).expect("loads");
}

#[test]
fn a_shard_may_not_leave_the_folder() {
    for name in [
        "../model-00001-of-00003.safetensors",
        "/etc/passwd",
        "/tmp/x.safetensors",
        "a/b.safetensors",
        "./model-00001-of-00003.safetensors",
        "..",
        "",
        "..\\x.safetensors",
        "x\0.safetensors",
        "model-00001-of-00003.safetensors/",
        "model-00001-of-00003.safetensors/.",
        "pytorch_model.pt",
    ] {
        let folder = sharded(|map| {
            let first = map.values_mut().next().expect("a tensor");
            *first = name.to_owned();
        });
        let error = index_error(open(folder.path()));
        assert!(
            matches!(&error, IndexError::Leaves { shard } if shard == name),
            "{name:?}: {error}"
        );
    }
}

#[test]
fn an_index_and_its_shards_must_agree_both_ways() {
    let swapped = sharded(|map| {
        let first = map.values_mut().next().expect("a tensor");
        *first = shard(if *first == shard(2) { 0 } else { 2 });
    });
    assert!(matches!(
        index_error(open(swapped.path())),
        IndexError::NotInShard { .. }
    ));

    let invented = sharded(|map| {
        map.insert("vision_model.invented".to_owned(), shard(1));
    });
    assert!(matches!(
        index_error(open(invented.path())),
        IndexError::NotInShard { name, .. } if name == "vision_model.invented"
    ));

    let forgotten = sharded(|map| {
        map.remove("vision_model.post_layernorm.bias");
    });
    assert!(matches!(
        index_error(open(forgotten.path())),
        IndexError::Unlisted { name, .. } if name == "vision_model.post_layernorm.bias"
    ));

    // Each tensor is where the index says, and a second time elsewhere.
    let twice = sharded(|_| {});
    let mut tensors: Vec<_> = tiny().tensors.into_iter().step_by(3).collect();
    tensors.push(tiny().tensors.swap_remove(1));
    let name = tensors.last().expect("one more").name.clone();
    write(
        twice.path(),
        &shard(0),
        serialize(&tensors, &BTreeMap::new()),
    );
    assert!(matches!(
        index_error(open(twice.path())),
        IndexError::Unlisted { name: own, .. } if own == name
    ));
}

#[test]
fn a_shard_that_is_not_there_is_named_even_if_only_ignored_tensors_are_in_it() {
    let folder = sharded(|map| {
        map.insert("text_model.x".to_owned(), "text.safetensors".to_owned());
    });
    let error = index_error(open(folder.path()));
    assert!(matches!(error, IndexError::MissingShard { shard } if shard == "text.safetensors"));
}

#[test]
fn a_broken_shard_is_refused_by_its_own_name() {
    let folder = sharded(|_| {});
    write(folder.path(), &shard(1), [0; 7]);
    let error = open(folder.path()).expect_err("refused");
    assert!(matches!(error, Error::Header { .. }), "{error}");
    assert!(error.to_string().contains(&shard(1)), "{error}");
}

#[test]
fn an_index_must_be_an_index() {
    let bad: [Value; 7] = [
        json!([]),
        json!({}),
        json!({"weight_map": []}),
        json!({"weight_map": {"a": 1}}),
        json!({"weight_map": {"a": null}}),
        json!({"weight_map": {"a": ["x.safetensors"]}}),
        json!({"weight_map": "x"}),
    ];
    for index in bad {
        let folder = sharded(|_| {});
        write(folder.path(), INDEX, index.to_string());
        let error = open(folder.path()).expect_err("refused");
        assert!(matches!(error, Error::Json { .. }), "{index}: {error}");
    }
    let empty = sharded(|map| map.clear());
    assert!(matches!(index_error(open(empty.path())), IndexError::Empty));
    let many = sharded(|map| {
        for i in 0..300 {
            map.insert(format!("text_model.{i}"), format!("{i}.safetensors"));
        }
    });
    assert!(matches!(
        index_error(open(many.path())),
        IndexError::TooMany { shards: 303 }
    ));
}
