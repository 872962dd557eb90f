//! Listings that come in pages.
//!
//! Invariant: every page is asked for once, in order, until one names no next.

use super::Error;

/// Asks for page after page: `ask` takes a page's token, handles the page and returns the next one's token.
///
/// # Errors
/// The first that `ask` returns.
pub(super) async fn all(
    mut ask: impl AsyncFnMut(String) -> Result<String, Error>,
) -> Result<(), Error> {
    let mut token = String::new();
    loop {
        token = ask(token).await?;
        if token.is_empty() {
            return Ok(());
        }
    }
}
