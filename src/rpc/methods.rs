//! The services that this server has and their methods, read from the descriptors that reflection shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use crate::proto;

/// Kind of a method: how many messages each side of a call sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One message each way; also stands for paths that name no method.
    Unary,
    /// The client sends one message, the server any number.
    ServerStream,
    /// The client sends any number of messages, and so may the server.
    ClientStream,
}

/// The path of every method, as a request's URI spells it, and the method's kind.
static METHODS: LazyLock<BTreeMap<String, Kind>> = LazyLock::new(|| {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    sets.into_iter().flat_map(methods).collect()
});

/// The administrators' service, which the API's own listener does not have.
pub(super) const ADMIN: &str = "frameshift.v1.AdminService";

/// The API's own services by their full names, without the administrators'.
static SERVICES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let service = |path: &String| Some(path.get(1..)?.split_once('/')?.0.to_owned());
    methods(proto::DESCRIPTORS)
        .iter()
        .filter_map(|(path, _)| service(path))
        .filter(|service| service != ADMIN)
        .collect()
});

/// Returns `/package.Service/Method` and the kind of every method of an encoded descriptor set.
fn methods(encoded: &[u8]) -> Vec<(String, Kind)> {
    // The sets come out of the build: one that cannot be read would be seen by the test below.
    let set = FileDescriptorSet::decode(encoded).unwrap_or_default();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let method = |name: &str| format!("/{}.{}/{name}", file.package(), service.name());
            let kind = |rpc: &MethodDescriptorProto| match (
                rpc.client_streaming(),
                rpc.server_streaming(),
            ) {
                (true, _) => Kind::ClientStream,
                (false, true) => Kind::ServerStream,
                (false, false) => Kind::Unary,
            };
            let rpcs = service.method.iter();
            methods.extend(rpcs.map(|rpc| (method(rpc.name()), kind(rpc))));
        }
    }
    methods
}

/// Returns a method's path as a text that lives as long as the process; `None` for other paths.
pub(super) fn known(path: &str) -> Option<&'static str> {
    METHODS.get_key_value(path).map(|(path, _)| path.as_str())
}

/// Returns the path of every method.
#[cfg(test)]
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    METHODS.keys().map(String::as_str)
}

/// The descriptors that a listener shows: without those of services that it does not have.
pub(super) fn shown(is_admin: bool) -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap_or_default();
    set.file.retain(|file| {
        let has_admin = file
            .service
            .iter()
            .any(|service| format!("{}.{}", file.package(), service.name()) == ADMIN);
        file.service.is_empty() || has_admin == is_admin
    });
    set
}

/// The kind of the method that a path names.
pub(super) fn kind(path: &str) -> Kind {
    METHODS.get(path).copied().unwrap_or(Kind::Unary)
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
        assert!(METHODS.len() > 30);
    }

    #[test]
    fn the_services_are_those_of_the_api() {
        assert!(services().count() > 5);
        assert!(services().all(|service| service.starts_with("frameshift.v1.")));
    }

    #[test]
    fn kinds_are_those_of_the_descriptors() {
        for (path, expected) in [
            ("/frameshift.v1.TaskService/GetTask", Kind::Unary),
            ("/frameshift.v1.Nowhere/Nothing", Kind::Unary),
            ("/grpc.health.v1.Health/Watch", Kind::ServerStream),
            (
                "/frameshift.v1.FineTuningService/WatchJob",
                Kind::ServerStream,
            ),
            (
                "/frameshift.v1.VideoService/UploadVideo",
                Kind::ClientStream,
            ),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                Kind::ClientStream,
            ),
            (
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                Kind::ClientStream,
            ),
        ] {
            assert_eq!(kind(path), expected, "{path}");
        }
    }
}
