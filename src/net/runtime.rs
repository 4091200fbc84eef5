//! Where requests to services run: threads of their own, so that the rest of the program has no futures in it.

use std::future::Future;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// Threads that requests run on; every client of a service holds it.
#[derive(Debug, Clone)]
pub struct Services(Arc<tokio::runtime::Runtime>);

impl Services {
    /// Starts them.
    ///
    /// # Errors
    /// `Unavailable` where the operating system gives no threads.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("services")
            .enable_all()
            .build()
            .map_err(|error| Error::caused(ErrorKind::Unavailable, "threads for requests to services", error))?;
        Ok(Self(Arc::new(runtime)))
    }

    /// What `request` comes to; blocks the calling thread, which is none of these.
    pub fn wait<F: Future>(&self, request: F) -> F::Output {
        self.0.block_on(request)
    }

    /// The same, with all of `request` on these threads: no step of it waits for the caller to wake.
    pub fn run<F>(&self, request: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        match self.0.block_on(self.0.spawn(request)) {
            Ok(output) => output,
            // The runtime lives, so it was not cancelled.
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
