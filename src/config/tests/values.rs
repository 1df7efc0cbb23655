//! Tests that the values of keys reach their fields.

use std::time::Duration;

use tidegate_protocol::claim_loop::OffsetLossPolicy;
use tidegate_rows::spec::{Column, EpochUnit, NulPolicy, Source, UnknownFields, WriteMode};

use super::{parse, with};
use crate::config::{GroupProtocol, LogFormat, Start, Topics};

#[test]
fn every_key_reaches_its_field() {
    let config = parse(
        r#"
        [kafka]
        bootstrap_servers = "a:1,b:2"
        [postgres]
        url = "postgresql://u@h/d"
        password_file = "/run/pw"
        session = { synchronous_commit = "off", work_mem = "1MB", jit = false, "auto_explain.log_min_duration" = 5 }
        lock_timeout = "1s"
        statement_timeout = "2s"
        write_timeout = "3s"
        connect_timeout = "4s"
        idle_in_transaction_timeout = "5s"
        [http]
        listen = "[::]:1"
        url = "https://h:2/"
        [log]
        format = "json"
        level = "debug"
        [limits]
        memory = "1GiB"
        drain_timeout = "6s"
        claim_grace = "7s"
        [pipelines.b]
        topic_pattern = "^t\\..+"
        group = "g"
        consumers = 256
        start = 2026-01-31T08:00:00.5Z
        group_protocol = "eager"
        decode.format = "json"
        batch = { max_rows = 1, max_bytes = "64KiB", max_age = "1ms" }
        flow.max_rows_per_second = 9
        table = { name = "s.t", mode = "insert_new", key = ["k"] }
        unknown_fields = { column = "extra" }
        on_offset_loss = "latest"
        dead_letters = { max_share = 1, window = "1h", min_count = 0 }
        kafka = { "fetch.min.bytes" = 5 }
        [kafka.properties]
        "fetch.min.bytes" = 4
        "client.id" = "c"
        [pipelines.a]
        topics = ["x"]
        start = "committed"
        unknown_fields = "dead_letter"
        table.name = "t"
        "#,
    )
    .unwrap_or_else(|faults| panic!("{faults}"));
    let postgres = &config.postgres;
    assert_eq!(postgres.password_file.as_deref(), Some(std::path::Path::new("/run/pw")));
    let session: Vec<_> = postgres.session.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(session, ["auto_explain.log_min_duration=5", "jit=false", "synchronous_commit=off", "work_mem=1MB"]);
    let seconds = [
        postgres.lock_timeout,
        postgres.statement_timeout,
        postgres.write_timeout,
        postgres.connect_timeout,
        postgres.idle_in_transaction_timeout,
        config.limits.drain_timeout,
        config.limits.claim_grace,
    ];
    assert_eq!(seconds.map(|wait| wait.as_secs()), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((config.http.listen.to_string().as_str(), config.http.url.as_deref()), ("[::]:1", Some("https://h:2")));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, tracing::Level::DEBUG));
    let [a, b] = config.pipelines.as_slice() else { panic!("two pipelines") };
    assert_eq!((a.group.as_str(), &a.start, &a.unknown_fields), ("a", &Start::Committed, &UnknownFields::DeadLetter));
    assert_eq!(b.topics, Topics::Pattern("^t\\..+".into()));
    assert_eq!((b.group.as_str(), b.consumers.get(), b.start.clone()), ("g", 256, Start::Time(1_769_846_400_500)));
    assert_eq!((b.group_protocol, b.on_offset_loss), (GroupProtocol::Eager, OffsetLossPolicy::Latest));
    assert_eq!((b.batch.max_rows.get(), b.batch.max_bytes, b.batch.max_age), (1, 65_536, Duration::from_millis(1)));
    assert_eq!(b.max_rows_per_second.map(std::num::NonZeroU32::get), Some(9));
    assert_eq!((b.table.name.to_string().as_str(), b.table.create), ("s.t", false));
    assert_eq!(b.table.mode, WriteMode::InsertNew { key: vec!["k".into()] });
    assert_eq!(b.unknown_fields, UnknownFields::Column("extra".into()));
    assert_eq!((b.dead_letters.window.as_secs(), b.dead_letters.min_count), (3600, 0));
    let own: Vec<_> = config.kafka.properties_of(b).into_iter().map(|(name, value)| (name, value.expose())).collect();
    assert_eq!(own, [("client.id", "c"), ("fetch.min.bytes", "5")]);
    assert_eq!(config.kafka.properties_of(a)["fetch.min.bytes"].expose(), "4");
}

#[test]
fn columns_take_a_path_or_a_table() {
    let config = parse(&with(
        r#"
        table.create = true
        [pipelines.rides.columns]
        lat = { field = "position.lat", type = "Double Precision", default = 1.5 }
        ts = { field = "ts", type = "timestamptz", unit = "ms", not_null = true }
        plate = { field = 'a\.b', type = "varchar(9)", default = "é\"", nul = "strip" }
        "off" = { meta = "offset", type = "int8" }
        trace = { header = "trace-id", type = "text" }
        "#,
    ))
    .unwrap_or_else(|faults| panic!("{faults}"));
    let column = |name: &str, source, type_name: &str| Column {
        name: name.into(),
        source,
        type_name: Some(type_name.into()),
        unit: None,
        default: None,
        zone: None,
        missing: None,
        keep: None,
        nul: NulPolicy::DeadLetter,
        not_null: false,
        function: None,
        aggregate: None,
    };
    let field = |path: &[&str]| Source::Field(path.iter().map(|level| (*level).to_owned()).collect());
    assert_eq!(
        config.pipelines[0].columns.as_deref(),
        Some(
            [
                Column { default: Some("1.5".into()), ..column("lat", field(&["position", "lat"]), "float8") },
                Column { unit: Some(EpochUnit::Millis), not_null: true, ..column("ts", field(&["ts"]), "timestamptz") },
                Column {
                    default: Some("\"é\\\"\"".into()),
                    nul: NulPolicy::Strip,
                    ..column("plate", field(&["a.b"]), "varchar(9)")
                },
                column("off", Source::Offset, "int8"),
                column("trace", Source::Header("trace-id".into()), "text"),
            ]
            .as_slice()
        )
    );
}
