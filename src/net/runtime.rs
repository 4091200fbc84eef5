//! The async runtime: requests to services run on its threads, so that the rest of the program has no futures.
//!
//! A process has one, however many clients of services it has; it ends with the last of them.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::Runtime;

use crate::{Error, ErrorKind, Result};

/// A handle to the threads that requests run on; every client of a service has one.
#[derive(Debug, Clone)]
pub struct Services(Arc<Runtime>);

/// The runtime of this process, while a client uses it.
static RUNNING: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

impl Services {
    /// Returns the threads of this process, and starts them where there are none.
    ///
    /// # Errors
    /// `Unavailable` where the operating system gives no threads.
    pub fn start() -> Result<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = running.upgrade() {
            return Ok(Self(runtime));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("services")
            .enable_all()
            .build()
            .map_err(|error| Error::caused(ErrorKind::Unavailable, "threads for requests to services", error))?;
        let runtime = Arc::new(runtime);
        *running = Arc::downgrade(&runtime);
        Ok(Self(runtime))
    }

    /// Runs `request` and returns its output; blocks the calling thread, which must not be one of these.
    pub fn wait<F: Future>(&self, request: F) -> F::Output {
        self.0.block_on(request)
    }

    /// Runs `request` as [`Self::wait`] does, with all of its steps on these threads, so that no step waits for the caller to wake
    /// up.
    pub fn run<F>(&self, request: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        match self.0.block_on(self.0.spawn(request)) {
            Ok(output) => output,
            // The runtime is still running, so the task was not cancelled.
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
