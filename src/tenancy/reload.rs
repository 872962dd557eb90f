//! Files that are looked at from time to time, and taken when they have changed.
//!
//! Invariant: files that cannot be used are told of once for each change, and leave what was in force before.

use std::time::Duration;

use crate::blocking::blocking;
use crate::shutdown::Signal;

/// Looks at files after each `pause` until the drain, and calls `between` before each pause. `look` returns whether the files had changed and are in force
/// by now. `told` is called with each change, and with the reason why files cannot be used; for files that cannot be read, once until they can be.
pub(super) async fn watch<E: Send + 'static>(
    (pause, drain): (Duration, Signal),
    between: impl Fn(),
    look: impl Fn() -> Result<bool, E> + Clone + Send + 'static,
    is_unreadable: impl Fn(&E) -> bool,
    told: impl Fn(Result<(), E>),
) {
    let mut is_readable = true;
    loop {
        between();
        tokio::select! {
            () = drain.draining() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Ok(looked) = blocking(look.clone()).await else {
            continue;
        };
        match looked {
            Ok(is_new) => {
                is_readable = true;
                if is_new {
                    told(Ok(()));
                }
            }
            Err(error) if is_unreadable(&error) && !is_readable => {}
            Err(error) => {
                is_readable = !is_unreadable(&error);
                told(Err(error));
            }
        }
    }
}
