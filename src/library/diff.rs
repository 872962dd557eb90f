//! What differs between two snapshots: both are read in the order of their videos' ids, page by page.
//!
//! Invariant: memory does not grow with the snapshots, and a page of differences ends where the next one begins.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::{Library, Result};
use crate::ids::{TenantId, VideoId};
use crate::metadata::{self, Error, ExampleRecord, Next, Page, PageRequest};
use crate::spec::{Digest, ExampleLabels, Split};

/// What the pages are pages of.
const LISTING: &str = "dataset_changes";
/// Examples that are read at a time.
const PAGE: u32 = 1000;
/// Pages of each snapshot that one call reads at most.
const PAGES: u32 = 100;

/// A difference: a video's label and split before and after; `None` where it is not an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The video.
    pub video: VideoId,
    /// Its labels and split in the first snapshot.
    pub before: Option<(ExampleLabels, Split)>,
    /// Its labels and split in the second snapshot.
    pub after: Option<(ExampleLabels, Split)>,
}

/// A snapshot that is read from front to back.
struct Reader<'a> {
    library: &'a Library,
    tenant: &'a TenantId,
    digest: Digest,
    after: Option<VideoId>,
    page: VecDeque<ExampleRecord>,
    is_last: bool,
    pages: u32,
}

impl Reader<'_> {
    async fn fill(&mut self) -> Result<()> {
        if self.page.is_empty() && !self.is_last {
            let page = self
                .library
                .snapshot_examples(self.tenant, self.digest, self.after, PAGE);
            let page = page.await?;
            self.is_last = page.len() < PAGE as usize;
            self.after = page.last().map(|own| own.video).or(self.after);
            self.page = page.into();
            self.pages += 1;
        }
        Ok(())
    }

    fn take(&mut self) -> Option<(ExampleLabels, Split)> {
        self.page.pop_front().map(|own| (own.labels, own.split))
    }
}

/// The video after which a page begins.
fn start(page: &PageRequest) -> metadata::Result<Option<VideoId>> {
    let video = match page.start(LISTING) {
        Ok(first) if first.is_empty() => return Ok(None),
        Ok(video) => video,
        // Servers of the release before, which answer some of the pages during a rollout, give the id of the video alone.
        Err(_) => page.token().to_owned(),
    };
    Ok(Some(video.parse().map_err(|_| Error::PageToken)?))
}

impl Library {
    /// A page of the differences between two snapshots, in the order of the videos' ids. A page may have fewer than its size also when others follow.
    ///
    /// # Errors
    /// When the tenant has no such snapshot, the page's token is not of this listing, or the database fails.
    pub async fn differences(
        &self,
        tenant: &TenantId,
        [first, second]: [Digest; 2],
        page: &PageRequest,
    ) -> Result<Page<Difference>> {
        let after = start(page)?;
        let reader = |digest| Reader {
            library: self,
            tenant,
            digest,
            after,
            page: VecDeque::new(),
            is_last: first == second,
            pages: 0,
        };
        let (mut old, mut new) = (reader(first), reader(second));
        let (mut items, mut last): (_, Option<VideoId>) = (Vec::new(), after);
        loop {
            old.fill().await?;
            new.fill().await?;
            let heads = (old.page.front(), new.page.front());
            let (video, order) = match heads {
                (None, None) => {
                    let next = Next::default();
                    return Ok(Page { items, next });
                }
                (Some(own), None) => (own.video, Ordering::Less),
                (None, Some(own)) => (own.video, Ordering::Greater),
                (Some(old), Some(new)) => (old.video.min(new.video), old.video.cmp(&new.video)),
            };
            if items.len() >= page.size() || old.pages.max(new.pages) > PAGES {
                let next = last.map(|video| Next::at(LISTING, &video.to_string()));
                let next = next.unwrap_or_default();
                return Ok(Page { items, next });
            }
            let before = match order {
                Ordering::Less | Ordering::Equal => old.take(),
                Ordering::Greater => None,
            };
            let after = match order {
                Ordering::Greater | Ordering::Equal => new.take(),
                Ordering::Less => None,
            };
            last = Some(video);
            if before != after {
                items.push(Difference {
                    video,
                    before,
                    after,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_after_the_token_of_either_release() {
        let of = |token: &str| start(&PageRequest::new(0, token).unwrap());
        let text = "00000000-0000-7000-8000-000000000007";
        let video = Some(text.parse::<VideoId>().unwrap());
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of(Next::at(LISTING, text).token()).unwrap(), video);
        assert_eq!(of(text).unwrap(), video);
        let other = Next::at("videos", text);
        let bare = Next::at(LISTING, "x");
        for token in [other.token(), bare.token(), "x"] {
            assert!(matches!(of(token), Err(Error::PageToken)), "{token}");
        }
    }
}
