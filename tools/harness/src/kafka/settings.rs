//! The configuration and the data folders of brokers and of ZooKeeper.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::secure::{self, Listener};
use super::spec::{KafkaSpec, Layout};
use super::template;
use crate::fetch::Jars;
use crate::{TunedFor, free_port};

pub(super) struct Node {
    pub(super) id: usize,
    pub(super) port: u16,
    pub(super) proxied_port: Option<u16>,
    pub(super) secure_ports: Vec<(Listener, u16)>,
    /// The id with which the data folder is formatted; `None` with ZooKeeper.
    cluster_id: Option<String>,
    properties: Vec<(String, String)>,
}

pub(super) fn lay_out(spec: &KafkaSpec, zookeeper_port: Option<u16>) -> Result<Vec<Node>> {
    let ids = 1..=spec.brokers();
    let ports: Vec<u16> = ids.clone().map(|_| free_port()).collect::<Result<_>>()?;
    let controller_ports: Vec<u16> = ids.clone().map(|_| free_port()).collect::<Result<_>>()?;
    let voters: Vec<String> =
        ids.clone().zip(&controller_ports).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
    let cluster_id = random_uuid();
    let mut nodes = Vec::new();
    for ((id, &port), &controller_port) in ids.zip(&ports).zip(&controller_ports) {
        let mut properties = common(spec);
        let mut listeners = vec![format!("PLAINTEXT://127.0.0.1:{port}")];
        let mut advertised = listeners.clone();
        let proxied_port = match spec.proxies.get(id - 1) {
            Some(proxy) => {
                let proxied_port = free_port()?;
                listeners.push(format!("PROXIED://127.0.0.1:{proxied_port}"));
                advertised.push(format!("PROXIED://{proxy}"));
                Some(proxied_port)
            }
            None => None,
        };
        let mut protocols = "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        let mut secure_ports = Vec::new();
        if let Some(authority) = &spec.authority {
            for listener in Listener::ALL {
                let (name, port) = (listener.name(), free_port()?);
                listeners.push(format!("{name}://127.0.0.1:{port}"));
                advertised.push(format!("{name}://127.0.0.1:{port}"));
                protocols += &format!(",{name}:{}", listener.protocol());
                secure_ports.push((listener, port));
            }
            properties.extend(secure::properties(authority)?);
        }
        let mut set = |name: &str, value: String| properties.push((name.to_owned(), value));
        match (spec.layout, zookeeper_port) {
            (Layout::Kraft { .. }, _) => {
                set("process.roles", "broker,controller".to_owned());
                set("node.id", id.to_string());
                set("controller.listener.names", "CONTROLLER".to_owned());
                set("controller.quorum.voters", voters.join(","));
                listeners.push(format!("CONTROLLER://127.0.0.1:{controller_port}"));
            }
            (Layout::ZooKeeper, Some(zookeeper_port)) => {
                set("broker.id", id.to_string());
                set("zookeeper.connect", format!("127.0.0.1:{zookeeper_port}"));
                // A broker that was killed can start again only after its ZooKeeper session has ended. So keep sessions short.
                set("zookeeper.session.timeout.ms", "3000".to_owned());
            }
            (Layout::ZooKeeper, None) => bail!("no ZooKeeper to connect to"),
        }
        set("listeners", listeners.join(","));
        set("advertised.listeners", advertised.join(","));
        set("listener.security.protocol.map", protocols);
        properties.extend(spec.properties.iter().cloned());
        let cluster_id = matches!(spec.layout, Layout::Kraft { .. }).then(|| cluster_id.clone());
        nodes.push(Node { id, port, proxied_port, secure_ports, cluster_id, properties });
    }
    Ok(nodes)
}

fn common(spec: &KafkaSpec) -> Vec<(String, String)> {
    let replicas = spec.brokers().min(3).to_string();
    let in_sync = if spec.brokers() >= 3 { "2" } else { "1" };
    let mut properties = vec![
        ("auto.create.topics.enable", "false"),
        ("default.replication.factor", &replicas),
        ("min.insync.replicas", in_sync),
        ("unclean.leader.election.enable", "false"),
        ("offsets.topic.replication.factor", &replicas),
        ("transaction.state.log.replication.factor", &replicas),
        ("transaction.state.log.min.isr", in_sync),
        ("share.coordinator.state.topic.replication.factor", &replicas),
        ("share.coordinator.state.topic.min.isr", in_sync),
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.num.partitions", "4"),
        ("share.coordinator.state.topic.num.partitions", "4"),
        // Tests produce records with old timestamps. Kafka must not delete them because of their age.
        ("log.retention.ms", "-1"),
        // A group must assign partitions at once. Tests may use short sessions.
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.min.session.timeout.ms", "1000"),
        ("group.consumer.min.session.timeout.ms", "1000"),
        ("group.consumer.min.heartbeat.interval.ms", "200"),
        // Other brokers must notice soon that a broker has died.
        ("broker.session.timeout.ms", "4000"),
        ("broker.heartbeat.interval.ms", "500"),
    ];
    if spec.tuned_for == TunedFor::Tests {
        properties.extend([
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
            ("background.threads", "2"),
            ("group.consumer.session.timeout.ms", "6000"),
            ("group.consumer.heartbeat.interval.ms", "500"),
            // This buffer is allocated at the start, and the heap is small.
            ("log.cleaner.dedupe.buffer.size", "4194304"),
            ("log.segment.bytes", "16777216"),
            ("log.index.size.max.bytes", "1048576"),
        ]);
    }
    properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Node {
    /// Writes the configuration and, in KRaft mode, a formatted data folder. Returns the path of the configuration.
    pub(super) fn prepare(&self, folder: &Path, jars: &Jars) -> Result<PathBuf> {
        let data = folder.join(format!("data-{}", self.id));
        fs::create_dir(&data)?;
        if let Some(cluster_id) = &self.cluster_id {
            let (id, directory_id) = (self.id, random_uuid());
            fs::write(
                data.join("meta.properties"),
                format!("version=1\ncluster.id={cluster_id}\nnode.id={id}\ndirectory.id={directory_id}\n"),
            )?;
            template::copy_checkpoint(|path| jars.checkpoint(path), |path| data.join(path))?;
        }
        let mut text = format!("log.dirs={}\n", data.display());
        for (name, value) in &self.properties {
            text += &format!("{name}={value}\n");
        }
        let path = folder.join(format!("broker-{}.properties", self.id));
        fs::write(&path, text)?;
        Ok(path)
    }
}

pub(super) fn prepare_zookeeper(folder: &Path, port: u16) -> Result<PathBuf> {
    let data = folder.join("zookeeper");
    fs::create_dir(&data)?;
    let path = folder.join("zookeeper.properties");
    fs::write(
        &path,
        format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=500\nmaxClientCnxns=0\n\
             admin.enableServer=false\n",
            data.display()
        ),
    )?;
    Ok(path)
}

/// Returns a random id in Kafka's form: 16 bytes in Base64, which are 22 characters without padding. The last character stands
/// for only two bits, so it must be one of four characters. This function always chooses `A`.
fn random_uuid() -> String {
    let mut text: String = std::iter::repeat_with(fastrand::alphanumeric).take(21).collect();
    text.push('A');
    text
}
