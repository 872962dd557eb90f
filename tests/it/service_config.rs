//! The gRPC service config allows retries of exactly those calls that may be retried.

use std::collections::BTreeSet;

use frameshift::proto;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto};

const CONFIG: &str = include_str!("../../proto/frameshift/v1/service_config.json");

/// Calls that may be retried: reads, what is only computed, and calls that a `request_id` makes idempotent. A library cannot retry a stream of
/// the client.
fn may_be_repeated(file: &FileDescriptorProto, method: &MethodDescriptorProto) -> bool {
    let takes_request_id = || {
        let input = method.input_type().rsplit('.').next();
        let message = (file.message_type.iter()).find(|message| Some(message.name()) == input);
        message
            .is_some_and(|message| (message.field.iter()).any(|field| field.name() == "request_id"))
    };
    let is_read = ["Get", "List", "Watch", "Export"]
        .iter()
        .any(|verb| method.name().starts_with(verb));
    let is_computed = [
        "CheckDataset",
        "Classify",
        "ClassifyWindows",
        "Embed",
        "EvaluateVersion",
    ]
    .contains(&method.name());
    !method.client_streaming() && (is_read || is_computed || takes_request_id())
}

#[test]
fn the_service_config_repeats_what_may_be_repeated_and_nothing_else() {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let mut expected = BTreeSet::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package() == "frameshift.v1")
    {
        for service in &file.service {
            for method in &service.method {
                if may_be_repeated(file, method) {
                    let service = format!("frameshift.v1.{}", service.name());
                    expected.insert((service, method.name().to_owned()));
                }
            }
        }
    }
    let config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    let listed: Vec<_> = config["methodConfig"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|part| part["name"].as_array().unwrap())
        .map(|name| {
            let text = |key: &str| name[key].as_str().unwrap().to_owned();
            (text("service"), text("method"))
        })
        .collect();
    let distinct: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(distinct.len(), listed.len(), "a method is listed twice");
    assert!(!expected.is_empty());
    assert_eq!(distinct, expected);
}
