//! What S3 and KMS share: region and credentials by the chain of AWS's own tools (environment, profiles, single sign-on, web identities,
//! containers, instances).

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::{BehaviorVersion, Region, SdkConfig};

use crate::runtime::Services;

/// The configuration for `region`, else the chain's. A server of one's own (`own_server`) has no regions, and asking the chain for
/// one would ask the metadata service of a cloud.
pub(crate) fn config(services: &Services, region: Option<&str>, own_server: bool) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    } else if own_server {
        let named = EnvironmentVariableRegionProvider::new();
        loader = loader.region(RegionProviderChain::first_try(named).or_else("us-east-1"));
    }
    services.wait(loader.load())
}
