//! A task for the registry's own tests.

use crate::ids::{AdapterVersion, TenantId};
use crate::metadata::TaskRecord;
use crate::spec::{AdapterConfig, ClipSampling};

/// Returns a linear probe's task with the version that serves it.
pub(super) fn task(serving: Option<AdapterVersion>) -> TaskRecord {
    TaskRecord {
        tenant: TenantId::anonymous(),
        id: "t".parse().unwrap(),
        display_name: String::new(),
        adapter: AdapterConfig::LINEAR_PROBE,
        sampling: ClipSampling::uniform(8.try_into().unwrap()),
        auto_serve: true,
        auto_head: false,
        serving,
        desired: serving,
        serving_error: None,
        split: None,
        previous: None,
        pinned: false,
        etag: String::new(),
        create_time: 0,
    }
}
