//! Listings: the page that a call asks for, and the page that answers it.
//!
//! Invariant: no token reaches the records that was not sealed for the caller's tenant, and none leaves the server unsealed. Handlers see neither kind:
//! a page's [`Next`] becomes text here alone.

use tonic::Status;

use crate::ids::TenantId;
use crate::metadata::{Error, Next, Page, PageRequest};
use crate::proto::v1;
use crate::tenancy::pages::Pages;

/// A request for a page of a listing.
pub(super) trait Ask {
    /// The size and the token, as the caller sent them.
    fn page(&self) -> (i32, &str);
}

macro_rules! asks {
    ($($request:ident),* $(,)?) => {
        $(impl Ask for v1::$request {
            fn page(&self) -> (i32, &str) {
                (self.page_size, &self.page_token)
            }
        })*
    };
}

asks!(
    ListAdapterVersionsRequest,
    ListAuditEventsRequest,
    ListDatasetChangesRequest,
    ListDatasetVersionsRequest,
    ListDatasetsRequest,
    ListExamplesRequest,
    ListJobsRequest,
    ListKeysRequest,
    ListLabelCountsRequest,
    ListReplicasRequest,
    ListSweepsRequest,
    ListTasksRequest,
    ListTenantsRequest,
    ListUploadsRequest,
    ListUsageRequest,
    ListVideosRequest,
);

/// One call of a listing.
#[derive(Debug)]
pub(super) struct Listing {
    pages: Pages,
    tenant: Option<TenantId>,
    page: PageRequest,
}

impl Listing {
    /// Opens the page that a caller of this tenant asks for; `None` stands for operators.
    ///
    /// # Errors
    /// When the size is negative, or the token is not from an answer to a caller of the same tenant.
    pub(super) fn open(
        pages: &Pages,
        tenant: Option<&TenantId>,
        ask: &impl Ask,
    ) -> Result<Self, Status> {
        let (size, token) = ask.page();
        // Told as a token of another listing is.
        let token = pages.open(tenant, token).map_err(|_| Error::PageToken)?;
        Ok(Self {
            pages: pages.clone(),
            tenant: tenant.cloned(),
            page: PageRequest::new(size, &token)?,
        })
    }

    /// The page that is asked for.
    pub(super) fn page(&self) -> &PageRequest {
        &self.page
    }

    /// Shows the items of a page, and returns the token of the page after it.
    pub(super) fn show<T, S>(&self, page: Page<T>, show: impl FnMut(T) -> S) -> (Vec<S>, String) {
        let items = page.items.into_iter().map(show).collect();
        (items, self.seal(&page.next))
    }

    fn seal(&self, next: &Next) -> String {
        self.pages.seal(self.tenant.as_ref(), next.token())
    }
}
