//! Checks the parameters of a Postgres URL. The driver would ignore an unknown parameter, and log it with its value at
//! each connection. This module reports it as a fault. The fault's text repeats no value, except the path of a file that can't
//! be read.

use std::path::Path;

use super::fault::nearest;

/// The supported parameters. Parameters of the form `options[NAME]` are supported too.
const KNOWN: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
];
const FILES: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];
const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Returns what is wrong with a URL's parameters or with how its password is written, without any value that may be secret.
pub(crate) fn fault(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    if is_password_unescaped(rest) {
        return Some(
            "a password in a URL is written with percent-encoding (@ is %40, / is %2F, # is %23, ? is %3F, % is %25); or put it in postgres.password_file as it is"
                .to_owned(),
        );
    }
    let (_, query) = rest.split_once('?')?;
    query.split('&').filter(|parameter| !parameter.is_empty()).find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        of_parameter(key, value)
    })
}

/// Returns a URL without its password; `None` if it has no password. Passwords are in the user information, or in the
/// parameter `password`.
pub(crate) fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let authority = rest.split('/').next().unwrap_or(rest);
    let user_end = authority.rfind('@').unwrap_or(0);
    let user = authority[..user_end].split(':').next().unwrap_or("");
    let kept: Vec<&str> = query.into_iter().flat_map(|query| query.split('&')).collect();
    let kept: Vec<&str> = kept.into_iter().filter(|parameter| !parameter.starts_with("password=")).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    let bare = format!("{scheme}://{user}{}{query}", &rest[user_end..]);
    (bare != url).then_some(bare)
}

fn of_parameter(key: &str, value: &str) -> Option<String> {
    let is_known = KNOWN.contains(&key) || key.starts_with("options[") || key.starts_with("options%5B");
    if !is_known {
        // A parameter without `=` may be a secret, so it is named only if it looks like a parameter's name.
        let is_name = key.len() <= 40 && key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte));
        return Some(match nearest(key, KNOWN.iter().copied()) {
            Some(meant) if is_name => format!("parameter `{key}` is not supported; did you mean `{meant}`?"),
            _ if is_name => format!("parameter `{key}` is not supported, and would have no effect; leave it out"),
            _ => "it has a parameter that is not supported; does a `&` or `?` in a value need percent-encoding?"
                .to_owned(),
        });
    }
    if matches!(key, "sslmode" | "ssl-mode") && !SSL_MODES.contains(&value) {
        let dashed = value.replace('_', "-");
        return Some(match SSL_MODES.iter().find(|mode| **mode == dashed) {
            Some(mode) => format!("{key} is written `{mode}`"),
            None => format!("{key} is one of {}", SSL_MODES.join(", ")),
        });
    }
    if FILES.contains(&key) && !value.contains('%') && !value.starts_with("-----") {
        let error = std::fs::File::open(Path::new(value)).err()?;
        return Some(format!("{key} names a file that can't be read: {value}: {error}"));
    }
    None
}

/// Returns whether the password contains an unescaped character that ends the password too early. `rest` is the URL after
/// `://`.
fn is_password_unescaped(rest: &str) -> bool {
    // In `u:p@h/d?user=a@b` the last `@` belongs to a parameter. In `u:p?x@h/d` there is no `@` or `/` before the `?`, so the `?`
    // belongs to the password.
    let Some(at) = rest.rfind('@') else { return false };
    let Some(first) = rest.find(['/', '?', '#', '@']) else { return false };
    let before_query = rest.find('?').is_none_or(|query| at < query || !rest[..query].contains(['@', '/']));
    first < at && before_query && rest[..first].contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_reads_is_no_fault() {
        for url in [
            "postgres://u@h/d",
            "postgres://u:p%40ss@h:5432/d?sslmode=verify-full&application_name=x",
            "postgresql://u@h/d?host=/var/run/postgresql&options[geqo]=off",
            "postgres://u:p@h/d?user=a@b",
        ] {
            assert_eq!(fault(url), None, "{url}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, bare) in [
            ("postgres://a:secret@h:5432/db?sslmode=require", Some("postgres://a@h:5432/db?sslmode=require")),
            ("postgres://a:se%40cret@h,i/db?password=secret&user=b", Some("postgres://a@h,i/db?user=b")),
            ("postgres://a:secret@%2Frun%2Fpostgres/db", Some("postgres://a@%2Frun%2Fpostgres/db")),
            ("postgres:///db?password=secret", Some("postgres:///db")),
            ("https://:token@registry/path", Some("https://@registry/path")),
            ("postgres://a@h/db", None),
            ("https://registry:8081", None),
        ] {
            assert_eq!(without_password(url).as_deref(), bare, "{url}");
        }
    }

    #[test]
    fn no_fault_shows_a_value() {
        for (url, words) in [
            ("postgres://u@h/d?sslpassword=CANARY", "`sslpassword` is not supported"),
            ("postgres://u@h/d?pasword=CANARY", "did you mean `password`?"),
            ("postgres://u@h/d?channel_binding=CANARY", "`channel_binding` is not supported"),
            ("postgres://u@h/d?CANARY", "a parameter that is not supported"),
            ("postgres://u@h/d?sslmode=CANARY", "sslmode is one of disable"),
            ("postgres://u@h/d?sslmode=verify_full", "`verify-full`"),
            ("postgres://u@h/d?sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem"),
            ("postgres://u:CANARY@CANARY/w0rd#1@h/d", "percent-encoding"),
            ("postgres://u:CANARY/x@h/d", "percent-encoding"),
            ("postgres://u:CANARY#x@h/d", "percent-encoding"),
            ("postgres://u:CANARY?x@h/d", "percent-encoding"),
        ] {
            let fault = fault(url).unwrap_or_else(|| panic!("{url} has a fault"));
            assert!(fault.contains(words) && !fault.contains("CANARY"), "{url}: {fault}");
        }
    }
}
