//! A minimal HTTP client: one GET request at a time, with only as much of the protocol as requests to Tidegate's daemon need.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

const DEADLINE: Duration = Duration::from_secs(10);
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// Sends a GET request for `path` to `address` (`host:port`), and returns the response. With HTTP/1.0, the connection ends after
/// the body.
///
/// # Errors
/// If nobody listens at `address`, if no byte arrives for ten seconds, or if the answer isn't HTTP.
pub fn get(address: &str, path: &str) -> Result<Response> {
    let ask = || -> Result<Response> {
        let mut connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(DEADLINE))?;
        connection.set_write_timeout(Some(DEADLINE))?;
        connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        connection.take(MAX_BYTES).read_to_end(&mut answer)?;
        parse(&String::from_utf8_lossy(&answer)).context("the answer is no HTTP")
    };
    ask().with_context(|| format!("could not get http://{address}{path}"))
}

fn parse(answer: &str) -> Option<Response> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

/// Sums those series of a metrics page that have the name `name` and all of `labels`. Returns `None` if there is no such series.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let matching = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(inside) => split_labels(inside)?,
            None => (Vec::new(), rest.strip_prefix(' ')?),
        };
        let carries = labels.iter().all(|(key, value)| found.iter().any(|(k, v)| k == key && v == value));
        if carries { value.split_whitespace().next()?.parse::<f64>().ok() } else { None }
    });
    matching.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// Splits `a="1",b="x\"y"} 5` into the labels and the text after the brace.
fn split_labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        text = loop {
            match characters.next()? {
                (at, '"') => break &rest[at + 1..],
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.to_owned(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# TYPE rows counter\nrows{pipeline=\"a\",kind=\"x\"} 3\nrows{pipeline=\"b, \\\"c}\\\"\"} 4\nrows_total 9\n";

    #[test]
    fn a_metric_is_the_sum_of_the_series_that_carry_the_labels() {
        assert_eq!(metric(TEXT, "rows", &[]), Some(7.0));
        assert_eq!(metric(TEXT, "rows", &[("pipeline", "a")]), Some(3.0));
        assert_eq!(metric(TEXT, "rows", &[("pipeline", "b, \"c}\"")]), Some(4.0));
        assert_eq!(metric(TEXT, "rows_total", &[]), Some(9.0));
    }

    #[test]
    fn a_series_that_is_not_there_is_none() {
        assert_eq!(metric(TEXT, "row", &[]), None);
        assert_eq!(metric(TEXT, "rows", &[("pipeline", "z")]), None);
    }

    #[test]
    fn an_answer_is_taken_apart_into_status_and_body() {
        let answer = "HTTP/1.0 503 Service Unavailable\r\ncontent-type: text/plain\r\n\r\nnot yet\r\n\r\nreally";
        assert_eq!(parse(answer), Some(Response { status: 503, body: "not yet\r\n\r\nreally".to_owned() }));
    }
}
