//! Reading events and deciding, the two pure steps, by themselves.

/// A pure module of the function, without the rest of it.
macro_rules! of_the_function {
    ($name:ident, $path:literal) => {
        #[path = $path]
        #[allow(
            dead_code,
            unreachable_pub,
            unused_imports,
            clippy::pedantic,
            reason = "a part of the function, of which the rest is not here"
        )]
        mod $name;
    };
}

of_the_function!(event, "../../../src/event/mod.rs");
of_the_function!(instance, "../../../src/instance.rs");
of_the_function!(policy, "../../../src/policy/mod.rs");

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const SAMPLES: [(&str, &str); 5] = [
    ("RunInstances/one", include_str!("../../../events/RunInstances/one.json")),
    ("RunInstances/hundred", include_str!("../../../events/RunInstances/hundred.json")),
    (
        "ModifyInstanceMetadataOptions/downgrade-to-optional",
        include_str!("../../../events/ModifyInstanceMetadataOptions/downgrade-to-optional.json"),
    ),
    ("StateChange/running", include_str!("../../../events/StateChange/running.json")),
    ("SqsBatch/state-changes", include_str!("../../../events/SqsBatch/state-changes.json")),
];

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for (name, json) in SAMPLES {
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| event::read(black_box(json), "us-east-1")));
    }
    group.finish();
}

fn decide(criterion: &mut Criterion) {
    let metadata_options = instance::MetadataOptions {
        http_tokens: Some("optional".into()),
        http_endpoint: Some("enabled".into()),
        ..instance::MetadataOptions::default()
    };
    let id = "i-0123456789abcdef0".parse().expect("an id");
    let instance = instance::Instance::new(id, "running".into(), metadata_options);
    criterion.bench_function("decide", |bencher| bencher.iter(|| policy::decide(black_box(&instance), false)));
}

criterion_group!(benches, read, decide);
criterion_main!(benches);
