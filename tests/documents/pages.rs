//! The documents, taken apart: fenced blocks, code in the text, links and headings.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A Markdown file.
pub(crate) struct Page {
    /// Path from the root of the repository.
    pub(crate) path: PathBuf,
    pub(crate) fences: Vec<Fence>,
    /// The paragraphs between fenced blocks.
    paragraphs: Vec<String>,
    headings: Vec<String>,
}

/// A fenced block.
pub(crate) struct Fence {
    /// Line of its first fence, from 1.
    pub(crate) line: usize,
    /// The words after the first fence: the language, and what kind of it.
    pub(crate) info: String,
    pub(crate) text: String,
    /// The heading above it.
    pub(crate) chapter: String,
}

impl Page {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap();
        Self::parse(path.to_owned(), &text)
    }

    fn parse(path: PathBuf, text: &str) -> Self {
        let mut page =
            Self { path, fences: Vec::new(), paragraphs: vec![String::new()], headings: Vec::new() };
        let mut open: Option<(Fence, usize)> = None;
        for (number, line) in text.lines().enumerate() {
            let inner = line.trim_start();
            let indent = line.len() - inner.len();
            if let Some((mut fence, margin)) = open.take() {
                if inner.starts_with("```") {
                    page.fences.push(fence);
                } else {
                    fence.text.push_str(line.get(margin.min(indent)..).unwrap());
                    fence.text.push('\n');
                    open = Some((fence, margin));
                }
                continue;
            }
            if let Some(info) = inner.strip_prefix("```") {
                let chapter = page.headings.last().cloned().unwrap_or_default();
                let fence =
                    Fence { line: number + 1, info: info.trim().to_owned(), text: String::new(), chapter };
                open = Some((fence, indent));
                page.paragraphs.push(String::new());
                continue;
            }
            if let Some(heading) = line.strip_prefix('#') {
                page.headings.push(heading.trim_start_matches('#').trim().to_owned());
            }
            // A row of a table, like a blank line, begins a new paragraph: code does not go on across it.
            if inner.is_empty() || inner.starts_with('|') || inner.starts_with("* ") {
                page.paragraphs.push(String::new());
            }
            let paragraph = page.paragraphs.last_mut().unwrap();
            paragraph.push_str(line);
            paragraph.push('\n');
        }
        assert!(open.is_none(), "{}: a block is not closed", page.path.display());
        page
    }

    /// Returns the code in the text, between single backticks.
    pub(crate) fn code(&self) -> impl Iterator<Item = &str> {
        self.paragraphs.iter().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2))
    }

    /// Returns the targets of all links.
    pub(crate) fn links(&self) -> impl Iterator<Item = String> {
        self.paragraphs.iter().flat_map(|paragraph| {
            let plain: String = paragraph.split('`').step_by(2).collect();
            let targets = plain.split("](").skip(1);
            targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect::<Vec<_>>()
        })
    }

    /// Returns the anchors of the headings, as GitHub makes them.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut counts = BTreeMap::new();
        let anchors = self.headings.iter().map(|heading| {
            // Of a link, only its text is shown.
            let mut parts = heading.split("](");
            let first = parts.next().unwrap_or_default();
            let shown: String = std::iter::once(first)
                .chain(parts.filter_map(|part| Some(part.split_once(')')?.1)))
                .collect();
            let shown = shown.to_lowercase();
            let kept = shown.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor = kept.collect::<String>().replace(' ', "-");
            let count = counts.entry(anchor.clone()).or_insert(0_u32);
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        });
        anchors.collect()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all documents of the repository.
pub(crate) fn all() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders = vec![PathBuf::from("docs"), PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            } else if folder.starts_with("docs") && root().join(&path).is_dir() {
                folders.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# A `b` c\n\nSee [x](a.md#y), `one\ntwo` and [`z`](b.md).\n\n  ```sh run\n  ls\n    -l\n  ```\n\n\
                ## 10× (a) [of](x.md) it's\n## Same\n## Same\n";
    let page = Page::parse("x.md".into(), text);
    let fence = &page.fences[0];
    assert_eq!(
        (fence.line, &*fence.info, &*fence.text, &*fence.chapter),
        (6, "sh run", "ls\n  -l\n", "A `b` c")
    );
    assert_eq!(page.code().collect::<Vec<_>>(), ["b", "one\ntwo", "z"]);
    assert_eq!(page.links().collect::<Vec<_>>(), ["a.md#y", "b.md", "x.md"]);
    assert_eq!(page.anchors(), ["a-b-c", "10-a-of-its", "same", "same-1"]);
}
