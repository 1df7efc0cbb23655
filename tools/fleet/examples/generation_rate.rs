//! Measures how many records per second one core simulates and encodes:
//! `cargo run --release -p fleet --example generation_rate [vehicles]`.

use std::hint::black_box;
use std::time::Instant;

use fleet::{Deliveries, DeliverySpec, Encoder, Fleet, FleetSpec, Format};

fn main() -> anyhow::Result<()> {
    let vehicles = std::env::args().nth(1).map_or(Ok(10_000), |text| text.parse())?;
    let spec = FleetSpec { vehicles, ..FleetSpec::default() };
    let records = 10_000_000_u64;
    let rate = |name: &str, run: &mut dyn FnMut() -> u64| {
        let begun = Instant::now();
        let bytes = run();
        let seconds = begun.elapsed().as_secs_f64();
        let millions = records as f64 / seconds / 1e6;
        println!("{name:<22} {millions:6.2} M/s  {:5.1} bytes", bytes as f64 / records as f64);
    };
    let mut fleet = Fleet::new(spec.clone())?;
    rate("simulate", &mut || {
        for _ in 0..records {
            black_box(fleet.next());
        }
        0
    });
    for (name, format) in [("compact", Format::Compact), ("telemetry", Format::Telemetry)] {
        let (mut encoder, mut out) = (Encoder::new(format), Vec::new());
        let sample: Vec<_> = Fleet::new(spec.clone())?.skip(200_000).take(100_000).collect();
        rate(&format!("write {name}"), &mut || {
            let mut bytes = 0;
            for _ in 0..records / 100_000 {
                for reading in &sample {
                    out.clear();
                    encoder.write(black_box(reading), &mut out);
                    bytes += black_box(&out).len() as u64;
                }
            }
            bytes
        });
        let delivery = DeliverySpec { late: 0.01, repeat: 0.01 };
        for (way, delivery) in [("", DeliverySpec::default()), (", 1 % late", delivery)] {
            let deliveries = Deliveries::new(Fleet::new(spec.clone())?, delivery, Some(records));
            let mut deliveries = Some(deliveries);
            rate(&format!("all of {name}{way}"), &mut || {
                let mut bytes = 0;
                for delivery in deliveries.take().into_iter().flatten() {
                    out.clear();
                    encoder.write(&delivery.reading, &mut out);
                    bytes += black_box(&out).len() as u64;
                }
                bytes
            });
        }
    }
    Ok(())
}
