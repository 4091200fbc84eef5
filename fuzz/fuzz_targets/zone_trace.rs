//! A recorded trace, and what is planned with it.
#![no_main]

use coldpress::inspect::zone_sizing::{Plan, Prices, svg};
use coldpress::zone::trace::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(trace) = decode([("trace", text)]) else { return };
    let prices = Prices {
        memory_gib_month: 3.0,
        thousand_requests: 0.0004,
        transfer_gib: 0.01,
        overhead: 1.5,
        zone_millis: 1.0,
        origin_millis: 30.0,
        goal_millis: 5.0,
    };
    if let Ok(plan) = Plan::of(&trace, prices) {
        assert!(plan.sizes.iter().all(|size| (0.0..=1.0).contains(&size.hit_rate)));
        assert!(plan.chosen() < plan.sizes.len() && svg(&plan).ends_with("</svg>\n"));
    }
});
