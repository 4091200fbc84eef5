//! Threads where there may be none to have: at a limit on processes (a container's `pids`), work goes on with fewer.

use std::thread::{Builder, scope};

/// Runs `work` on `count` threads side by side, one of which is the caller's; on fewer where the system gives no more.
pub(crate) fn side_by_side(count: usize, work: impl Fn() + Sync) {
    scope(|scope| {
        for _ in 1..count {
            if Builder::new().spawn_scoped(scope, &work).is_err() {
                break;
            }
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn as_many_run_side_by_side_as_are_wanted() {
        let all = Barrier::new(3);
        side_by_side(3, || _ = all.wait());
        side_by_side(0, || ());
    }
}
