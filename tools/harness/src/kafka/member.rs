//! Runs Kafka's own Java client as a consumer in a group.

use anyhow::Result;

use super::Kafka;
use crate::fetch;
use crate::process::{Output, Process, Program, Run, Signal};

/// A Java consumer, which is a member of its group until it is dropped.
#[derive(Debug)]
pub struct JavaConsumer {
    _process: Process,
}

impl Kafka {
    /// Starts Kafka's console consumer, with the assignors that Java clients offer by default. The consumer joins the group after
    /// this function has returned. If `java` is missing, it never joins, and this function returns no error.
    pub fn java_consumer(&self, group: &str, topic: &str) -> Result<JavaConsumer> {
        let run = Run::start("java-consumer")?;
        let classpath = fetch::kafka()?.classpath();
        let main = "org.apache.kafka.tools.consumer.ConsoleConsumer";
        let java = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &classpath, main];
        let consumer = ["--bootstrap-server", self.bootstrap_servers(), "--group", group, "--topic", topic];
        let program = Program {
            binary: "java".into(),
            args: java.iter().chain(&consumer).map(Into::into).collect(),
            env: Vec::new(),
            user: None,
            output: Output::Log(run.folder().join("consumer.log")),
            end_signal: Signal::TERM,
        };
        Ok(JavaConsumer { _process: Process::start(&run, &program)? })
    }
}
