//! The page at `/`: a few static files, none from another host.
//!
//! The charts use uPlot 1.6.32, as built by its authors, with its licence beside it.

use http::HeaderValue;

/// Content security policy of every response: scripts, styles and images only as files of this
/// port, requests only to it, nothing inline.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

pub(super) const fn policy() -> HeaderValue {
    POLICY
}

/// Static file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageFile {
    path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const FILES: [PageFile; 12] = [
    PageFile { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("index.html") },
    PageFile { path: "/page.css", content_type: STYLE, text: include_str!("page.css") },
    PageFile { path: "/page.js", content_type: SCRIPT, text: include_str!("page.js") },
    PageFile { path: "/charts.js", content_type: SCRIPT, text: include_str!("charts.js") },
    PageFile { path: "/listen.js", content_type: SCRIPT, text: include_str!("listen.js") },
    PageFile { path: "/tables.js", content_type: SCRIPT, text: include_str!("tables.js") },
    PageFile { path: "/verdict.js", content_type: SCRIPT, text: include_str!("verdict.js") },
    PageFile { path: "/times.js", content_type: SCRIPT, text: include_str!("times.js") },
    PageFile { path: "/icon.svg", content_type: "image/svg+xml", text: include_str!("icon.svg") },
    PageFile { path: "/uplot.js", content_type: SCRIPT, text: include_str!("uplot.js") },
    PageFile { path: "/uplot.css", content_type: STYLE, text: include_str!("uplot.css") },
    PageFile {
        path: "/uplot.txt",
        content_type: "text/plain; charset=utf-8",
        text: include_str!("uplot.LICENSE"),
    },
];

pub(super) fn file(path: &str) -> Option<PageFile> {
    FILES.into_iter().find(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_has_nothing_that_the_policy_forbids() {
        let page = file("/").unwrap().text;
        for (index, _) in page.match_indices("=\"/") {
            let path = page[index + 2..].split('"').next().unwrap();
            let known = file(path).is_some() || ["/metrics", "/api/v1/state"].contains(&path);
            assert!(known, "{path} is linked and not there");
        }
        for foreign in ["http://", "https://", " style=", "<style", "<script>", " onclick"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        for script in ["/page.js", "/charts.js", "/listen.js", "/tables.js", "/times.js", "/verdict.js"] {
            let text = file(script).unwrap().text;
            for dangerous in ["innerHTML", "eval(", "http://", "https://", "document.write"] {
                assert!(!text.contains(dangerous), "{script}: {dangerous}");
            }
        }
    }
}
