//! Remedies for a connection that Postgres or TLS refuses, and for statements that Postgres refuses.

use tidegate_protocol::store::{Cause, PostgresError};

/// Parts of error texts of rustls and sqlx, each with its remedy. The first match counts. Only the texts tell the causes apart,
/// because these errors have no kinds.
const BY_TEXT: &[(&str, &str)] = &[
    (
        "UnknownIssuer",
        "the server's certificate is signed by an authority that is not trusted: name the authority's certificate in \
         `sslrootcert` of the URL, or add it to those of the system",
    ),
    ("not valid for name", WRONG_NAME),
    ("NotValidForName", WRONG_NAME),
    ("expired", "renew the server's certificate, or set this machine's clock right"),
    ("Expired", "renew the server's certificate, or set this machine's clock right"),
    ("NotValidYet", "the server's certificate is not valid yet: set this machine's clock right"),
    (
        "UnsupportedCertVersion",
        "a certificate has version 1 of X.509, which is too old: sign the server's certificate (or ours, in `sslcert` of the \
         URL) again with a subjectAltName, which makes it version 3",
    ),
    (
        "CaUsedAsEndEntity",
        "the server uses the certificate of an authority (CA:TRUE) as its own, which libpq accepts and Tidegate doesn't: sign \
         a certificate with CA:FALSE for the server, and name the authority's in `sslrootcert` of the URL",
    ),
    (
        "KeyMismatch",
        "the key in `sslkey` of the URL doesn't belong to the certificate in `sslcert`: name both files of one pair",
    ),
    (
        "no keys found pem file",
        "`sslkey` of the URL must name a key in PEM without a password: openssl pkey -in KEY -out KEY_WITHOUT_PASSWORD",
    ),
    ("certs must be given together", "the URL needs both `sslcert` and `sslkey`, or neither"),
    ("server does not support TLS", "set `ssl = on` at the server, or another `sslmode` in the URL"),
    (
        "received fatal alert",
        "the server refuses our side of TLS: check the client certificate in `sslcert` and `sslkey` of the URL",
    ),
];

const WRONG_NAME: &str = "connect by a host name that the server's certificate is for; `sslmode=verify-ca` checks the name too, \
                          unlike in libpq";

/// Adds a remedy, if one is known, to the error of a connection that could not be opened.
pub(super) fn add(cause: &mut Cause) {
    match cause {
        Cause::Connection(text) => {
            if let Some((_, remedy)) = BY_TEXT.iter().find(|(part, _)| text.contains(part)) {
                *text = format!("{text}; {remedy}");
            }
        }
        Cause::Postgres(error) => error.note = error.note.take().or_else(|| of(error).map(str::to_owned)),
        Cause::NotContacted(_) | Cause::Deadline(..) | Cause::NoPartition(_) | Cause::Conflict(_) => {}
    }
}

/// Returns whether `add` has added a remedy to the text of a failed connection.
pub fn is_known(cause: &Cause) -> bool {
    matches!(cause, Cause::Connection(text) if BY_TEXT.iter().any(|(_, remedy)| text.ends_with(remedy)))
}

/// Returns what to do about a statement that Postgres refuses with this SQLSTATE.
pub(super) fn of_statement(sqlstate: &str, message: &str) -> Option<&'static str> {
    // The error has no field for the missing object's schema. So look for the schema in the message: names in messages
    // aren't translated.
    let is_ours = message.contains("\"tidegate\"") || message.contains("tidegate.");
    match sqlstate {
        "42501" => Some("grant the right: `tidegate check` prints the statements that the daemon needs"),
        // A schema, table or function that doesn't exist.
        "3F000" | "42P01" | "42883" if is_ours => Some(
            "the ledger in schema `tidegate`, which says what is written, is gone: restore the schema from a backup; a start without it reads the topics from the beginning, and writes rows again",
        ),
        _ => None,
    }
}

fn of(error: &PostgresError) -> Option<&'static str> {
    let text = error.message.as_str();
    // All refusals by pg_hba.conf have SQLSTATE 28000 and the same routine, so only the message tells them apart. If the server
    // speaks another language, the general remedy is given.
    Some(match error.sqlstate.as_str() {
        "28P01" => {
            "check the user and the password in `postgres.url`, `postgres.password_file` or `postgres.password_command`"
        }
        "28000" if text.contains("client certificate") => {
            "name a client certificate in `sslcert` and `sslkey` of the URL, with the user as its common name"
        }
        "28000" if text.starts_with("certificate authentication failed") => {
            "the common name of the certificate in `sslcert` must be the user of the URL, or pg_ident.conf must map it"
        }
        "28000" if text.ends_with("does not exist") => "create the role, or correct the user in `postgres.url`",
        "28000" if text.contains("no encryption") => {
            "the server accepts this user only with TLS: write sslmode=require or stricter in the URL"
        }
        "28000" => "allow this user from this address in the server's pg_hba.conf, or check the user in `postgres.url`",
        "3D000" => "create the database, or name another one in `postgres.url`",
        "53300" => "wait, or raise `max_connections`",
        _ => return None,
    })
}
