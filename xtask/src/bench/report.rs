//! Puts what was measured into the documents: between marks there, so that nobody copies figures by hand.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};

use super::overhead;
use crate::command;

/// Which document takes what, between `<!-- bench NAME -->` and `<!-- end -->`.
const DOCUMENTS: [&str; 2] = ["docs/performance.md", "README.md"];

/// Brings the documents up to date with all results there are in a directory. What was not measured stays as it is.
///
/// # Errors
/// If a document cannot be read or written, or a mark has no end.
pub fn write(results: &Path) -> Result<()> {
    for document in DOCUMENTS {
        let path = command::root().join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {document}"))?;
        let new = fill(&text, |name| {
            if name == "summary" {
                overhead::summary(&results.join("overhead.json"))
            } else {
                let path = results.join(format!("{name}.md"));
                Ok(fs::read_to_string(path).ok())
            }
        })
        .with_context(|| format!("in {document}"))?;
        if new != text {
            fs::write(&path, new).with_context(|| format!("cannot write {document}"))?;
            println!("wrote {document}");
        }
    }
    Ok(())
}

/// Replaces what stands between marks by what there is for their names.
fn fill(text: &str, mut part: impl FnMut(&str) -> Result<Option<String>>) -> Result<String> {
    const BEGIN: &str = "<!-- bench ";
    const END: &str = "<!-- end -->";
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, marked) = rest.split_at(at);
        let (Some(close), Some(end)) = (marked.find("-->"), marked.find(END)) else {
            bail!("a mark `{BEGIN}` has no `{END}`");
        };
        let name = marked[BEGIN.len()..close].trim();
        let old = &marked[close + 3..end];
        filled.push_str(before);
        filled.push_str(&marked[..close + 3]);
        match part(name)? {
            Some(new) => write!(filled, "\n{}\n\n", new.trim_end())?,
            None => filled.push_str(old),
        }
        filled.push_str(END);
        rest = &marked[end + END.len()..];
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_is_replaced() {
        let text =
            "a\n<!-- bench one -->\nold\n<!-- end -->\nb\n<!-- bench two -->\nkept\n<!-- end -->\n";
        let new = fill(text, |name| Ok((name == "one").then(|| "| new |\n".into()))).unwrap();
        assert_eq!(
            new,
            "a\n<!-- bench one -->\n| new |\n\n<!-- end -->\nb\n<!-- bench two -->\nkept\n<!-- end -->\n"
        );
        let again = fill(&new, |name| Ok((name == "one").then(|| "| new |\n".into()))).unwrap();
        assert_eq!(again, new, "filling again changes nothing");
    }

    #[test]
    fn a_mark_without_an_end_is_told() {
        assert!(fill("<!-- bench one -->\n", |_| Ok(None)).is_err());
    }
}
