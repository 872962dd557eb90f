//! Pages of a listing: a size within limits, and an opaque token that names the last row of the page before.
//!
//! Invariant: a token is good for the listing that gave it and for no other; whatever a caller sends as one is an error or a place in its own listing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Error;

/// Rows of a page when the caller does not say.
const DEFAULT_SIZE: u32 = 100;
/// Most rows of a page.
const MAX_SIZE: u32 = 1000;

/// Request for a page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    size: u32,
    token: String,
}

impl PageRequest {
    /// Requests a page of at most `size` rows (0 means 100, more than 1000 means 1000) after the page that gave `token`; empty for the first.
    ///
    /// # Errors
    /// When `size` is negative.
    pub fn new(size: i32, token: &str) -> Result<Self, Error> {
        let size = match u32::try_from(size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => return Err(Error::PageSize { size }),
        };
        Ok(Self {
            size,
            token: token.into(),
        })
    }

    /// Requests the first page, as large as pages get.
    pub fn first() -> Self {
        Self {
            size: MAX_SIZE,
            token: String::new(),
        }
    }

    /// Requests the page after another one, as large as pages get.
    pub fn after(next: &Next) -> Self {
        Self {
            size: MAX_SIZE,
            token: next.0.clone(),
        }
    }

    /// Returns the most rows of the page.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// Returns the token of the page, not sealed; empty for the first page.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Rows to read: one more than the page has, to know whether another follows.
    pub(super) fn limit(&self) -> i64 {
        i64::from(self.size) + 1
    }

    /// The key after which the page begins; empty for the first page.
    ///
    /// # Errors
    /// [`Error::PageToken`] when the token is of another listing.
    pub fn start(&self, listing: &str) -> Result<String, Error> {
        if self.token.is_empty() {
            return Ok(String::new());
        }
        URL_SAFE_NO_PAD
            .decode(&self.token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| {
                let (own, key) = text.split_once(':')?;
                (own == listing).then(|| key.to_owned())
            })
            .ok_or(Error::PageToken)
    }

    /// Makes a page of at most `size` rows from up to [`Self::limit`] rows.
    pub(super) fn page<T>(
        &self,
        listing: &str,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Page<T> {
        let size = self.size();
        let more = items.len() > size;
        items.truncate(size);
        let next = match items.last() {
            Some(last) if more => Next::at(listing, &key(last)),
            Some(_) | None => Next::default(),
        };
        Page { items, next }
    }
}

/// Where a listing goes on after a page. Callers get it sealed, so it is text only for who seals it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next(String);

impl Next {
    /// A listing that goes on after the row with this key.
    pub fn at(listing: &str, key: &str) -> Self {
        Self(URL_SAFE_NO_PAD.encode(format!("{listing}:{key}")))
    }

    /// Returns whether no page follows.
    pub fn is_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the token of the page that follows, not sealed; empty when none does.
    pub fn token(&self) -> &str {
        &self.0
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Items of the page, in the listing's order.
    pub items: Vec<T>,
    /// Where the listing goes on; nowhere after the last page.
    pub next: Next,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_to_its_place_in_its_own_listing() {
        let request = PageRequest::new(2, "").expect("valid");
        let page = request.page("videos", vec!["a", "b", "c"], |item| (*item).to_owned());
        assert_eq!(page.items, ["a", "b"]);
        let next = PageRequest::new(2, page.next.token()).expect("valid");
        assert_eq!(next.start("videos").ok().as_deref(), Some("b"));
        assert!(matches!(next.start("jobs"), Err(Error::PageToken)));
    }

    #[test]
    fn bad_pages_are_refused() {
        assert!(matches!(
            PageRequest::new(-1, ""),
            Err(Error::PageSize { size: -1 })
        ));
        for bad in ["!", "AAAA", "dmlkZW9z"] {
            let request = PageRequest::new(0, bad).expect("valid");
            assert!(matches!(request.start("videos"), Err(Error::PageToken)));
        }
    }

    #[test]
    fn the_last_page_has_no_token() {
        let page = PageRequest::first().page("x", vec![1, 2], ToString::to_string);
        assert!(page.next.is_end());
    }
}
