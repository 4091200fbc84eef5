//! What S3 and KMS share: region and credentials by the chain of AWS's own tools (environment, profiles, single sign-on, web identities,
//! containers, instances), and an HTTP client whose answers are bounded.

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use http_body_util::BodyExt;

use crate::endpoint::{is_link_local, is_local};
use crate::runtime::Services;

/// Maximum length of an answer of KMS, STS, single sign-on or a metadata service: all are of a few kilobytes.
const MAX_ANSWER: usize = 64 << 10;

/// The configuration for `region`, else the chain's. A server of one's own (`own_server`) has no regions, and asking the chain for
/// one would ask the metadata service of a cloud.
pub(crate) fn config(services: &Services, region: Option<&str>, own_server: bool) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(BoundedClient(https()));
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    } else if own_server {
        let named = EnvironmentVariableRegionProvider::new();
        loader = loader.region(RegionProviderChain::first_try(named).or_else("us-east-1"));
    }
    services.wait(loader.load())
}

/// The Region that the environment or the profile names; no service is asked.
pub(crate) fn configured_region() -> Option<String> {
    let services = Services::start().ok()?;
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    services.wait(chain.region()).map(|region| region.to_string())
}

/// The client that AWS's libraries make where none is given; it follows no redirect.
fn https() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let mut builder = ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.set_proxy_config(Some(ProxyConfig::from_env()));
        builder.build()
    })
}

/// A client whose connectors bound the answers.
#[derive(Debug)]
struct BoundedClient(SharedHttpClient);

impl HttpClient for BoundedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(BoundedConnector(self.0.http_connector(settings, components)))
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_base_client_config(components, config)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, config: &ConfigBag) -> Result<(), BoxError> {
        self.0.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}

/// A connector that reads at most [`MAX_ANSWER`] bytes of an answer.
#[derive(Debug)]
struct BoundedConnector(SharedHttpConnector);

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if let Err(in_clear) = check_tls(request.uri(), request.headers().contains_key("authorization")) {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(Box::new(in_clear))));
        }
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut answer = answer.await?;
            let body = read_up_to(answer.take_body(), MAX_ANSWER).await;
            // A reason that is cut says as much as its status.
            let body = if answer.status().is_success() { body? } else { body.unwrap_or_default() };
            *answer.body_mut() = SdkBody::from(body);
            Ok(answer)
        })
    }
}

/// Credentials, tokens or data keys would cross a network in clear, whoever named the address: an option, a variable or a profile.
#[derive(Debug, thiserror::Error)]
#[error("http://{0}: https:// is needed, or an address of this machine: secrets would cross the network in clear")]
pub(crate) struct InClear(String);

/// Checks that a request without TLS stays on this machine, or goes to a metadata service: at a link-local address, or a plain question
/// to one of another name.
fn check_tls(uri: &str, is_signed: bool) -> Result<(), InClear> {
    let Ok(url) = reqwest::Url::parse(uri) else { return Ok(()) };
    let host = url.host_str().unwrap_or_default();
    let is_metadata = is_link_local(host) || (!is_signed && url.path().starts_with("/latest/"));
    if url.scheme() != "http" || is_local(host) || is_metadata { Ok(()) } else { Err(InClear(host.to_owned())) }
}

/// A service's answer is longer than it can be. Asking again does not help.
#[derive(Debug, thiserror::Error)]
#[error("the answer is longer than {MAX_ANSWER} bytes")]
pub(crate) struct TooLong;

async fn read_up_to(mut body: SdkBody, limit: usize) -> Result<Vec<u8>, ConnectorError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.map_err(ConnectorError::io)?.into_data().unwrap_or_default();
        if bytes.len() + piece.len() > limit {
            return Err(ConnectorError::other(Box::new(TooLong), None));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_or_secret_goes_without_tls_to_this_machine_alone() {
        for (uri, is_signed, allowed) in [
            ("https://kms.us-east-1.amazonaws.com/", true, true),
            ("http://127.0.0.1:5000/", true, true),
            ("http://[::1]:5000/", true, true),
            ("http://kms.example/", true, false),
            ("http://10.0.0.1:9000/", true, false),
            // A web identity's token is in the body, and nothing is signed.
            ("http://sts.example/", false, false),
            ("http://169.254.169.254/latest/api/token", false, true),
            ("http://169.254.170.2/v2/credentials", false, true),
            ("http://[fd00:ec2::254]/latest/api/token", false, true),
            ("http://metadata.example/latest/meta-data/", false, true),
            ("http://metadata.example/latest/meta-data/", true, false),
        ] {
            assert_eq!(check_tls(uri, is_signed).is_ok(), allowed, "{uri}");
        }
    }
}
