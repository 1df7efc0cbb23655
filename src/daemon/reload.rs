//! Decides which pipelines a new configuration keeps, restarts, starts or removes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::limits::{self, Share};

/// The facts about a running pipeline that a reload needs.
#[derive(Debug)]
pub(super) struct Running<'a> {
    /// The configuration with which the pipeline was started.
    pub(super) config: &'a Config,
    pub(super) share: &'a Share,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) kept: Vec<Arc<str>>,
    /// Pipelines that drain and start again with the new configuration, each with the reason.
    pub(super) restarted: Vec<(Arc<str>, &'static str)>,
    /// Pipelines that start: they are new, have stopped, or were told to end before this reload.
    pub(super) started: Vec<Arc<str>>,
    pub(super) removed: Vec<Arc<str>>,
    /// Keys whose change takes effect only when the process is restarted.
    pub(super) needs_restart: Vec<&'static str>,
}

/// Compares the current configuration with a new one. `running` has the pipelines that run and were not told to end.
///
/// # Errors
/// If a pipeline's share of the memory is too small: the text says how much is needed, and what to change.
pub(super) fn changes(
    old: &Config,
    new: &Config,
    running: &BTreeMap<Arc<str>, Running<'_>>,
) -> Result<Changes, String> {
    let mut changes = Changes { needs_restart: needs_restart(old, new), ..Changes::default() };
    let mut shares = BTreeMap::new();
    for pipeline in &new.pipelines {
        shares.insert(Arc::<str>::from(pipeline.name.as_str()), limits::share(new, pipeline)?);
    }
    for pipeline in &new.pipelines {
        let name: Arc<str> = pipeline.name.as_str().into();
        match running.get(&name) {
            None => changes.started.push(name),
            Some(now) => match difference(now.config, new, &pipeline.name) {
                Some(why) => changes.restarted.push((name, why)),
                None => changes.kept.push(name),
            },
        }
    }
    changes.removed = running.keys().filter(|name| !shares.contains_key(*name)).cloned().collect();
    // A pipeline that keeps running holds the memory that it was given. If all pipelines together would exceed the limit, those
    // that hold more than their new share restart.
    let has_now = |name: &Arc<str>| running.get(name).map_or(0, |now| now.share.bytes);
    let kept: u64 = changes.kept.iter().map(has_now).sum();
    let others: u64 =
        shares.iter().filter(|(name, _)| !changes.kept.contains(name)).map(|(_, share)| share.bytes).sum();
    if kept + others > limits::for_pipelines(new) {
        let shrinks = |name: &Arc<str>| shares.get(name).is_some_and(|share| share.bytes < has_now(name));
        let (smaller, kept) = std::mem::take(&mut changes.kept).into_iter().partition(shrinks);
        changes.kept = kept;
        let smaller: Vec<Arc<str>> = smaller;
        changes.restarted.extend(smaller.into_iter().map(|name| (name, "its part of `limits.memory` is smaller")));
    }
    Ok(changes)
}

/// Returns why a running pipeline must restart; `None` if its own configuration, `[kafka]`, `[postgres]`, and the durations in
/// `[limits]` are unchanged.
fn difference(old: &Config, new: &Config, name: &str) -> Option<&'static str> {
    let of = |config: &Config| config.pipelines.iter().find(|pipeline| pipeline.name == name).cloned();
    if of(old) != of(new) {
        Some("its configuration changed, or a file that it names")
    } else if old.kafka != new.kafka {
        Some("`[kafka]` changed, or a file that it names")
    } else if old.postgres != new.postgres {
        Some("`[postgres]` changed")
    } else if (old.limits.drain_timeout, old.limits.claim_grace) != (new.limits.drain_timeout, new.limits.claim_grace) {
        Some("`[limits]` changed")
    } else {
        None
    }
}

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("instance", old.instance != new.instance),
        ("http.listen", old.http.listen != new.http.listen),
        ("http.url", old.http.url != new.http.url),
        ("log.format", old.log.format != new.log.format),
        ("log.level", old.log.level != new.log.level),
    ];
    keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pipelines: &[(&str, &str)], rest: &str) -> Config {
        let mut toml = format!(
            "[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\n[postgres]\nurl = \"postgres://tidegate@127.0.0.1/t\"\n{rest}\n"
        );
        for (name, lines) in pipelines {
            toml += &format!("[pipelines.{name}]\ntopics = [\"t\"]\ntable.name = \"{name}\"\n{lines}\n");
        }
        Config::parse("test.toml", &toml).expect("a configuration")
    }

    fn compare(old: &Config, new: &Config) -> Changes {
        let shares: Vec<_> = old.pipelines.iter().map(|p| limits::share(old, p).expect("it fits")).collect();
        let running = old.pipelines.iter().zip(&shares);
        let running = running.map(|(p, share)| (p.name.as_str().into(), Running { config: old, share })).collect();
        changes(old, new, &running).expect("it fits")
    }

    const LARGE: &str = "[limits]\nmemory = \"4GiB\"";

    #[test]
    fn only_what_changed_restarts() {
        let old = config(&[("a", ""), ("b", ""), ("c", "")], LARGE);
        let new = config(&[("a", ""), ("b", "consumers = 3"), ("d", "")], LARGE);
        let changes = compare(&old, &new);
        assert_eq!(changes.kept, ["a".into()]);
        assert_eq!(changes.restarted, [("b".into(), "its configuration changed, or a file that it names")]);
        assert_eq!((changes.started, changes.removed), (vec!["d".into()], vec!["c".into()]));
        assert!(changes.needs_restart.is_empty());
    }

    #[test]
    fn an_added_pipeline_takes_no_more_memory_than_there_is() {
        let old = config(&[("a", "consumers = 1")], "");
        let new = config(&[("a", "consumers = 1"), ("b", "consumers = 1")], "");
        let changes = compare(&old, &new);
        assert_eq!(changes.restarted, [("a".into(), "its part of `limits.memory` is smaller")]);
        assert!(changes.kept.is_empty());
    }

    #[test]
    fn what_all_share_restarts_all_and_what_the_process_holds_is_named() {
        let old = config(&[("a", "")], LARGE);
        let new =
            config(&[("a", "")], "[limits]\nmemory = \"4GiB\"\nclaim_grace = \"7s\"\n[http]\nlisten = \"127.0.0.1:1\"");
        let changes = compare(&old, &new);
        assert_eq!(changes.restarted, [("a".into(), "`[limits]` changed")]);
        assert_eq!(changes.needs_restart, ["http.listen"]);
        assert_eq!(compare(&old, &old).kept, ["a".into()]);
    }
}
