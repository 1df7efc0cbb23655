//! Measures the CPU time of reading a topic, alternately by `BaseConsumer::poll` and in bulk.
//!
//! Run `RECORDS=2000000 PARTITIONS=4 TURNS=3 cargo bench -p tidegate-kafka-batch`, where these values are the defaults.
//! The value of each record has 100 bytes. The CPU time is that of the whole process, librdkafka's threads included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tidegate_harness::usage::cpu_time;
use tidegate_harness::{Kafka, KafkaSpec, Record, TunedFor, unique_name};
use tidegate_kafka_batch::{BatchQueue, Item};

const WAIT: Duration = Duration::from_secs(1);
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Turn {
    records: u64,
    /// The sum of lengths, offsets and timestamps, so that both ways access the same parts of a record.
    sum: u64,
    cpu_seconds: f64,
    seconds: f64,
}

impl Turn {
    fn add(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, offset: i64, timestamp: Option<i64>) {
        self.records += 1;
        let lengths = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        self.sum = self
            .sum
            .wrapping_add(lengths as u64)
            .wrapping_add_signed(offset)
            .wrapping_add_signed(timestamp.unwrap_or(0));
    }

    #[expect(clippy::cast_precision_loss, reason = "records are far below 2^52")]
    fn per_million(&self) -> f64 {
        self.cpu_seconds / (self.records as f64 / 1e6)
    }
}

fn main() -> Result<()> {
    let number = |name: &str, default: u64| std::env::var(name).map_or(Ok(default), |value| value.parse());
    let (records, turns) = (number("RECORDS", 2_000_000)?, number("TURNS", 3)?);
    let partitions = i32::try_from(number("PARTITIONS", 4)?)?;
    let kafka = Kafka::start(&KafkaSpec::single().tuned_for(TunedFor::Speed))?;
    let topic = unique_name("read");
    kafka.create_topic(&topic, partitions, &[])?;
    let numbers = 0..i64::try_from(records)?;
    kafka.produce(
        &topic,
        numbers.map(|n| {
            let record = Record::new(format!("{n:-<100}")).key(format!("{n}"));
            record.to(i32::try_from(n % i64::from(partitions)).expect("a remainder of an i32"))
        }),
    )?;
    // Run each way once without measuring, to fill the broker's caches and open the first connections.
    one(&kafka, &topic, partitions, records, false)?;
    one(&kafka, &topic, partitions, records, true)?;
    let mut all = [Vec::new(), Vec::new()];
    for turn in 1..=turns {
        for bulk in [false, true] {
            let way = if bulk { "bulk" } else { "poll" };
            let cost = one(&kafka, &topic, partitions, records, bulk)?;
            println!("turn {turn} {way}: {:.3} CPU-s per million records, {:.2} s", cost.per_million(), cost.seconds);
            all[usize::from(bulk)].push(cost);
        }
    }
    ensure!(all.iter().flatten().all(|turn| turn.sum == all[0][0].sum), "the two ways read different records");
    let [poll, bulk] = all.map(|turns| median(turns.iter().map(Turn::per_million).collect()));
    println!("median: poll {poll:.3}, bulk {bulk:.3} CPU-s per million records, ratio {:.2}", bulk / poll);
    Ok(())
}

fn median(mut costs: Vec<f64>) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

/// Reads the whole topic with a new consumer: in bulk if `bulk` is set, otherwise by `BaseConsumer::poll`.
fn one(kafka: &Kafka, topic: &str, partitions: i32, records: u64, bulk: bool) -> Result<Turn> {
    let consumer: Arc<BaseConsumer> = Arc::new(
        ClientConfig::new()
            .set("bootstrap.servers", kafka.bootstrap_servers())
            .set("group.id", unique_name("group"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("fetch.queue.backoff.ms", "1")
            .create()?,
    );
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    let mut queue = bulk.then(|| BatchQueue::new(Arc::clone(&consumer))).transpose()?;
    if let Some(queue) = &mut queue {
        for partition in 0..partitions {
            queue.forward(topic, partition)?;
        }
    }
    let (started, before) = (Instant::now(), cpu_time(std::process::id(), false)?);
    consumer.assign(&list)?;
    let mut turn = match &mut queue {
        Some(queue) => by_bulks(queue, topic, records)?,
        None => by_polls(&consumer, topic, records)?,
    };
    turn.cpu_seconds = (cpu_time(std::process::id(), false)? - before).as_secs_f64();
    turn.seconds = started.elapsed().as_secs_f64();
    Ok(turn)
}

fn by_polls(consumer: &BaseConsumer, topic: &str, records: u64) -> Result<Turn> {
    let mut turn = Turn::default();
    let mut heard_at = Instant::now();
    while turn.records < records {
        match consumer.poll(WAIT) {
            Some(message) => {
                let message = message?;
                ensure!(message.topic() == topic, "a record of another topic");
                turn.add(message.key(), message.payload(), message.offset(), message.timestamp().to_millis());
                if turn.records.is_multiple_of(10_000) {
                    heard_at = Instant::now();
                }
            }
            None if heard_at.elapsed() > SILENCE_MAX => bail!("only {} records have come", turn.records),
            None => {}
        }
    }
    Ok(turn)
}

fn by_bulks(
    queue: &mut BatchQueue<rdkafka::consumer::DefaultConsumerContext>,
    topic: &str,
    records: u64,
) -> Result<Turn> {
    let mut turn = Turn::default();
    let mut heard_at = Instant::now();
    while turn.records < records {
        if let Some(message) = queue.consumer().poll(Duration::ZERO) {
            bail!("something came to the consumer's queue: {:?}", message.map(|message| message.offset()));
        }
        let mut bulk = queue.read(WAIT)?;
        if !bulk.is_empty() {
            heard_at = Instant::now();
        } else if heard_at.elapsed() > SILENCE_MAX {
            bail!("only {} records have come", turn.records);
        }
        while let Some(item) = bulk.next_item() {
            match item {
                Item::Run(run) => {
                    ensure!(run.topic == topic, "a record of another topic");
                    for record in run.records {
                        turn.add(record.key(), record.value(), record.offset(), record.timestamp());
                    }
                }
                Item::Fault(fault) => return Err(fault.error()).context(fault.text().into_owned()),
            }
        }
    }
    Ok(turn)
}
