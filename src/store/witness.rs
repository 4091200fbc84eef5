//! The HTTP client of the stores, which notes what was answered: the errors of `object_store` tell a conflict from a
//! failed condition and a busy service from a refused request only in prose.

use std::cell::Cell;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use crate::retry::asked_wait;

/// The last answer to one request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answer {
    /// The HTTP status; `None` where no answer came.
    pub(super) status: Option<u16>,
    /// How long the service asks to wait.
    pub(super) retry_after: Option<Duration>,
}

tokio::task_local! {
    /// Where the answers to a task's requests are noted.
    static NOTE: Cell<Answer>;
}

/// What `requests` comes to, and the last answer on its way.
pub(super) async fn noting<F: Future>(requests: F) -> (F::Output, Answer) {
    let noted = async {
        let output = requests.await;
        (output, NOTE.with(Cell::get))
    };
    NOTE.scope(Cell::default(), noted).await
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
        let answer = self.0.execute(request).await;
        // Requests for credentials may come from elsewhere.
        let _ = NOTE.try_with(|note| note.set(answer.as_ref().map(answer_of).unwrap_or_default()));
        answer
    }
}

fn answer_of(response: &HttpResponse) -> Answer {
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let retry_after = header("retry-after").and_then(|text| asked_wait(text, header("date")));
    Answer { status: Some(response.status().as_u16()), retry_after }
}
