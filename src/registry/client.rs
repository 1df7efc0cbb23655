//! The requests of the registry's REST interface that return schemas. Each request blocks.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidegate_rows::base64;
use tidegate_rows::schema::SchemaId;
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::config::{SchemaRegistry, SecretSource};
use crate::status::Trouble;
use crate::trust;

/// The most schemas to which a schema may refer, directly or indirectly.
const REFERENCES_MAX: usize = 1_000;
/// [`Client::versions`] looks at no more than this many versions of a subject, the newest ones.
const VERSIONS_MAX: usize = 20;
/// [`Client::versions`] looks at no more than this many subjects of a schema.
const SUBJECTS_MAX: usize = 5;
/// The largest answer that is read, in bytes.
const ANSWER_MAX: u64 = 16 << 20;
/// The beginning of the path with which a schema is requested by its GUID. The GUID follows.
const BY_GUID: &str = "/schemas/guids/";
/// The error codes "subject not found", "version not found" and "schema not found", in this order.
const NOT_FOUND: [u32; 3] = [40_401, 40_402, 40_403];

/// A schema, as the registry returns it.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) schema: String,
    /// The schema's kind. If it is absent, the schema is Avro.
    #[serde(rename = "schemaType")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
    /// The schemas that `references` name, and those to which they refer in turn, as pairs of name and schema. Each schema comes
    /// before the schemas that use it.
    #[serde(skip)]
    pub(super) uses: Vec<(String, String)>,
}

#[derive(Clone, Debug, Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i32,
}

/// A subject under which a schema is registered.
#[derive(Deserialize)]
struct Place {
    subject: String,
}

#[derive(Deserialize)]
struct Numbered {
    /// The number by which records name this version's schema.
    id: u32,
}

/// The registry's answer to a request that it can't serve.
#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
    message: String,
}

#[derive(Debug)]
pub(super) enum FetchError {
    /// The registry answered that the schema doesn't exist. The text is the registry's.
    Unknown(String),
    /// The schema exists, but can't be used.
    Unusable(String),
    /// The request failed, or its answer neither contains a schema nor says that the schema doesn't exist.
    Outage(Trouble),
}

#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    config: SchemaRegistry,
}

impl Client {
    pub(super) fn new(config: &SchemaRegistry) -> Result<Self, String> {
        let mut settings = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(config.timeout))
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .max_redirects(3);
        if config.url.starts_with("https://") {
            let roots = match &config.ca_file {
                Some(file) => trust::file("schema_registry.ca_file", file)?,
                None => trust::system(),
            };
            settings = settings.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: settings.build().new_agent(), config: config.clone() })
    }

    pub(super) fn schema(&self, id: SchemaId) -> Result<Document, FetchError> {
        let mut document: Document = self.get(&match id {
            SchemaId::Number(number) => format!("/schemas/ids/{number}"),
            SchemaId::Guid(_) => format!("{BY_GUID}{id}"),
        })?;
        let mut known = Vec::new();
        let mut uses = Vec::new();
        self.references(&document.references, &mut known, &mut uses)?;
        document.uses = uses;
        Ok(document)
    }

    /// Returns the numbers of all schemas that are registered under the subjects of schema `number`, without duplicates. Looks
    /// only at the first [`SUBJECTS_MAX`] subjects, and at the newest [`VERSIONS_MAX`] versions of each.
    ///
    /// # Errors
    /// At the first request that fails, and if requests are left at the deadline.
    pub(super) fn versions(&self, number: u32, deadline: Instant) -> Result<Vec<u32>, FetchError> {
        let places: Vec<Place> = self.get(&format!("/schemas/ids/{number}/versions"))?;
        let subjects: BTreeSet<&str> = places.iter().map(|place| place.subject.as_str()).collect();
        let mut numbers = Vec::new();
        for subject in subjects.into_iter().take(SUBJECTS_MAX) {
            let path = format!("/subjects/{}/versions", percent_encoded(subject));
            let versions: Vec<i32> = self.get(&path)?;
            for version in versions.iter().rev().take(VERSIONS_MAX) {
                if Instant::now() > deadline {
                    let why = "it answers too slowly";
                    return Err(FetchError::Outage(Trouble::registry(&self.config.url, &why)));
                }
                let Numbered { id } = self.get(&format!("{path}/{version}"))?;
                if !numbers.contains(&id) {
                    numbers.push(id);
                }
            }
        }
        Ok(numbers)
    }

    /// Requests the schemas that references name, and appends them to `uses`, each after the schemas to which it refers. `known`
    /// has the names that were requested already, and gets the new ones.
    fn references(
        &self,
        references: &[Reference],
        known: &mut Vec<String>,
        uses: &mut Vec<(String, String)>,
    ) -> Result<(), FetchError> {
        for Reference { name, subject, version } in references {
            if known.contains(name) {
                continue;
            }
            if known.len() >= REFERENCES_MAX {
                return Err(FetchError::Unusable(format!("it has more than {REFERENCES_MAX} references")));
            }
            known.push(name.clone());
            let path = format!("/subjects/{}/versions/{version}", percent_encoded(subject));
            let document: Document = match self.get(&path) {
                // The registry never deletes a schema to which another one refers. So the reference is wrong, and waiting doesn't
                // help.
                Err(FetchError::Unknown(why)) => {
                    let why = format!("its reference {name:?} (subject {subject:?}, version {version}): {why}");
                    return Err(FetchError::Unusable(why));
                }
                other => other?,
            };
            self.references(&document.references, known, uses)?;
            uses.push((name.clone(), document.schema));
        }
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, FetchError> {
        let url = &self.config.url;
        let outage = |why: String| FetchError::Outage(Trouble::registry(url, &why));
        let mut request = self.agent.get(format!("{url}{path}"));
        request = request.header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(header) = self.authorization().map_err(&outage)? {
            request = request.header("Authorization", header);
        }
        let mut response =
            request.call().map_err(|error| outage(trust::explained(&error, "schema_registry.ca_file")))?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
        let body = body.map_err(|error| outage(error.to_string()))?;
        if status == 200 {
            return serde_json::from_str(&body).map_err(|error| {
                outage(format!("its answer is not a schema registry's: {error}; is `schema_registry.url` right?"))
            });
        }
        let refusal: Option<Refusal> = serde_json::from_str(&body).ok();
        match refusal {
            Some(Refusal { error_code, message }) if status == 404 && NOT_FOUND.contains(&error_code) => {
                Err(FetchError::Unknown(format!("{message} ({error_code})")))
            }
            _ if status == 401 || status == 403 => Err(outage(format!(
                "it refuses access ({status}); check `schema_registry.username` and its password, or its token"
            ))),
            _ if status == 404 && path.starts_with(BY_GUID) => Err(outage(
                "records name their schemas by GUID, and this registry has no lookup by GUID (status 404); use a version that has it".to_owned(),
            )),
            Some(Refusal { message, .. }) => Err(outage(format!("status {status}: {message}"))),
            None if status == 404 => Err(outage("status 404; is `schema_registry.url` right?".to_owned())),
            None => Err(outage(format!("status {status}"))),
        }
    }

    /// Returns the value of the header `Authorization`; `None` if no token and no user is configured. Reads a secret's file again
    /// for each request, so that a rotated secret is picked up.
    fn authorization(&self) -> Result<Option<String>, String> {
        let read = |secret: &SecretSource, key: &str| match secret {
            SecretSource::Inline(secret) => Ok(secret.expose().to_owned()),
            SecretSource::File(file) => match std::fs::read_to_string(file) {
                Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(error) => Err(format!("`schema_registry.{key}` {}: {error}", file.display())),
            },
        };
        if let Some(token) = &self.config.token {
            return Ok(Some(format!("Bearer {}", read(token, "token_file")?)));
        }
        let Some(username) = &self.config.username else { return Ok(None) };
        let password = match &self.config.password {
            Some(password) => read(password, "password_file")?,
            None => String::new(),
        };
        let mut encoded = Vec::new();
        base64::encode(format!("{username}:{password}").as_bytes(), &mut encoded);
        Ok(Some(format!("Basic {}", String::from_utf8(encoded).unwrap_or_default())))
    }
}

fn percent_encoded(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #[test]
    fn subjects_may_have_any_name() {
        assert_eq!(super::percent_encoded("a/b c-value.é"), "a%2Fb%20c-value.%C3%A9");
    }
}
