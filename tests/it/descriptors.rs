//! Descriptors for gateways: what `frameshift descriptors` writes has a form in JSON over HTTP for every method that can have one, and the example of Envoy
//! names the services that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::reports::command::{run, word};

#[derive(Message)]
struct Set {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}

#[derive(Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Method>,
}

#[derive(Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    input: String,
    #[prost(message, optional, tag = "4")]
    options: Option<MethodOptions>,
    #[prost(bool, tag = "5")]
    client_streaming: bool,
}

#[derive(Message)]
struct MethodOptions {
    #[prost(message, optional, tag = "72295728")]
    http: Option<HttpRule>,
}

#[derive(Message)]
struct HttpRule {
    #[prost(string, tag = "2")]
    get: String,
    #[prost(string, tag = "4")]
    post: String,
    #[prost(string, tag = "5")]
    delete: String,
    #[prost(string, tag = "6")]
    patch: String,
    #[prost(string, tag = "7")]
    body: String,
}

impl HttpRule {
    /// The HTTP method and the template of the path.
    fn pattern(&self) -> (&str, &str) {
        let all = [
            ("GET", &self.get),
            ("POST", &self.post),
            ("DELETE", &self.delete),
            ("PATCH", &self.patch),
        ];
        let mut given = all.into_iter().filter(|(_, path)| !path.is_empty());
        let (method, path) = given.next().expect("a pattern");
        assert!(given.next().is_none(), "one pattern");
        (method, path.as_str())
    }
}

/// The fields of every message, by its full name, each with the message that it holds.
fn fields(encoded: &[u8]) -> BTreeMap<String, BTreeMap<String, String>> {
    let set = FileDescriptorSet::decode(encoded).unwrap();
    let mut messages = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            let own = message.field.iter();
            let own = own.map(|field| (field.name().to_owned(), field.type_name().to_owned()));
            messages.insert(
                format!(".{}.{}", file.package(), message.name()),
                own.collect(),
            );
        }
    }
    messages
}

async fn written() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("frameshift.pb");
    run(&["descriptors", "--out", word(&out)]).await.ends(0);
    std::fs::read(out).unwrap()
}

#[tokio::test]
async fn every_method_but_those_of_client_streams_has_a_form_in_http_of_its_own() {
    let encoded = written().await;
    let (set, messages) = (Set::decode(&encoded[..]).unwrap(), fields(&encoded));
    let mut patterns = BTreeSet::new();
    let mut count = 0;
    for file in set
        .file
        .iter()
        .filter(|file| file.package == "frameshift.v1")
    {
        for method in file.service.iter().flat_map(|service| &service.method) {
            let http = method
                .options
                .as_ref()
                .and_then(|options| options.http.as_ref());
            if method.client_streaming {
                assert!(
                    http.is_none(),
                    "{}: a stream has no form in HTTP",
                    method.name
                );
                continue;
            }
            let rule = http.unwrap_or_else(|| panic!("{} has no google.api.http", method.name));
            count += 1;
            let (verb, path) = rule.pattern();
            assert!(path.starts_with("/v1/"), "{path}");
            // Names of fields do not tell two patterns apart.
            let mut shape = String::new();
            for (place, part) in path.split(['{', '}']).enumerate() {
                match (place % 2, part.split_once('=')) {
                    (1, Some((_, template))) => shape += template,
                    _ => shape += part,
                }
            }
            assert!(
                patterns.insert((verb, shape)),
                "{}: {verb} {path} twice",
                method.name
            );
            for part in path.split('{').skip(1) {
                let (field, _) = part.split_once('=').unwrap();
                let mut message = method.input.as_str();
                for name in field.split('.') {
                    let own = &messages[message];
                    message = own
                        .get(name)
                        .unwrap_or_else(|| panic!("{}: no {field}", method.name));
                }
            }
            let input = &messages[&method.input];
            match rule.body.as_str() {
                "" => assert!(
                    ["GET", "DELETE"].contains(&verb),
                    "{} has no body",
                    method.name
                ),
                "*" => {}
                body => assert!(input.contains_key(body), "{}: no {body}", method.name),
            }
        }
    }
    assert!(count > 40, "{count}");
}

#[tokio::test]
async fn the_example_of_envoy_names_the_services_that_the_descriptors_have() {
    let set = Set::decode(&written().await[..]).unwrap();
    let mut services = BTreeSet::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package == "frameshift.v1")
    {
        let own = file.service.iter();
        services.extend(own.map(|service| format!("frameshift.v1.{}", service.name)));
    }
    // Administration has an address of its own, which is not for gateways.
    assert!(services.remove("frameshift.v1.AdminService"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy/json.yaml");
    let example = std::fs::read_to_string(path).unwrap();
    let named = example
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- frameshift.v1."));
    let named: BTreeSet<String> = named.map(|name| format!("frameshift.v1.{name}")).collect();
    assert_eq!(named, services);
}
