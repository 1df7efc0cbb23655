//! A stand-in for a schema registry. It supports the part of Confluent's REST interface that a reader of schemas needs, with the
//! same fields and error codes. It supports no contexts, no compatibility checks and no writes by HTTP.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Result;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::tls::Identity;

/// A registry that listens on its own port until the process ends.
#[derive(Debug, Clone)]
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The answers to `/schemas/ids/N`, by schema id.
    schemas: BTreeMap<u32, Value>,
    /// The schema ids of each subject's versions. Version 1 comes first.
    subjects: BTreeMap<String, Vec<u32>>,
    failing: Option<u16>,
    denied: Option<String>,
    authorization: Option<String>,
    without_guids: bool,
    tls: Option<Arc<ServerConfig>>,
    asked: Vec<String>,
}

impl Registry {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let this = Self { address: listener.local_addr()?, state: Arc::default() };
        let served = this.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let registry = served.clone();
                // If a client closes its connection, that is no error of the registry.
                thread::spawn(move || registry.accept(connection).ok());
            }
        });
        Ok(this)
    }

    pub fn url(&self) -> String {
        let scheme = if self.lock().tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn set_certificate(&self, identity: &Identity) -> Result<()> {
        let certificate = CertificateDer::from_pem_file(&identity.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&identity.key)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        self.lock().tls = Some(Arc::new(config));
        Ok(())
    }

    /// Adds a schema as the next version of a subject. Returns the schema's id. `kind` is AVRO, PROTOBUF or JSON. Each of
    /// `references` consists of a name, a subject and a version.
    pub fn add(&self, subject: &str, kind: &str, schema: &str, references: &[(&str, &str, u32)]) -> u32 {
        let mut state = self.lock();
        let id = state.schemas.keys().last().map_or(1, |last| last + 1);
        let references: Vec<Value> = references
            .iter()
            .map(|(name, subject, version)| json!({ "name": name, "subject": subject, "version": version }))
            .collect();
        let mut answer = json!({ "schema": schema });
        if kind != "AVRO" {
            answer["schemaType"] = kind.into();
        }
        if !references.is_empty() {
            answer["references"] = references.into();
        }
        state.schemas.insert(id, answer);
        state.subjects.entry(subject.to_owned()).or_default().push(id);
        id
    }

    /// Makes the registry answer every request with this HTTP status. With `None`, the registry answers normally again.
    pub fn fail_with(&self, status: Option<u16>) {
        self.lock().failing = status;
    }

    /// Makes the registry answer 403 to requests for paths that begin with this prefix. `None` lifts the restriction.
    pub fn deny(&self, prefix: Option<&str>) {
        self.lock().denied = prefix.map(str::to_owned);
    }

    /// Makes the registry answer 401 unless the `Authorization` header has this value. `None` lifts the restriction.
    pub fn require(&self, authorization: Option<&str>) {
        self.lock().authorization = authorization.map(str::to_owned);
    }

    /// Returns the value of the record header `__value_schema_id`, in which serializers name a schema by its GUID. The value is
    /// the byte 1, and the 16 bytes of the GUID.
    pub fn guid_header(id: u32) -> Vec<u8> {
        [&[1][..], &guid(id)].concat()
    }

    /// Sets whether the registry knows no GUIDs, like registries before Confluent 8.0.
    pub fn without_guids(&self, without: bool) {
        self.lock().without_guids = without;
    }

    /// Returns the paths of all requests so far, the oldest first.
    pub fn asked(&self) -> Vec<String> {
        self.lock().asked.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, mut connection: TcpStream) -> Result<()> {
        let Some(config) = self.lock().tls.clone() else { return self.serve(&mut connection) };
        let mut stream = StreamOwned::new(ServerConnection::new(config)?, connection);
        self.serve(&mut stream)?;
        stream.conn.send_close_notify();
        Ok(stream.flush()?)
    }

    fn serve(&self, connection: &mut (impl Read + Write)) -> Result<()> {
        let mut lines = BufReader::new(&mut *connection).lines();
        let path = lines.next().transpose()?.unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
        let mut authorization = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.to_owned());
            }
        }
        let (status, body) = self.answer(&path, authorization.as_deref());
        let body = body.to_string();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n");
        let length = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        connection.write_all((head + &length + &body).as_bytes())?;
        Ok(())
    }

    fn answer(&self, path: &str, authorization: Option<&str>) -> (u16, Value) {
        let mut state = self.lock();
        state.asked.push(path.to_owned());
        if let Some(status) = state.failing {
            return (
                status,
                json!({ "error_code": u32::from(status) * 100 + 1, "message": "Error in the backend data store" }),
            );
        }
        if state.denied.as_deref().is_some_and(|prefix| path.starts_with(prefix)) {
            return (403, json!({ "error_code": 40301, "message": "Forbidden" }));
        }
        if state.authorization.is_some() && state.authorization.as_deref() != authorization {
            return (401, json!({ "error_code": 401, "message": "Unauthorized" }));
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["schemas", "ids", id] => match id.parse().ok().and_then(|id: u32| state.schemas.get(&id)) {
                Some(answer) => (200, answer.clone()),
                None => (404, json!({ "error_code": 40403, "message": format!("Schema {id} not found") })),
            },
            ["schemas", "ids", id, "versions"] => {
                let id: Option<u32> = id.parse().ok();
                let places = state.subjects.iter().flat_map(|(subject, ids)| {
                    let own = (1..).zip(ids).filter(|(_, own)| Some(**own) == id);
                    own.map(move |(version, _)| json!({ "subject": subject, "version": version }))
                });
                (200, Value::Array(places.collect()))
            }
            ["subjects", subject, "versions"] => match state.subjects.get(*subject) {
                Some(ids) => (200, json!((1..=ids.len()).collect::<Vec<_>>())),
                None => (404, json!({ "error_code": 40401, "message": format!("Subject '{subject}' not found.") })),
            },
            ["schemas", "guids", guid] => {
                let known = state.schemas.iter().find(|(id, _)| guid_text(**id) == *guid);
                match known.filter(|_| !state.without_guids) {
                    Some((_, answer)) => (200, answer.clone()),
                    None if state.without_guids => (404, json!({ "error_code": 404, "message": "HTTP 404 Not Found" })),
                    None => (404, json!({ "error_code": 40403, "message": format!("Schema {guid} not found") })),
                }
            }
            ["subjects", subject, "versions", version] => {
                let Some(ids) = state.subjects.get(*subject) else {
                    return (404, json!({ "error_code": 40401, "message": format!("Subject '{subject}' not found.") }));
                };
                let id = version.parse::<usize>().ok().and_then(|version| ids.get(version.checked_sub(1)?));
                match id.and_then(|id| Some((id, state.schemas.get(id)?))) {
                    Some((id, answer)) => {
                        let mut answer = answer.clone();
                        answer["id"] = (*id).into();
                        answer["subject"] = (*subject).into();
                        (200, answer)
                    }
                    None => (404, json!({ "error_code": 40402, "message": "Version not found." })),
                }
            }
            _ => (404, json!({ "error_code": 404, "message": "HTTP 404 Not Found" })),
        }
    }
}

/// Returns the GUID of a schema: sixteen bytes, which differ for each schema. A reader that reverses the bytes would get another
/// GUID, so a test notices the mistake.
fn guid(id: u32) -> [u8; 16] {
    let mut guid = *b"\xf0\x0d\xba\xbe\x01\x23\x45\x67\x89\xab\xcd\xef\0\0\0\0";
    guid[12..].copy_from_slice(&id.to_be_bytes());
    guid
}

fn guid_text(id: u32) -> String {
    let digits: String = guid(id).iter().map(|byte| format!("{byte:02x}")).collect();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
