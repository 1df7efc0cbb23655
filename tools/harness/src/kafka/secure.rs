//! Listeners with TLS and SASL in addition to the plaintext listener, for tests of clients that authenticate.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::Kafka;
use crate::fetch::{self, JAVA_MISSING};
use crate::tls::Authority;

/// The user who can authenticate with SASL PLAIN from the start. SCRAM needs [`Kafka::set_scram_password`] first.
pub const SASL_USER: &str = "tidegate";
pub const SASL_PASSWORD: &str = "kelp-forest-42";

/// A listener of a broker that was started with [`KafkaSpec::secured`](super::KafkaSpec::secured).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Clients need neither a certificate nor a password.
    Tls,
    /// Clients need a certificate from the authority that signed the broker's certificate.
    MutualTls,
    /// TLS with one of the SASL mechanisms PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER. OAUTHBEARER accepts any unsigned
    /// token that hasn't expired.
    Sasl,
    /// TLS with a certificate for another host name.
    WrongName,
    Expired,
}

impl Listener {
    pub(super) const ALL: [Self; 5] = [Self::Tls, Self::MutualTls, Self::Sasl, Self::WrongName, Self::Expired];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::MutualTls => "MTLS",
            Self::Sasl => "SASL",
            Self::WrongName => "WRONGNAME",
            Self::Expired => "EXPIRED",
        }
    }

    pub(super) fn protocol(self) -> &'static str {
        if self == Self::Sasl { "SASL_SSL" } else { "SSL" }
    }
}

pub(super) fn properties(authority: &Authority) -> Result<Vec<(String, String)>> {
    let mut properties = Vec::new();
    let ca = authority.certificate().display().to_string();
    let good = authority.server("broker", &["localhost", "127.0.0.1"])?;
    let wrong = authority.server("broker-elsewhere", &["elsewhere.example"])?;
    let expired = authority.expired("broker-expired", &["localhost", "127.0.0.1"])?;
    for listener in Listener::ALL {
        let identity = match listener {
            Listener::WrongName => &wrong,
            Listener::Expired => &expired,
            Listener::Tls | Listener::MutualTls | Listener::Sasl => &good,
        };
        let mut set = |name: &str, value: String| {
            properties.push((format!("listener.name.{}.{name}", listener.name().to_lowercase()), value));
        };
        set("ssl.keystore.type", "PEM".to_owned());
        set("ssl.keystore.location", identity.both.display().to_string());
        if listener == Listener::MutualTls {
            set("ssl.truststore.type", "PEM".to_owned());
            set("ssl.truststore.location", ca.clone());
            set("ssl.client.auth", "required".to_owned());
        }
        if listener == Listener::Sasl {
            let security = "org.apache.kafka.common.security";
            set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned());
            let plain = format!("{security}.plain.PlainLoginModule required user_{SASL_USER}=\"{SASL_PASSWORD}\";");
            set("plain.sasl.jaas.config", plain);
            for scram in ["scram-sha-256", "scram-sha-512"] {
                set(&format!("{scram}.sasl.jaas.config"), format!("{security}.scram.ScramLoginModule required;"));
            }
            let bearer = format!(
                "{security}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
            );
            set("oauthbearer.sasl.jaas.config", bearer);
            // A client must authenticate again at least once per hour, and before its token expires. Otherwise the broker closes
            // the connection.
            set("oauthbearer.connections.max.reauth.ms", "3600000".to_owned());
        }
    }
    Ok(properties)
}

impl Kafka {
    /// Returns the address (`host:port`) of the first broker's listener of this kind.
    pub fn secure_address(&self, listener: Listener) -> Result<String> {
        let broker = self.broker(0)?;
        let port = broker.secure_ports.iter().find(|(found, _)| *found == listener).map(|(_, port)| *port);
        Ok(format!("127.0.0.1:{}", port.context("the broker was started without secure listeners")?))
    }

    pub fn authority(&self) -> Result<Arc<Authority>> {
        let authority = self.own.as_ref().and_then(|own| own.authority.clone());
        authority.context("the broker was started without secure listeners")
    }

    pub fn set_scram_password(&self, user: &str, password: &str) -> Result<()> {
        // One request can set a user's credentials for only one mechanism.
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let mut command = Command::new("java");
            command.args(["-XX:TieredStopAtLevel=1", "-cp", &fetch::kafka()?.classpath(), "kafka.admin.ConfigCommand"]);
            command.args(["--bootstrap-server", self.bootstrap_servers(), "--alter", "--entity-type", "users"]);
            command.args(["--entity-name", user, "--add-config", &format!("{mechanism}=[password={password}]")]);
            fetch::run(&mut command, JAVA_MISSING)?;
        }
        Ok(())
    }
}
