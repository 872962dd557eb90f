//! The versions that a task should serve, and which of them the engine has still to prove.
//!
//! Invariant: a version whose failure is on record is listed as failed, so that it is not tried again until it is requested again.

use super::{Registry, Result};
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::metadata::{Proof, TaskRecord};

/// Version that a task should serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Reference of the version.
    pub version: VersionRef,
    /// What the version is to the task.
    pub role: Role,
    /// Whether it is on record that the version cannot serve.
    pub failed: bool,
    /// Whether the version serves already, and perhaps only other processes have loaded it.
    pub is_elsewhere: bool,
    /// Whether the version does not serve yet, or is still to be proved.
    pub is_due: bool,
    /// Whether the task's versions are to stay in memory.
    pub is_pinned: bool,
}

/// What a version is to its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The main version, which replaces the serving one.
    Main,
    /// A version that gets a share of the requests.
    Member,
    /// A shadow version; it is loaded only into room that nobody else needs.
    Shadow,
}

impl Registry {
    /// Versions that a task should serve, the main one first, whether they already do or not.
    ///
    /// # Errors
    /// When the tenant has no such task, or the database fails.
    pub async fn desired(&self, tenant: &TenantId, task: &TaskId) -> Result<Vec<Desired>> {
        let task = self.get_task(tenant, task).await?;
        let mut all = desired(&task);
        let is_shared = self.inner.replica.is_some();
        for own in &mut all {
            let serves = task.serving == Some(own.version.version);
            own.is_elsewhere = is_shared && serves && own.role == Role::Main;
        }
        Ok(all)
    }

    /// Versions of all tenants that are desired but do not serve yet, or are still to be proved: the engine's work at start. Those that failed were
    /// tried already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pending(&self) -> Result<Vec<Desired>> {
        let tasks = self.inner.metadata.pending_tasks().await?;
        let pending = |task: &TaskRecord| {
            let mut due = desired(task);
            due.retain(|own| own.is_due);
            due
        };
        Ok(tasks.iter().flat_map(pending).collect())
    }
}

impl Registry {
    /// Wants the versions that serve a task to stay in memory, or no longer.
    ///
    /// # Errors
    /// When the tenant has no such task, its pinned versions would have more bytes than `limit`, or the database fails.
    pub async fn pin_task(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        pinned: bool,
        limit: u64,
    ) -> Result<TaskRecord> {
        let metadata = &self.inner.metadata;
        let change = metadata.pin_task(tenant, task, pinned, limit);
        self.announcing(tenant, task, change).await
    }

    /// Versions of all tenants that are to stay in memory, with the bytes of their files, in the order of tenants and tasks.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pinned(&self) -> Result<Vec<(VersionRef, u64)>> {
        let pinned = self.inner.metadata.pinned_versions().await?;
        let pinned = pinned.into_iter().map(|own| (own.version, own.size_bytes));
        Ok(pinned.collect())
    }
}

/// The desired version of a task, and the others of its split.
fn desired(task: &TaskRecord) -> Vec<Desired> {
    let own = |version: AdapterVersion, role, (is_due, failed)| Desired {
        version: VersionRef {
            tenant: task.tenant.clone(),
            task: task.id.clone(),
            version,
        },
        role,
        failed,
        is_elsewhere: false,
        is_due,
        is_pinned: task.pinned,
    };
    let mut all = Vec::new();
    let of_main = (task.desired != task.serving, task.serving_error.is_some());
    all.extend(task.desired.map(|main| own(main, Role::Main, of_main)));
    if let Some(plan) = &task.split {
        all.extend(plan.others().map(|share| {
            let is_member = plan.members.contains(share);
            let role = if is_member {
                Role::Member
            } else {
                Role::Shadow
            };
            let failed = matches!(share.proof, Proof::Failed { .. });
            own(share.version, role, (share.proof == Proof::Pending, failed))
        }));
    }
    all
}
