//! The page's files, embedded in the binary.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::Site;

const INDEX: &str = include_str!("page/index.html");
/// The placeholder in the page. It is replaced by a snapshot: the current state in plain text.
const SNAPSHOT: &str = "<!-- snapshot -->";

/// The path, content type and content of each file. uPlot is vendored from its npm package, with its licence.
const FILES: [(&str, &str, &str); 7] = [
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/chart.js", "text/javascript; charset=utf-8", include_str!("page/chart.js")),
    ("/uplot.js", "text/javascript; charset=utf-8", include_str!("page/uplot.js")),
    ("/uplot.css", "text/css; charset=utf-8", include_str!("page/uplot.css")),
    ("/uplot.LICENSE", "text/plain; charset=utf-8", include_str!("page/uplot.LICENSE")),
    ("/favicon.svg", "image/svg+xml", include_str!("page/favicon.svg")),
];

pub(super) fn routes() -> Router<Arc<Site>> {
    FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        let file = move || async move {
            // Without this header, a browser could combine cached files of an older version with data of this version.
            ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")], *content).into_response()
        };
        router.route(path, get(file))
    })
}

/// Returns the page's HTML with `snapshot` inserted, which is plain text and is escaped.
pub(super) fn index(snapshot: &str) -> String {
    INDEX.replacen(SNAPSHOT, &escape(snapshot), 1)
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_can_hold_anything_and_is_text_all_the_same() {
        let page = index("</pre><script>alert(1)</script> & \"quoted\"");
        assert!(page.contains("&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quoted&quot;"));
        assert!(!page.contains("<script>alert"));
        assert!(!page.contains(SNAPSHOT));
    }

    #[test]
    fn nothing_in_the_page_runs_inline_or_leaves_its_origin() {
        for text in [INDEX, FILES[0].2, FILES[1].2, FILES[2].2] {
            for forbidden in [
                " style=\"",
                " onclick",
                " onload",
                "javascript:",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "@import",
            ] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
            let foreign = text
                .match_indices("://")
                .filter(|(at, _)| !text[..*at].ends_with("http") || !text[*at..].starts_with("://www.w3.org/"));
            assert_eq!(foreign.count(), 0, "a URL of another origin");
        }
        assert_eq!(
            INDEX.matches("<script").count(),
            INDEX.matches("<script defer src=\"").count() + INDEX.matches("<script type=\"module\" src=\"").count()
        );
    }
}
