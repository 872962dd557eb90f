//! Scopes that each method requires of its caller: one table over the full paths of all methods.
//!
//! Invariant: a method without a row in the table is refused, and a test finds it.

use crate::spec::{Scope, Scopes};

/// Scopes that a method requires of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The method requires nothing, not even a credential: health.
    Nothing,
    /// The method requires what the setting `reflection` says.
    Reflection,
    /// The method requires one of these scopes.
    AnyOf(Scopes),
    /// The method requires the scope `classify` and itself keeps to the tasks of the caller's key.
    OnTasks,
}

impl Need {
    /// Returns the scopes of which a caller needs one.
    pub(super) fn scopes(self) -> Scopes {
        match self {
            Self::Nothing | Self::Reflection => Scopes::of(&Scope::ALL),
            Self::AnyOf(scopes) => scopes,
            Self::OnTasks => Scopes::of(&[Scope::Classify]),
        }
    }
}

impl Need {
    /// Whether the audit log tells of each call: of what changes something, and of all that administrators do.
    pub(super) fn is_audited(self) -> bool {
        match self {
            Self::Nothing | Self::Reflection | Self::OnTasks => false,
            Self::AnyOf(scopes) => !scopes.contains(Scope::Read),
        }
    }
}

const READ: Need = Need::AnyOf(Scopes::of(&[Scope::Read]));
const WRITE: Need = Need::AnyOf(Scopes::of(&[Scope::Write]));
const READ_OR_WRITE: Need = Need::AnyOf(Scopes::of(&[Scope::Read, Scope::Write]));
const TRAIN: Need = Need::AnyOf(Scopes::of(&[Scope::Train]));
const SERVE: Need = Need::AnyOf(Scopes::of(&[Scope::Serve]));
const TENANT: Need = Need::AnyOf(Scopes::TENANT);
const FLEET: Need = Need::AnyOf(Scopes::of(&[Scope::FleetAdmin]));
const ADMIN: Need = Need::AnyOf(Scopes::of(&[Scope::TenantAdmin, Scope::FleetAdmin]));

/// Methods by service, each with its need.
const TABLE: &[(&str, &[(&str, Need)])] = &[
    (
        "grpc.health.v1.Health",
        &[("Check", Need::Nothing), ("Watch", Need::Nothing)],
    ),
    (
        "grpc.reflection.v1.ServerReflection",
        &[("ServerReflectionInfo", Need::Reflection)],
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        &[("ServerReflectionInfo", Need::Reflection)],
    ),
    ("frameshift.v1.ServerService", &[("GetServerInfo", TENANT)]),
    (
        "frameshift.v1.VideoService",
        &[
            ("UploadVideo", WRITE),
            ("CreateUpload", WRITE),
            ("WriteUpload", WRITE),
            ("GetUpload", READ_OR_WRITE),
            ("ListUploads", READ_OR_WRITE),
            ("DeleteUpload", WRITE),
            ("GetVideo", READ),
            ("ListVideos", READ),
            ("DeleteVideo", WRITE),
        ],
    ),
    (
        "frameshift.v1.DatasetService",
        &[
            ("CreateDataset", WRITE),
            ("AddExamples", WRITE),
            ("RemoveExamples", WRITE),
            ("ListExamples", READ),
            ("ListLabelCounts", READ),
            ("GetDataset", READ),
            ("ListDatasets", READ),
            ("CheckDataset", READ),
            ("CreateDatasetVersion", WRITE),
            ("ListDatasetVersions", READ),
            ("DeleteDatasetVersion", WRITE),
            ("ListDatasetChanges", READ),
            ("DeleteDataset", WRITE),
        ],
    ),
    (
        "frameshift.v1.TaskService",
        &[
            ("CreateTask", WRITE),
            ("GetTask", READ),
            ("ListTasks", READ),
            ("UpdateTask", WRITE),
            ("DeleteTask", WRITE),
            ("ListAdapterVersions", READ),
            ("GetAdapterVersion", READ),
            ("SetServing", SERVE),
            ("PinTask", SERVE),
            ("ImportAdapterVersion", SERVE),
            ("ExportAdapterVersion", READ),
            ("ListResidency", READ),
            ("EvaluateVersion", READ),
        ],
    ),
    (
        "frameshift.v1.FineTuningService",
        &[
            ("SubmitJob", TRAIN),
            ("GetJob", READ),
            ("ListJobs", READ),
            ("CancelJob", TRAIN),
            ("PauseJob", TRAIN),
            ("ResumeJob", TRAIN),
            ("WatchJob", READ),
            ("SubmitSweep", TRAIN),
            ("GetSweep", READ),
            ("ListSweeps", READ),
            ("CancelSweep", TRAIN),
        ],
    ),
    (
        "frameshift.v1.ClassificationService",
        &[
            ("Classify", Need::OnTasks),
            ("ClassifyUpload", Need::OnTasks),
            ("ClassifyFrames", Need::OnTasks),
            ("ClassifyWindows", Need::OnTasks),
            ("ClassifyWindowsUpload", Need::OnTasks),
            ("Embed", Need::OnTasks),
            ("EmbedUpload", Need::OnTasks),
        ],
    ),
    (
        "frameshift.v1.AdminService",
        &[
            ("CreateTenant", FLEET),
            ("GetTenant", ADMIN),
            ("ListTenants", FLEET),
            ("UpdateTenant", FLEET),
            ("EraseTenant", FLEET),
            ("GetErasure", FLEET),
            ("ListUsage", ADMIN),
            ("CreateKey", ADMIN),
            ("ListKeys", ADMIN),
            ("RotateKey", ADMIN),
            ("RevokeKey", ADMIN),
            ("ListReplicas", FLEET),
            ("DrainReplica", FLEET),
            ("ListAuditEvents", ADMIN),
        ],
    ),
];

/// The need of the method that a path names; `None` when the table has no such method.
pub(super) fn need(path: &str) -> Option<Need> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, methods) = TABLE.iter().find(|(name, _)| *name == service)?;
    let (_, need) = methods.iter().find(|(name, _)| *name == method)?;
    Some(*need)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::methods;

    #[test]
    fn every_method_of_the_descriptors_has_a_need() {
        let missing: Vec<_> = methods::paths()
            .filter(|path| need(path).is_none())
            .collect();
        assert!(missing.is_empty(), "give these a scope: {missing:?}");
        for path in [
            "",
            "/",
            "/a/b",
            "/frameshift.v1.VideoService/",
            "frameshift.v1.TaskService/GetTask",
        ] {
            assert_eq!(need(path), None, "{path}");
        }
    }

    #[test]
    fn every_need_is_of_a_method() {
        for (service, methods) in TABLE {
            for (method, _) in *methods {
                let path = format!("/{service}/{method}");
                assert!(methods::known(&path).is_some(), "{path} is no method");
            }
        }
    }

    #[test]
    fn the_audit_log_tells_of_changes_and_administration() {
        let audited = |method: &str| {
            need(&format!("/frameshift.v1.{method}"))
                .unwrap()
                .is_audited()
        };
        for method in [
            "VideoService/UploadVideo",
            "TaskService/SetServing",
            "FineTuningService/SubmitJob",
            "AdminService/ListKeys",
        ] {
            assert!(audited(method), "{method}");
        }
        for method in [
            "VideoService/GetVideo",
            "ClassificationService/Classify",
            "ServerService/GetServerInfo",
        ] {
            assert!(!audited(method), "{method}");
        }
    }

    #[test]
    fn what_changes_something_is_not_for_readers() {
        let reader = Scopes::of(&[Scope::Read]);
        let reads = [
            "Get", "List", "Watch", "Export", "Check", "Download", "Evaluate",
        ];
        for path in methods::paths().filter(|path| path.starts_with("/frameshift.")) {
            let method = path.rsplit('/').next().unwrap();
            let may = need(path).unwrap().scopes().meets(reader);
            assert!(
                !may || reads.iter().any(|verb| method.starts_with(verb)),
                "{path}"
            );
        }
    }
}
