//! The HTTP client of the stores, which notes what was answered: the errors of `object_store` tell a conflict from a
//! failed condition and a busy service from a refused request only in prose.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{ClientOptions, Extensions};

/// The last answer to one request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answer {
    /// The HTTP status; `None` where no answer came.
    pub(super) status: Option<u16>,
    /// How long the service asks to wait.
    pub(super) retry_after: Option<Duration>,
}

/// Where a request's answer is noted; goes with it as an extension.
#[derive(Clone, Default)]
pub(super) struct Note(Arc<Mutex<Answer>>);

impl Note {
    /// What was noted.
    pub(super) fn read(&self) -> Answer {
        *self.0.lock().expect("no thread panics with it")
    }

    /// Goes with a request.
    pub(super) fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions
    }
}

/// Makes clients that note.
#[derive(Debug)]
pub(super) struct Witness;

impl HttpConnector for Witness {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(WitnessClient(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct WitnessClient(HttpClient);

#[async_trait]
impl HttpService for WitnessClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let note = request.extensions().get::<Note>().cloned();
        let answer = self.0.execute(request).await;
        if let Some(note) = note {
            *note.0.lock().expect("no thread panics with it") = answer.as_ref().map(answer_of).unwrap_or_default();
        }
        answer
    }
}

fn answer_of(response: &HttpResponse) -> Answer {
    let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Answer { status: Some(response.status().as_u16()), retry_after: seconds.map(Duration::from_secs) }
}
