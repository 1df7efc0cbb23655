//! Tests of the sentences.

use super::*;

fn flowing(name: &str) -> Facts {
    Facts { name: name.into(), state: PipelineState::Flowing, ..Facts::default() }
}

#[test]
fn when_well_there_is_one_calm_sentence() {
    let text = |facts: &[Facts]| all(facts, None).into_iter().map(|s| s.text).collect::<Vec<_>>();
    assert_eq!(text(&[flowing("a"), flowing("b")]), ["Everything flows. Every record is written."]);
    let late = Facts { lag_records: 3, lag_seconds: 0.4, ..flowing("a") };
    assert_eq!(text(&[late]), ["Everything flows. The oldest unwritten record waits 0.4 s."]);
}

#[test]
fn a_backlog_is_said_to_drain_only_where_more_is_written_than_comes_in() {
    let late =
        |into, out| Facts { lag_records: 9, lag_seconds: 20.0, into: Some(into), out: Some(out), ..flowing("a") };
    let says = |into, out| all(&[late(into, out)], None)[0].text.clone();
    assert_eq!(says(1.0, 2.0), "Everything flows. 9 records wait, the oldest for 20 s; the backlog drains.");
    assert_eq!(says(2.0, 2.0), "Everything flows. 9 records wait, the oldest for 20 s.");
}

#[test]
fn an_outage_says_what_waits_where_and_for_how_long_it_may() {
    let facts = Facts {
        state: PipelineState::Waiting,
        waiting: Some(Waiting {
            trouble: Trouble::postgres(&"Postgres 57P03 the database system is starting up (at connect)"),
            seconds: 42.0,
            attempt: 7,
            retry_in: 3.0,
        }),
        lag_records: 2_100_000,
        headroom: Some(71.0 * 3600.0),
        ..flowing("rides")
    };
    let said = all(&[flowing("fare"), facts], None);
    assert_eq!(said.len(), 1);
    assert_eq!(
        said[0].text,
        "rides has waited 42 s for Postgres: 57P03 the database system is starting up (at connect). Retry 7 in 3.0 s. \
         Nothing is lost: 2.1 M records wait in Kafka, which keeps them 71 h more."
    );
}

#[test]
fn a_wait_for_kafka_says_the_cause_and_the_remedy_also_beside_a_wait_for_postgres() {
    let waiting = |trouble| Some(Waiting { trouble, seconds: 12.0, attempt: 1, retry_in: 0.0 });
    let kafka = waiting(Trouble::kafka(&"h:1: the connection is refused; start Kafka there"));
    let facts = Facts { state: PipelineState::WaitingForKafka, kafka: kafka.clone(), ..flowing("rides") };
    assert_eq!(state_words(&facts), "waiting for Kafka");
    assert_eq!(
        troubles(&facts)[0].text,
        "rides has waited 12 s for Kafka: h:1: the connection is refused; start Kafka there. It retries. \
         Nothing is lost."
    );
    let waiting = waiting(Trouble::postgres(&"57P03"));
    let both = Facts { state: PipelineState::Waiting, waiting, kafka, ..flowing("rides") };
    let kinds: Vec<_> = troubles(&both).into_iter().map(|said| said.kind).collect();
    assert_eq!(kinds, ["waiting", "waiting_for_kafka"]);
}

#[test]
fn a_wait_for_the_registry_is_told_by_its_cause() {
    let trouble = Trouble::registry("http://registry:8081", &"status 503");
    let facts = Facts {
        state: PipelineState::Waiting,
        waiting: Some(Waiting { trouble, seconds: 3.0, attempt: 1, retry_in: 0.0 }),
        ..flowing("rides")
    };
    assert_eq!(state_words(&facts), "waiting for schemas");
    assert_eq!(
        troubles(&facts)[0].text,
        "rides has waited 3.0 s for the schema registry at http://registry:8081: status 503. It retries. \
         Nothing is lost."
    );
}

#[test]
fn a_quota_is_told_once_it_delays() {
    let kinds = |throttled| {
        troubles(&Facts { throttled, ..flowing("a") }).into_iter().map(|said| said.kind).collect::<Vec<_>>()
    };
    assert!(kinds(0.01).is_empty());
    assert_eq!(kinds(1.5), ["throttled"]);
}

#[test]
fn a_refused_reload_is_said_until_one_is_applied() {
    let said = all(&[flowing("a")], Some("a.toml:3:1  x: unknown key\na.toml:4:1  y: unknown key"));
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(
        said[0].text,
        "The last reload was refused, and the pipelines keep the previous configuration: a.toml:3:1  x: unknown key; \
         a.toml:4:1  y: unknown key."
    );
    let many: Vec<_> = (1..=22).map(|line| format!("a.toml:{line}:1  x: unknown key")).collect();
    let said = &all(&[flowing("a")], Some(&many.join("\n")))[0].text;
    let end =
        "a.toml:20:1  x: unknown key; and 2 more, which the log and `tidegate check --offline --config FILE` show.";
    assert!(said.ends_with(end), "{said}");
}

#[test]
fn a_missing_topic_and_a_loss_never_go_with_nothing_is_lost() {
    let waiting = |trouble| Some(Waiting { trouble, seconds: 12.0, attempt: 1, retry_in: 0.0 });
    let facts = Facts {
        state: PipelineState::Waiting,
        waiting: waiting(Trouble::postgres(&"57P03")),
        kafka: waiting(Trouble::topics(&["rides".to_owned()])),
        missing_topics: vec!["rides".to_owned()],
        lag_records: 1,
        ..flowing("a")
    };
    let said = troubles(&facts);
    let kinds: Vec<_> = said.iter().map(|said| said.kind.as_ref()).collect();
    assert_eq!(kinds, ["waiting", "waiting_for_topic"]);
    let end = "If `rides` held unwritten records, Kafka no longer has them. Of other topics, 1 record waits in Kafka, which keeps them.";
    assert!(said.iter().all(|said| said.text.ends_with(end)), "{said:?}");
    let waits = Facts { state: PipelineState::WaitingForKafka, waiting: None, ..facts };
    assert_eq!(state_words(&waits), "waiting for a topic");
    let lost = Facts { missing_topics: Vec::new(), may_be_lost: Some("rides/0".to_owned()), ..waits };
    assert!(troubles(&lost)[0].text.ends_with("Records may be lost: see the message about rides/0."));
}

#[test]
fn the_worst_comes_first() {
    let dead = Facts { dead: Some(RecentDeadLetters { count: 3, share: 0.1 }), ..flowing("a") };
    let stopped = Facts { state: PipelineState::Stopped, why: Some("no table".into()), ..flowing("b") };
    let kinds: Vec<_> = all(&[dead, stopped], None).into_iter().map(|s| s.kind).collect();
    assert_eq!(kinds, ["stopped", "dead_letters"]);
}

#[test]
fn dead_letters_contradict_no_other_sentence() {
    let dead = Some(RecentDeadLetters { count: 3, share: 0.0005 });
    let flows = Facts { dead, dead_reason: Some("invalid_json".into()), ..flowing("a") };
    assert_eq!(
        troubles(&flows)[0].text,
        "a: 3 dead letters in 5 min, 0.05 % of its records, the newest: invalid_json. The other records are written."
    );
    let all = Facts { dead: Some(RecentDeadLetters { count: 3, share: 1.0 }), ..flows.clone() };
    assert_eq!(troubles(&all)[0].text, "a: 3 dead letters in 5 min, 100 % of its records, the newest: invalid_json.");
    let waiting = Waiting { trouble: Trouble::postgres(&"57P03"), seconds: 47.0, attempt: 3, retry_in: 0.0 };
    let waits = Facts { state: PipelineState::Waiting, waiting: Some(waiting), ..flows };
    let said = troubles(&waits);
    assert!(said.len() == 2 && said.iter().all(|said| !said.text.contains("are written")), "{said:?}");
}

#[test]
fn each_trouble_leads_to_a_section_of_the_runbook() {
    let runbook = include_str!("../../../docs/runbook.md");
    let known: Vec<_> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).map(super::super::runbook::anchor).collect();
    let waiting = |trouble| Some(Waiting { trouble, seconds: 1.0, attempt: 1, retry_in: 0.0 });
    let why = Some("why".to_owned());
    let all_at_once = Facts {
        lag_records: 9,
        lag_seconds: 9000.0,
        headroom: Some(60.0),
        conditions: vec!["t/0: truncated".to_owned()],
        fenced: 1,
        lag_trouble: why.clone(),
        nobody: vec!["t/1".to_owned()],
        throttled: 1.0,
        into: Some(9.0),
        out: Some(1.0),
        dead: Some(RecentDeadLetters { count: 1, share: 1.0 }),
        ..flowing("a")
    };
    let facts = [
        all_at_once,
        Facts { state: PipelineState::Stopped, ..flowing("a") },
        Facts { state: PipelineState::Starting, why, ..flowing("a") },
        Facts {
            state: PipelineState::Waiting,
            waiting: waiting(Trouble::postgres(&"57P03")),
            kafka: waiting(Trouble::kafka(&"h:1")),
            ..flowing("a")
        },
        Facts {
            state: PipelineState::WaitingForKafka,
            kafka: waiting(Trouble::topics(&["t".to_owned()])),
            ..flowing("a")
        },
        Facts {
            state: PipelineState::Waiting,
            waiting: waiting(Trouble::registry("http://r", &"503")),
            ..flowing("a")
        },
    ];
    let said = all(&facts, Some("a.toml:3:1  x: unknown key"));
    assert_eq!(said.len(), 15, "{said:?}");
    for Sentence { kind, runbook: section, .. } in said {
        let section = section.unwrap_or_else(|| panic!("{kind} has no section"));
        assert!(known.iter().any(|anchor| *anchor == section), "{kind}: {section} is not in {known:?}");
    }
}

#[test]
fn what_kafka_is_about_to_delete_is_said_only_where_half_the_time_is_gone() {
    let facts = |lag_seconds, headroom| Facts { lag_records: 1, lag_seconds, headroom: Some(headroom), ..flowing("a") };
    assert!(troubles(&facts(60.0, 3000.0)).is_empty());
    assert_eq!(troubles(&facts(3000.0, 600.0))[0].kind, "headroom");
}

#[test]
fn numbers_read_as_people_write_them() {
    assert_eq!([912, 21_004, 2_100_000].map(whole_number), ["912", "21 004", "2.1 M"]);
    assert_eq!([0.44, 42.0, 200.0, 71.0 * 3600.0].map(duration), ["0.4 s", "42 s", "3 min", "71 h"]);
}

#[test]
fn what_is_the_limit_follows_from_the_time() {
    assert_eq!(
        limit(&[[0.9, 0.1, 0.0, 0.1, 0.0, 0.0]]).unwrap(),
        "Consumers wait for records: the pipeline has spare capacity."
    );
    assert!(limit(&[[0.1, 0.2, 0.7, 0.8, 0.1, 0.0]]).unwrap().starts_with("Postgres is the limit"));
    assert!(limit(&[[0.0, 0.0, 1.0, 0.0, 0.0, 0.9]]).unwrap().starts_with("Postgres is unavailable"));
    assert_eq!(limit(&[]), None);
}

#[test]
fn fields_that_no_record_has_are_named_up_to_three() {
    let never = |path: &str| NeverSeen { column: format!("c_{path}"), path: path.to_owned() };
    let said = |paths: &[&str]| {
        let facts = Facts { never_seen: paths.iter().map(|path| never(path)).collect(), ..flowing("a") };
        let said = troubles(&facts);
        assert_eq!((said.len(), said[0].level, said[0].runbook.is_some()), (1, Level::Warning, true));
        said[0].text.clone()
    };
    let text = "a: no record so far has had the field `x`, so its column is NULL. Is the name misspelled?";
    assert_eq!(said(&["x"]), text);
    let text = "a: no record so far has had the fields `x`, `y`, `z` and 1 more, so their columns are NULL. Is the name misspelled?";
    assert_eq!(said(&["x", "y", "z", "u"]), text);
}
