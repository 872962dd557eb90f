//! What callers do with sweeps: submit, look, cancel.
//!
//! Invariant: a sweep that is on record has points whose jobs are taken, as far as that can be said before they are submitted.

use super::{UNFINISHED, check, hyper_parameters};
use crate::ids::{DatasetId, RequestId, SweepId, TaskId, TenantId};
use crate::jobs::handle::was_made;
use crate::jobs::{Error, Handle, Submission, mirror, plan, selection};
use crate::metadata::{Page, PageRequest, SweepRecord, SweepSpec, SweepSummary};
use crate::spec::{Invalid, Selection};

impl Handle {
    /// Records a sweep, whose tasks and jobs follow.
    ///
    /// # Errors
    /// A point or a hyper-parameter out of range, or a shape whose jobs would be refused; no such data set or version of it; too many sweeps under way.
    pub async fn submit_sweep(
        &self,
        tenant: &TenantId,
        mut spec: SweepSpec,
        request: Option<RequestId>,
    ) -> Result<SweepRecord, Error> {
        check(&spec)?;
        let selection: &mut Selection = spec.hyper_parameters.selection.get_or_insert_default();
        selection::check(selection)?;
        if selection.eval_every == Some(0) {
            let problem = "points are compared by their evaluations, and it is 0";
            return Err(Invalid::new("eval_every", problem).into());
        }
        mirror::check(&spec.hyper_parameters)?;
        for place in 0..spec.points.len() {
            plan::check(&hyper_parameters(&spec, 0, (place, 0)))?;
        }
        let priority = spec.priority;
        if !(-100..=100).contains(&priority) {
            let problem = format!("expected -100 to 100, got {priority}");
            return Err(Invalid::new("priority", problem).into());
        }
        let dataset = named::<DatasetId>("dataset", &spec.dataset)?;
        for shape in &spec.shapes {
            named::<TaskId>("task_prefix", &shape.task)?;
        }
        // A repeated request has its answer, whatever has become of the data.
        if !self.is_sweep_submitted(tenant, request).await? {
            self.metadata.get_dataset(tenant, &dataset).await?;
            if let Some(number) = spec.dataset_version {
                let version = self.metadata.get_dataset_version(tenant, &dataset, number);
                version.await?;
            }
            self.check_shapes(tenant, &spec, &dataset).await?;
        }
        let record = self
            .metadata
            .submit_sweep(tenant, spec, UNFINISHED, request);
        Ok(record.await?)
    }

    /// Whether a sweep was submitted with this request before: then submitting it again returns that sweep.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_sweep_submitted(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
    ) -> Result<bool, Error> {
        let asked = |request| self.metadata.requested_sweep(tenant, request);
        was_made(request.map(asked)).await
    }

    /// Checks that jobs of every shape would be taken, as far as that does not depend on other jobs.
    async fn check_shapes(
        &self,
        tenant: &TenantId,
        spec: &SweepSpec,
        dataset: &DatasetId,
    ) -> Result<(), Error> {
        let wanted = Submission {
            dataset_version: spec.dataset_version,
            ..hyper_parameters(spec, 0, (0, 0)).into()
        };
        let (hyper, counted) = self.completed(tenant, dataset, wanted).await?;
        for shape in &spec.shapes {
            let planned = self.planned((&shape.adapter, &shape.sampling), &hyper, counted);
            planned.map_err(|Invalid { field, problem }| {
                Invalid::new(field, format!("{problem} (the shape of {})", shape.task))
            })?;
        }
        Ok(())
    }

    /// Reads a sweep.
    ///
    /// # Errors
    /// When the tenant has no such sweep.
    pub async fn get_sweep(&self, tenant: &TenantId, sweep: SweepId) -> Result<SweepRecord, Error> {
        Ok(self.metadata.get_sweep(tenant, sweep).await?)
    }

    /// Lists a tenant's sweeps, oldest first.
    ///
    /// # Errors
    /// When the page's token is not from this listing.
    pub async fn list_sweeps(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<SweepSummary>, Error> {
        Ok(self.metadata.list_sweeps(tenant, page).await?)
    }

    /// Asks a sweep to stop: it ends when its jobs have stopped.
    ///
    /// # Errors
    /// When the tenant has no such sweep, or it has ended.
    pub async fn cancel_sweep(
        &self,
        tenant: &TenantId,
        sweep: SweepId,
    ) -> Result<SweepRecord, Error> {
        Ok(self.metadata.cancel_sweep(tenant, sweep).await?)
    }
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    name: &str,
) -> Result<T, Invalid> {
    name.parse()
        .map_err(|error: T::Err| Invalid::new(field, error.to_string()))
}
