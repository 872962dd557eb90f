//! The gRPC service config spreads calls over all servers, and allows retries of exactly those calls that may be retried.

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

#[test]
fn the_service_config_sends_calls_to_all_servers_in_turn() {
    let config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    // Without a policy, a client keeps to the first address that answers, and with it to one pod behind a headless service.
    let expected = serde_json::json!([{ "round_robin": {} }]);
    assert_eq!(config["loadBalancingConfig"], expected);
}

/// Texts that say how a client gets at several servers.
const SAID: [(&str, &str); 3] = [
    ("README.md", include_str!("../../README.md")),
    ("docs/operate.md", include_str!("../../docs/operate.md")),
    (
        "deploy/chart/README.md",
        include_str!("../../deploy/chart/README.md"),
    ),
];

#[test]
fn whoever_reads_how_to_call_several_servers_reads_of_the_name_and_of_the_config() {
    for (name, text) in SAID {
        for word in ["dns:///", "service_config.json", "round_robin"] {
            assert!(text.contains(word), "{name} says nothing of {word}");
        }
    }
}
