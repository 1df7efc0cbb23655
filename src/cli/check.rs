//! `tidegate check`: checks what can be known before the daemon runs. It registers no pipeline and joins no group. The newest
//! records are written as a trial, for which a missing table is created too. The trial is rolled back.

mod capacity;
mod creation;
mod database;
mod event_triggers;
mod fields;
mod listen;
mod report;
mod rights;
mod sample;
mod stand_in;

use std::collections::BTreeMap;

use report::{Memory, PipelineReport};
use serde::Serialize;
use tidegate_protocol::claim_loop::End;
use tidegate_protocol::dead_letter_budget;
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_rows::spec::PartitionBy;
use tidegate_rows::write_mode::partitions::{Bounds, name};

use super::progress::Progress;
use super::{Common, reach, show};
use crate::cgroup;
use crate::config::{Config, Pipeline, Topics};
use crate::error::FatalError;
use crate::kafka::observer::{Group, partitions_of};
use crate::kafka::settings;
use crate::limits;
pub(super) use sample::ranges as newest_ranges;
use sample::{Done, Ranges, Tried};
use stand_in::{Setup, Trials};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Try to write at most this many of the newest records, per pipeline. With 0, none is tried.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    records: u32,
    /// Check only the files, without connecting to Kafka or Postgres.
    #[arg(long)]
    offline: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    pipelines: Vec<PipelineReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct KafkaReport {
    pub(super) bootstrap_servers: String,
    pub(super) cluster_id: String,
    pub(super) group: String,
    /// The state of the consumer group. `null` if Kafka doesn't know the group yet, or if the group could not be read.
    pub(super) group_state: Option<String>,
    pub(super) group_members: usize,
    pub(super) topics: BTreeMap<String, TopicReport>,
    /// The first offset of each partition's log, and its end (exclusive). The ledger's positions are compared with them.
    #[serde(skip)]
    pub(super) logs: BTreeMap<TopicPartition, (Offset, Offset)>,
}

#[derive(Debug, Serialize)]
pub(super) struct TopicReport {
    pub(super) partitions: i32,
    /// The number of offsets in the logs of all partitions. The topic has at most that many records, because some offsets may
    /// hold none.
    pub(super) records: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let mut pipelines = Vec::new();
    let progress = Progress::start("check");
    let listens = if arguments.offline { None } else { listen::Finding::of(config.http.listen).await };
    for pipeline in arguments.common.pipelines(&config)? {
        let mut report = Box::pin(check(&config, pipeline, arguments, &progress)).await;
        if let Some(finding) = listens.clone() {
            finding.report(&mut report);
        }
        pipelines.push(report);
    }
    drop(progress);
    let report = Report { ok: pipelines.iter().all(|pipeline| pipeline.faults.is_empty()), pipelines };
    if arguments.common.json {
        show::json(&report)?;
    } else {
        show::print(&report.pipelines.iter().map(PipelineReport::text).collect::<Vec<_>>().join("\n"))?;
    }
    let faults: usize = report.pipelines.iter().map(|pipeline| pipeline.faults.len()).sum();
    if faults == 0 {
        return Ok(());
    }
    // The report has already named the faults, so the error only counts them.
    let text = format!("check found {}", show::counted(faults as u64, "fault", "faults"));
    // While a service can't be reached, other faults may stay unknown. So the exit code says that the service can't be reached.
    Err(if report.pipelines.iter().any(|pipeline| pipeline.unreachable) {
        FatalError::Unavailable(text)
    } else {
        FatalError::Config(text)
    })
}

async fn check(config: &Config, pipeline: &Pipeline, arguments: &Arguments, progress: &Progress) -> PipelineReport {
    let records = arguments.records;
    let mut report = PipelineReport::of(config, pipeline);
    match limits::share(config, pipeline) {
        Ok(share) => report.memory = Some(Memory::of(config, &share)),
        Err(fault) => report.faults.push(fault),
    }
    report.warnings.extend(cgroup::warning(config.limits.memory));
    if arguments.offline {
        report.offline = true;
        return report;
    }
    progress.step(format!("{}: asking Kafka for topics and group", pipeline.name));
    let kafka = match ask_kafka(config, pipeline, &mut report).await {
        Ok(kafka) => {
            report.missing_topics(pipeline, &kafka);
            Some(kafka)
        }
        Err(error) => {
            report.fault(&error);
            None
        }
    };
    progress.step(format!("{}: reading rights and the table from Postgres", pipeline.name));
    let plans = match database::check(config, pipeline, &mut report).await {
        Ok(plans) => plans,
        Err(error) => {
            report.fault(&error);
            None
        }
    };
    if let (Some(kafka), Some(plans)) = (&kafka, &plans) {
        let oid = if plans.make_table.is_some() { 0 } else { plans.source.current().table.catalog.oid };
        let compared = database::registration(config, pipeline, kafka, oid, &mut report).await;
        compared.unwrap_or_else(|error| report.fault(&error));
    }
    if let (Some(kafka), Some(plans)) = (&kafka, plans)
        && records > 0
    {
        let topics = kafka.topics.iter().map(|(topic, found)| (topic.clone(), found.partitions)).collect();
        let count = show::counted(u64::from(records), "record", "records");
        progress.step(format!("{}: trying the newest {count}", pipeline.name));
        match trial(config, pipeline, plans, &topics, records, &mut report).await {
            Ok(sample) => report.sample = sample,
            // The faults about rights already name what is missing.
            Err(error) if !report.grants.is_empty() && error.is_missing_right() => report.warnings.push(
                "the newest records were not tried, because rights are missing; run check again after they were granted".to_owned(),
            ),
            Err(error) => report.fault(&error),
        }
    }
    report.kafka = kafka;
    report
}

/// Writes the newest records, and rolls back. Returns `None` if this isn't possible; the report then says why.
async fn trial(
    config: &Config,
    pipeline: &Pipeline,
    plans: database::Plans,
    topics: &BTreeMap<String, i32>,
    records: u32,
    report: &mut PipelineReport,
) -> Result<Option<sample::Sample>, FatalError> {
    let ranges = sample::ranges(config, pipeline, topics, records).await?;
    let plans = match &pipeline.table.route {
        None => Some(plans),
        Some(_) => {
            let named = sample::named_tables(config, pipeline, &plans.source, ranges.clone()).await?;
            database::for_named(config, pipeline, &named, plans.triggers, report).await?
        }
    };
    let Some(plans) = plans else { return Ok(None) };
    let trials = database::trials(config, pipeline, &plans, report).await?;
    let Some(trials) = trials else { return Ok(None) };
    let tried = attempts(config, pipeline, &plans, &trials, ranges, report).await?;
    let Tried::Done(done) = tried else {
        return Err(FatalError::Config(
            "the trial of the newest records: the table changed meanwhile; check again".to_owned(),
        ));
    };
    let Done { mut sample, fields } = *done;
    sample.fields = fields.judged(pipeline, report);
    if let (Some(alter), Some(triggers)) = (&sample.evolve, &plans.triggers) {
        event_triggers::on_columns(config, pipeline, triggers, alter, report).await?;
    }
    report.too_many_dead(pipeline, &sample);
    Ok(Some(sample))
}

const LESS_CHECKED: &str = "the newest records were tried on a temporary table, so that foreign keys, unique indexes, partitions and row security did not judge them";

/// Runs the guarded trial, if there is one, and then the direct trial; see [`Trials`]. The bare trial replaces the direct trial
/// if the direct trial isn't safe, or if its rows need a partition that the daemon would create. A warning then says what was not
/// checked. If the daemon can't create partitions, rows that no existing partition accepts are a fault.
async fn attempts(
    config: &Config,
    pipeline: &Pipeline,
    plans: &database::Plans,
    trials: &Trials,
    ranges: Ranges,
    report: &mut PipelineReport,
) -> Result<Tried, FatalError> {
    let attempt = async |setup: &Setup| {
        let make = plans.make_table.as_deref();
        Box::pin(sample::try_records(config, pipeline, &plans.source, make, setup, ranges.clone())).await
    };
    let suspects = trials.suspects.join("; ");
    if !trials.suspects.is_empty() {
        let why = match &trials.guarded {
            None => trials.untriable.clone().unwrap_or_default(),
            Some(guarded) => match (attempt(guarded).await?, &trials.untriable) {
                (Tried::WouldChange(why), _) => why,
                (tried, Some(why)) => {
                    report.warnings.push(format!("{LESS_CHECKED}: {why}"));
                    return Ok(tried);
                }
                (Tried::Done(_), None) => String::new(),
                (lacking @ Tried::LacksPartition(_), None) => return Ok(lacking),
            },
        };
        if !why.is_empty() {
            report.warnings.push(format!(
                "not tried, because it may make changes that no rollback undoes: {suspects} ({why}). Also, {LESS_CHECKED}"
            ));
            return attempt(&trials.bare).await;
        }
    }
    match attempt(&trials.direct).await? {
        Tried::LacksPartition(wanted) => {
            let taken = |by: &PartitionBy| {
                let is_taken = |at: &&Bounds| report.taken.contains(&name(&pipeline.table.name, by, at));
                wanted.iter().filter(is_taken).copied().collect::<Vec<_>>()
            };
            let (wanted, why) = match (&pipeline.table.partition_by, &report.no_new_partitions) {
                (Some(_), Some(why)) => (wanted, Some(why.clone())),
                (Some(by), None) => (taken(by), None),
                (None, _) => (Vec::new(), None),
            };
            if let (false, Some(by)) = (wanted.is_empty(), &pipeline.table.partition_by)
                && database::lack_place(config, pipeline, by, &wanted).await?
            {
                report.faults.push(format!(
                    "pipelines.{}.table.partition_by: rows of the newest records have no partition, so the pipeline would stop: {}",
                    pipeline.name,
                    why.as_deref().unwrap_or("another table has its name")
                ));
            } else if !wanted.is_empty() && why.is_some() {
                // The daemon can't create partitions, so it would write only into those that exist.
                return attempt(&Setup { no_partitions: true, ..trials.direct.clone() }).await;
            } else {
                report.warnings.push(format!("rows need partitions that the daemon will create; {LESS_CHECKED}"));
            }
            attempt(&trials.bare).await
        }
        tried => Ok(tried),
    }
}

async fn ask_kafka(
    config: &Config,
    pipeline: &Pipeline,
    report: &mut PipelineReport,
) -> Result<KafkaReport, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let topics = reach::topics(config, &observer, &pipeline.topics).await?;
    let sources = partitions_of(&topics);
    let (group, start) = (pipeline.group.clone(), pipeline.start.clone());
    let (cluster_id, low, high, group, may_read) = reach::ask(config, &observer, move |observer| {
        // The right to read the group is separate from the right to read the topics, so check both.
        let may_read = observer.may_read_group(&group)?;
        if may_read != Some(false) {
            observer.starts(&sources, &start)?;
        }
        let (low, high) = (observer.ends(&sources, End::Low)?, observer.ends(&sources, End::High)?);
        Ok((observer.cluster_id()?, low, high, observer.group(&group).unwrap_or_default(), may_read))
    })
    .await?;
    if may_read == Some(false) {
        report.faults.push(format!(
            "pipelines.{}.group: the broker doesn't let us read in group `{}`, so no consumer could join it; {}",
            pipeline.name,
            pipeline.group,
            acl(config, pipeline, "Read", "group", &pipeline.group)
        ));
    }
    if settings::assignor(pipeline.group_protocol).is_none() {
        let fault = reach::ask(config, &observer, |observer| match observer.no_consumer_protocol() {
            None => observer.switched_off_consumer_protocol(),
            fault => Ok(fault),
        });
        match fault.await? {
            Some(fault) => report.faults.push(format!("pipelines.{}.group_protocol: {fault}", pipeline.name)),
            None => report.warnings.push(format!(
                "pipelines.{}.group_protocol: whether the brokers have the protocol `consumer` switched on shows only a join; if not, the pipeline stops and says so. The switches are `kafka-features upgrade --feature group.version=1`, and `consumer` in the brokers' `group.coordinator.rebalance.protocols`",
                pipeline.name
            )),
        }
    }
    let names: Vec<String> = topics.keys().cloned().collect();
    let answers = reach::ask(config, &observer, move |observer| {
        Ok((observer.denied_topics(&names)?, observer.retention(&names)?))
    });
    let (denied, retention) = answers.await?;
    for topic in denied {
        report.faults.push(format!(
            "pipelines.{}.topics: the broker denies us the records of topic `{topic}`; {}",
            pipeline.name,
            acl(config, pipeline, "Read", "topic", &topic)
        ));
    }
    for topic in topics.keys().filter(|topic| !retention.contains_key(*topic)) {
        report.warnings.push(format!(
            "pipelines.{}.topics: the broker doesn't let us read the retention of topic `{topic}`, so it will be unknown when Kafka deletes unwritten records, and no alert can warn of it; {}",
            pipeline.name,
            acl(config, pipeline, "DescribeConfigs", "topic", topic)
        ));
    }
    let mut found: BTreeMap<String, TopicReport> =
        topics.into_iter().map(|(topic, partitions)| (topic, TopicReport { partitions, records: 0 })).collect();
    for (source, end) in &high {
        if let (Some(topic), Some(low)) = (found.get_mut(&*source.topic), low.get(source)) {
            topic.records += end.distance_from(*low);
        }
    }
    if let Some(group) = &group {
        report.other_protocol(pipeline, group);
    }
    let (state, members) = group.map(|group| (group.state, group.members)).unwrap_or_default();
    Ok(KafkaReport {
        bootstrap_servers: config.kafka.bootstrap_servers.clone(),
        cluster_id,
        group: pipeline.group.clone(),
        group_state: Some(state).filter(|state| !state.is_empty()),
        group_members: members,
        topics: found,
        logs: high.into_iter().filter_map(|(source, end)| Some((source.clone(), (*low.get(&source)?, end)))).collect(),
    })
}

fn acl(config: &Config, pipeline: &Pipeline, operation: &str, kind: &str, name: &str) -> String {
    let properties = config.kafka.properties_of(pipeline);
    let user = properties.get("sasl.username").map_or("NAME", |user| user.expose());
    format!(
        "run: kafka-acls.sh --bootstrap-server {} --add --allow-principal 'User:{user}' --operation {operation} --{kind} '{name}'; or remove the rule that denies it",
        config.kafka.bootstrap_servers
    )
}

impl PipelineReport {
    fn missing_topics(&mut self, pipeline: &Pipeline, kafka: &KafkaReport) {
        let name = &pipeline.name;
        match &pipeline.topics {
            Topics::List(topics) => {
                for topic in topics.iter().filter(|topic| !kafka.topics.contains_key(*topic)) {
                    self.faults.push(format!(
                        "pipelines.{name}.topics: topic `{topic}` does not exist on {}; create it, or correct its name; the daemon would wait for it",
                        kafka.bootstrap_servers
                    ));
                }
            }
            Topics::Pattern(pattern) if kafka.topics.is_empty() => self.warnings.push(format!(
                "pipelines.{name}.topic_pattern: {pattern:?} matches no topic on {} yet; topics that appear later are read from their beginning",
                kafka.bootstrap_servers
            )),
            Topics::Pattern(_) => {}
        }
    }

    /// Reports a group whose members share the partitions by another protocol than the pipeline's. The pipeline's consumers may
    /// be unable to join it: Kafka accepts a member only if every other member offers one of the new member's protocols.
    fn other_protocol(&mut self, pipeline: &Pipeline, group: &Group) {
        let Some(ours) = settings::assignor(pipeline.group_protocol) else { return };
        if group.members == 0 || group.protocol.is_empty() || group.protocol == ours {
            return;
        }
        let Group { members, protocol, .. } = group;
        let members = show::counted(*members as u64, "member", "members");
        let what = format!(
            "pipelines.{}.group_protocol: group `{}` has {members} that share the partitions by `{protocol}`, and our consumers offer only `{ours}`",
            pipeline.name, pipeline.group
        );
        if group.is_ours {
            self.warnings.push(format!(
                "{what}, so that they can't join instances of the daemon with another `group_protocol`; end these before one starts with this configuration"
            ));
            return;
        }
        // Kafka doesn't say which other protocols a member offers.
        let ours_too =
            if protocol == settings::EAGER { " set group_protocol = \"eager\" to offer it too;" } else { "" };
        self.faults.push(format!(
            "{what}. They can join only if each of these members offers `{ours}` too, which only a join shows: {}. Set pipelines.{}.group to a group of its own, since members of other programs are assigned partitions too;{ours_too} or end these members",
            settings::OFFERED,
            pipeline.name
        ));
    }

    fn too_many_dead(&mut self, pipeline: &Pipeline, sample: &sample::Sample) {
        let limits = pipeline.dead_letters;
        let share = dead_letter_budget::share(sample.records, sample.dead_letters);
        if sample.dead_letters == 0 || share <= limits.max_share {
            return;
        }
        let what = format!(
            "pipelines.{}.columns: {} of the newest {} records would be dead letters ({:.1} %), above `dead_letters.max_share` ({:.1} %)",
            pipeline.name,
            show::count(sample.dead_letters),
            show::count(sample.records),
            share * 100.0,
            limits.max_share * 100.0
        );
        if limits.exceeded(sample.records, sample.dead_letters).is_some() {
            self.faults.push(format!("{what}, so the pipeline would stop; correct the mapping by the reasons above"));
        } else {
            self.warnings.push(format!(
                "{what}; at this share the pipeline stops after {} dead letters (`dead_letters.min_count`); the reasons are above",
                show::count(limits.min_count)
            ));
        }
    }
}
