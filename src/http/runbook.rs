//! Serves the runbook of this version at `/runbook`, so that the page's links to it work even if no other site can be reached.
//! Headings, code, and links to sections of the runbook become HTML. The rest is shown as plain text.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const TEXT: &str = include_str!("../../docs/runbook.md");

/// Returns the whole runbook. The id of each section is its heading's anchor.
pub(super) async fn answer() -> Response {
    let head = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
                content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><title>tidegate \
                runbook</title><link rel=\"icon\" href=\"/favicon.svg\" type=\"image/svg+xml\"><link rel=\"stylesheet\" \
                href=\"/page.css\"></head>\n<body><main id=\"runbook\"><p><a href=\"/\">the live page</a></p>\n";
    let page = format!("{head}{}</main></body></html>\n", body(TEXT));
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], page).into_response()
}

/// Returns a heading's anchor, in the form that code forges use.
pub(super) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn body(markdown: &str) -> String {
    let mut html = String::new();
    let mut open = false;
    for line in markdown.lines() {
        let heading =
            line.strip_prefix("## ").map(|text| ("h2", text)).or(line.strip_prefix("# ").map(|text| ("h1", text)));
        match heading {
            Some((tag, text)) => {
                html.push_str(if open { "</pre></section>\n" } else { "" });
                html.push_str(&format!("<section id=\"{}\"><{tag}>{}</{tag}><pre>", anchor(text), inline(text)));
                open = true;
            }
            None => {
                html.push_str(&inline(line));
                html.push('\n');
            }
        }
    }
    html.push_str(if open { "</pre></section>\n" } else { "" });
    html
}

/// Converts one line to HTML: code and links within the runbook become elements, links to other documents become plain text, and
/// all text is escaped.
fn inline(line: &str) -> String {
    let mut html = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(['`', '[']) {
        html.push_str(&super::assets::escape(&rest[..at]));
        let (found, after) = match element(&rest[at..]) {
            Some(found) => found,
            None => (super::assets::escape(&rest[at..=at]), &rest[at + 1..]),
        };
        html.push_str(&found);
        rest = after;
    }
    html.push_str(&super::assets::escape(rest));
    html
}

/// If the text begins with code or a link, returns that element and the text after it.
fn element(text: &str) -> Option<(String, &str)> {
    if let Some(code) = text.strip_prefix('`') {
        let (code, after) = code.split_once('`')?;
        return Some((format!("<code>{}</code>", super::assets::escape(code)), after));
    }
    let (label, after) = text.strip_prefix('[')?.split_once("](")?;
    let (target, after) = after.split_once(')')?;
    let (label, target) = (super::assets::escape(label), super::assets::escape(target));
    // Links to other documents become plain text, because the binary contains only the runbook.
    let html = match target.strip_prefix('#') {
        Some(section) => format!("<a href=\"#{section}\">{label}</a>"),
        None => format!("{label} (docs/{target})"),
    };
    Some((html, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_anchors_and_links_lead_to_them() {
        let html = body("## The 1st <b>\nSee [it](#the-1st-b), [more](x.md) and `a < b`.");
        assert_eq!(
            html,
            "<section id=\"the-1st-b\"><h2>The 1st &lt;b&gt;</h2><pre>See <a href=\"#the-1st-b\">it</a>, more (docs/x.md) and \
             <code>a &lt; b</code>.\n</pre></section>\n"
        );
        assert_eq!(inline("a [b and `c"), "a [b and `c");
    }

    #[test]
    fn every_link_within_the_runbook_leads_to_a_section() {
        let html = body(TEXT);
        let links: Vec<&str> = html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > 5, "{links:?}");
        for link in links {
            assert!(html.contains(&format!("<section id=\"{link}\">")), "#{link}");
        }
    }
}
