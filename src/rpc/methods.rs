//! The services that this server has and their methods, read from the descriptors that reflection shows.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::proto;

/// The path of every method, as a request's URI spells it.
static PATHS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    sets.into_iter().flat_map(paths).collect()
});

/// The API's own services by their full names.
static SERVICES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let service = |path: String| Some(path.get(1..)?.split_once('/')?.0.to_owned());
    paths(proto::DESCRIPTORS)
        .into_iter()
        .filter_map(service)
        .collect()
});

/// `/package.Service/Method` of every method of an encoded set.
fn paths(encoded: &[u8]) -> Vec<String> {
    // The sets come out of the build: one that cannot be read would be seen by the test below.
    let set = FileDescriptorSet::decode(encoded).unwrap_or_default();
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let method = |name: &str| format!("/{}.{}/{name}", file.package(), service.name());
            paths.extend(service.method.iter().map(|rpc| method(rpc.name())));
        }
    }
    paths
}

/// The path as a text that lives as long as the process, when it is a method's.
pub(super) fn known(path: &str) -> Option<&'static str> {
    PATHS.get(path).map(String::as_str)
}

/// The API's own services by their full names.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_and_nothing_else() {
        for path in [
            "/frameshift.v1.ClassificationService/Classify",
            "/frameshift.v1.VideoService/WriteUpload",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(known(path), Some(path));
        }
        for path in ["/anything/else", "", "/frameshift.v1.VideoService/"] {
            assert_eq!(known(path), None);
        }
        assert!(PATHS.len() > 30);
    }

    #[test]
    fn the_services_are_those_of_the_api() {
        assert!(services().count() > 5);
        assert!(services().all(|service| service.starts_with("frameshift.v1.")));
    }
}
