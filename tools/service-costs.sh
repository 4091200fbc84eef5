#!/bin/bash
# service-costs.sh: what each service costs a program that does nothing but call it: CPU seconds of a cold build, bytes of the stripped
# program, crates. The table in docs/design.md. Takes a quarter of an hour.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cd "$work"
run() { # name deps main
  cat > Cargo.toml <<T
[package]
name = "costs"
version = "0.1.0"
edition = "2024"
[dependencies]
tokio = { version = "1", features = ["net","rt-multi-thread","time"] }
$2
T
  echo "$3" > src/main.rs
  rm -rf target
  /usr/bin/time -f "$1: %e s wall %U s user" cargo build --release -q; strip target/release/costs; ls -la target/release/costs | awk '{print $5}'; cargo tree -e normal --prefix none | sed 's/ (\*)//' | sort -u | wc -l
}
P='use object_store::{ObjectStore,PutPayload,ObjectStoreExt};'
GO='async fn go(s: std::sync::Arc<dyn ObjectStore>) { let _ = s.put(&"a".into(), PutPayload::from(vec![1u8])).await; let _ = s.get(&"a".into()).await.unwrap().bytes().await; let _ = s.list_with_delimiter(None).await; let _ = s.delete(&"a".into()).await; }'
S3='object_store::aws::AmazonS3Builder::from_env().build().unwrap()'
run none "" 'fn main(){ let r=tokio::runtime::Runtime::new().unwrap(); r.block_on(async{println!("x")}); }'
run s3 'object_store = { version = "0.14", default-features = false, features = ["aws"] }' "$P $GO fn main(){ let r=tokio::runtime::Runtime::new().unwrap(); r.block_on(go(std::sync::Arc::new($S3))); }"
run s3+gs+az 'object_store = { version = "0.14", default-features = false, features = ["aws","gcp","azure"] }' "$P $GO fn main(){ let r=tokio::runtime::Runtime::new().unwrap(); r.block_on(go(std::sync::Arc::new($S3))); r.block_on(go(std::sync::Arc::new(object_store::gcp::GoogleCloudStorageBuilder::from_env().build().unwrap()))); r.block_on(go(std::sync::Arc::new(object_store::azure::MicrosoftAzureBuilder::from_env().build().unwrap()))); }"
run s3+gs+az+kms 'object_store = { version = "0.14", default-features = false, features = ["aws","gcp","azure"] }
aws-sdk-kms = { version = "1", default-features = false, features = ["default-https-client","rt-tokio"] }
aws-config = { version = "1", default-features = false, features = ["default-https-client","rt-tokio","credentials-process","sso"] }' "$P $GO fn main(){ let r=tokio::runtime::Runtime::new().unwrap(); r.block_on(go(std::sync::Arc::new($S3))); r.block_on(go(std::sync::Arc::new(object_store::gcp::GoogleCloudStorageBuilder::from_env().build().unwrap()))); r.block_on(go(std::sync::Arc::new(object_store::azure::MicrosoftAzureBuilder::from_env().build().unwrap()))); r.block_on(async { let c = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await; let k = aws_sdk_kms::Client::new(&c); let _ = k.generate_data_key().key_id(\"x\").send().await; let _ = k.decrypt().send().await; let _ = k.encrypt().send().await; let _ = k.generate_mac().send().await; }); }"
